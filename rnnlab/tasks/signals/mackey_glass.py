"""The Mackey-Glass series: the chaotic solution of a delay differential equation."""

from __future__ import annotations

from functools import lru_cache, partialmethod
from typing import Any

import torch
from torch import Tensor

from rnnlab.interface import InputError
from rnnlab.tasks.signals.base import Simulated

STEPS_PER_SAMPLE = 10
"""Number of Runge-Kutta steps per sample, that is, per unit of time."""
TRANSIENT = 1000
"""Number of initial samples that are discarded."""
STARTS = {"train": 1.2, "valid": 1.1, "test": 1.3}
"""The constant value of the signal up to time 0, for each split."""


class MackeyGlass(Simulated):
    """Forecast the Mackey-Glass series (Mackey and Glass, 1977, Science 197, p. 287).

        dx/dt = 0.2 x(t - τ) / (1 + x(t - τ)^10) - 0.1 x(t)

    The series is chaotic for τ > 16.8; usual values are τ = 17 (mildly chaotic) and τ = 30, with one sample per unit of
    time (Jaeger and Haas, 2004, Science 304, p. 78, who forecast 84 steps ahead). The Runge-Kutta method uses a step
    size of 0.1, and the first 1000 samples are discarded. A window of four steps with horizon=2 and washout=1:

        inputs   x0  x1  x2  x3
        targets   -  x3  x4  x5        - is not scored

    Predicting the mean has an error of about 1; the other baseline is persistence.

    Args:
        seed, data_root, horizon, washout, seq_len, batch_size, train_steps, eval_steps: see `Simulated`. The washout
            skips the steps at which the window is shorter than the τ + 1 steps that a forecast needs.
        tau: delay τ in samples.
    """

    channels = 1

    def __init__(self, seed: int = 0, data_root: str = "data", *, tau: int = 17, **shared: Any) -> None:
        if tau < 1:
            raise InputError(f"task.tau={tau} must be at least 1; usual values are 17 and 30")
        super().__init__(seed, data_root, **shared)
        self.tau = tau

    __init__ = partialmethod(__init__, washout=50, seq_len=250)

    def simulate(self, split: str, steps: int) -> Tensor:
        """The solution after the transient, see `solve`."""
        return solve(self.tau, STARTS[split], TRANSIENT + steps)[TRANSIENT:]


@lru_cache(maxsize=8)
def solve(tau: int, start: float, samples: int) -> Tensor:
    """The solution at times 0, 1, 2, ..., float64 ``[samples, 1]``; the value up to time 0 is ``start``.

    The solver is the classical Runge-Kutta method. Cubic Hermite interpolation gives the delayed value in the middle of
    a step, which keeps the method at order four. The arithmetic uses Python floats without ``pow``, whose rounding is
    the same on all platforms: in a chaotic system, any rounding difference would lead to a different series.
    """
    h, lag = 1 / STEPS_PER_SAMPLE, tau * STEPS_PER_SAMPLE
    values, middles = [start] * (lag + 1), [start] * lag  # values[lag + i] is x(i h), middles[lag + i] x(i h + h/2)
    slope = 0.0
    for i in range((samples - 1) * STEPS_PER_SAMPLE):
        x = values[-1]
        first, middle, last = _production(values[i]), _production(middles[i]), _production(values[i + 1])
        k1 = first - 0.1 * x
        if i:
            middles.append((values[-2] + x) / 2 + h / 8 * (slope - k1))
        slope = k1
        k2 = middle - 0.1 * (x + h / 2 * k1)
        k3 = middle - 0.1 * (x + h / 2 * k2)
        k4 = last - 0.1 * (x + h * k3)
        values.append(x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    return torch.tensor(values[lag::STEPS_PER_SAMPLE], dtype=torch.float64).unsqueeze(1)


def _production(x: float) -> float:
    square = x * x
    fourth = square * square
    return 0.2 * x / (1 + fourth * fourth * square)
