"""A mixture of sines: forecast a sum of sines with unknown frequencies."""

from __future__ import annotations

from functools import partialmethod
from math import pi, sin
from typing import Any

import torch

from rnnlab.interface import Batch, InputError, Vectors
from rnnlab.tasks.base import Generated, Regression, check_least


class SineMixture(Generated, Regression):
    """Forecast a sum of sines with unknown frequencies and phases, ``horizon`` steps ahead at every step.

    The multiple superimposed oscillations of Evolino (Schmidhuber, Wierstra and Gomez, 2005, IJCAI) are sums of sines
    with fixed frequencies, starting with sin 0.2t + sin 0.311t. Here, each sequence has its own frequencies, uniform
    between the two values of ``frequencies``, and phases uniform in [0, 2π); the sum is scaled to a variance of 1. One
    sine of frequency π/2, with a horizon of 1:

        inputs    0.00   1.41   0.00  -1.41
        targets   1.41   0.00  -1.41   0.00

    A mixture of k sines follows a linear recurrence over its last 2k values, so it can be forecast without error once
    its frequencies are known. Always predicting 0 has an error of 1.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps.
        sines: number of sines.
        frequencies: lowest and highest frequency, in radians per step.
        horizon: number of steps ahead to forecast.
    """

    input = Vectors(1)
    output_size = 1

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        sines: int = 2,
        frequencies: list[float] = (0.2, 1.0),
        horizon: int = 1,
        **shared: Any,
    ) -> None:
        super().__init__(seed, data_root, **shared)
        check_least(1, sines=sines, horizon=horizon)
        if len(frequencies) != 2 or not 0 < frequencies[0] <= frequencies[1] <= pi:
            raise InputError(
                f"task.frequencies is {list(frequencies)}; give the lowest and the highest in radians per step, "
                "above 0 and up to 3.14, for example [0.2, 1.0]"
            )
        self.sines, self.frequencies, self.horizon = sines, tuple(frequencies), horizon

    __init__ = partialmethod(__init__, lengths=(100, 100), test_lengths=(100, 100), eval_batches=10)

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Inputs and targets ``[T, B, 1]``."""
        low, high = self.frequencies
        shape = (self.batch_size, 1, self.sines)
        frequencies = low + (high - low) * torch.rand(shape, generator=generator)
        phases = 2 * pi * torch.rand(shape, generator=generator)
        times = torch.arange(length + self.horizon, dtype=torch.float32).view(-1, 1, 1, 1)
        values = (2 / self.sines) ** 0.5 * (frequencies * times + phases).sin().sum(-1)
        return Batch(values[:length], values[self.horizon :])

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """The expected squared errors of ``always 0`` and of ``persistence``, the current value."""
        low, high = (self.horizon * frequency for frequency in self.frequencies)
        alike = (sin(high) - sin(low)) / (high - low) if high > low else sin(low + pi / 2)  # the mean cosine
        return {"always 0": {"loss": 1.0}, "persistence": {"loss": 2 - 2 * alike}}
