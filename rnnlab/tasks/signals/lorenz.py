"""The Lorenz system: three chaotic variables."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from rnnlab.tasks.signals.base import Simulated

STEP = 0.01
"""Step size of the Runge-Kutta method."""
STEPS_PER_SAMPLE = 2
TRANSIENT = 1000
"""Number of initial samples that are discarded."""
STARTS = {"train": (1.0, 1.0, 1.0), "valid": (2.0, 1.0, 1.0), "test": (3.0, 1.0, 1.0)}
"""Initial values of x, y and z for each split."""


class Lorenz(Simulated):
    """Forecast the Lorenz system (Lorenz, 1963, J. Atmos. Sci. 20, p. 130).

        dx/dt = 10 (y - x)
        dy/dt = x (28 - z) - y
        dz/dt = x y - 8/3 z

    Inputs and targets are all three variables, sampled every 0.02 units of time. A small error doubles about every 0.77
    units of time, or 38 samples. The Runge-Kutta method uses a step size of 0.01, and the first 1000 samples are
    discarded. A window of four steps with horizon=2 and washout=1, in which each x is a vector (x, y, z):

        inputs   x0  x1  x2  x3
        targets   -  x3  x4  x5        - is not scored

    Predicting the mean has an error of about 1; the other baseline is persistence.

    Args:
        seed, data_root, horizon, washout, seq_len, batch_size, train_steps, eval_steps: see `Simulated`.
    """

    channels = 3

    def simulate(self, split: str, steps: int) -> Tensor:
        """The solution after the transient, see `solve`."""
        return solve(STARTS[split], TRANSIENT + steps)[TRANSIENT:]


@lru_cache(maxsize=8)
def solve(start: tuple[float, float, float], samples: int) -> Tensor:
    """The solution at the first ``samples`` times, float64 ``[samples, 3]``, by the classical Runge-Kutta method.

    The arithmetic uses Python floats, whose rounding is the same on all platforms: in a chaotic system, any rounding
    difference would lead to a different series.
    """
    x, y, z = start
    points = [start]
    for _ in range(samples - 1):
        for _ in range(STEPS_PER_SAMPLE):
            a1, b1, c1 = _slope(x, y, z)
            a2, b2, c2 = _slope(x + STEP / 2 * a1, y + STEP / 2 * b1, z + STEP / 2 * c1)
            a3, b3, c3 = _slope(x + STEP / 2 * a2, y + STEP / 2 * b2, z + STEP / 2 * c2)
            a4, b4, c4 = _slope(x + STEP * a3, y + STEP * b3, z + STEP * c3)
            x += STEP / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
            y += STEP / 6 * (b1 + 2 * b2 + 2 * b3 + b4)
            z += STEP / 6 * (c1 + 2 * c2 + 2 * c3 + c4)
        points.append((x, y, z))
    return torch.tensor(points, dtype=torch.float64)


def _slope(x: float, y: float, z: float) -> tuple[float, float, float]:
    return 10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z
