"""What the tasks of simulated signals have in common: one long series for every split, cut into windows."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from rnnlab.interface import Batch, InputError, Metric, Vectors
from rnnlab.tasks.base import Regression, check_least

ROUNDING = 1e-13
"""Values that differ by less than this share of their size differ by rounding errors, in float64."""


def scale_of(train: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """What to subtract from each column, and what to divide it by, to standardise it.

    The computed deviation of a constant is a rounding error and seldom exactly 0: to divide by it would make numbers
    of any size out of nothing. A constant column is therefore not scaled, and its value becomes exactly 0.

    Args:
        train: the training rows, float64 ``[N, columns]``, NaN where a value is missing.
        mean: of each column.
        deviation: the standard deviation of each column.

    Returns:
        mean and deviation; of a constant column its value, and 1.
    """
    low = torch.where(train.isnan(), torch.inf, train).amin(0)
    high = torch.where(train.isnan(), -torch.inf, train).amax(0)
    constant = (high - low <= ROUNDING * torch.maximum(low.abs(), high.abs())) | (deviation == 0)
    return torch.where(constant, low, mean), torch.where(constant, 1.0, deviation)


class Simulated(Regression):
    """Forecast a simulated signal ``horizon`` steps ahead, at every step of a window.

    Every split has a series of its own, the same in every run; all are standardised by mean and standard deviation of
    the training series, so that errors are in units of its variance and of its standard deviation. Training draws
    windows from anywhere. Those of an evaluation overlap by ``washout`` steps, which are not scored: every step of the
    series is scored once, but for the first ``washout``. With horizon=2 and washout=1, a window of four steps is

        inputs   x0  x1  x2  x3
        targets   -  x3  x4  x5        - is not scored

    Args:
        seed: of the windows of training.
        data_root: not used, there are no files.
        horizon: how many steps ahead to forecast.
        washout: steps at the beginning of a window that are not scored.
        seq_len: steps of a window.
        batch_size: windows in a batch.
        train_steps: length of the training series.
        eval_steps: scored steps of validation and of test; rounded up to whole windows.

    Raises:
        InputError: an option is not possible.

    channels: how many numbers the signal has at each step.
    """

    metrics = {"loss": Metric("standardised mean squared error"), "mae": Metric("standardised mean absolute error")}
    length_metric = None
    channels: ClassVar[int]

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        horizon: int = 1,
        washout: int = 0,
        seq_len: int = 100,
        batch_size: int = 32,
        train_steps: int = 20_000,
        eval_steps: int = 5_000,
    ) -> None:
        super().__init__(seed, data_root)
        check_least(1, horizon=horizon, seq_len=seq_len, batch_size=batch_size, eval_steps=eval_steps)
        if not 0 <= washout < seq_len:
            raise InputError(f"task.washout is {washout}; it must be from 0 to {seq_len - 1}, less than task.seq_len")
        if train_steps < seq_len + horizon:
            raise InputError(
                f"task.train_steps is {train_steps}; it must be at least {seq_len + horizon}, "
                "task.seq_len and task.horizon together"
            )
        self.horizon, self.washout, self.seq_len, self.batch_size = horizon, washout, seq_len, batch_size
        self.windows = -(-eval_steps // (seq_len - washout))
        eval_length = washout + self.windows * (seq_len - washout) + horizon
        self.sizes = {"train": train_steps, "valid": eval_length, "test": eval_length}
        self.input = Vectors(self.channels)
        self.output_size = self.channels

    def simulate(self, split: str, steps: int) -> Tensor:
        """The series of a split, float64 ``[steps, channels]``."""
        raise NotImplementedError

    @cached_property
    def series(self) -> dict[str, Tensor]:
        """The standardised series of every split, ``[N, channels]``."""
        raw = {split: self.simulate(split, steps) for split, steps in self.sizes.items()}
        train = raw["train"]
        mean, deviation = scale_of(train, train.mean(0), train.std(0, correction=0))
        return {split: ((values - mean) / deviation).float() for split, values in raw.items()}

    def num_batches(self, split: str) -> int:  # noqa: D102
        return -(-self.windows // self.batch_size)

    def batch(self, split: str, step: int) -> Batch:
        """Windows from anywhere in training; in an evaluation the next in line."""
        series = self.series[split]
        if split == "train":
            last = len(series) - self.seq_len - self.horizon
            starts = torch.randint(last + 1, (self.batch_size,), generator=self.generator(split, step))
        else:
            windows = torch.arange(step * self.batch_size, min((step + 1) * self.batch_size, self.windows))
            starts = windows * (self.seq_len - self.washout)
        steps = starts + torch.arange(self.seq_len).unsqueeze(1)
        targets = series[steps + self.horizon]
        targets[: self.washout] = torch.nan
        return Batch(series[steps], targets)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``mean``, that of the training series, and ``persistence``: the signal stays as it is.

        Both over all the steps of the split that can be scored.
        """
        series = self.series[split].double()
        now, then = series[self.washout : -self.horizon], series[self.washout + self.horizon :]
        return {
            name: {"loss": float(error.square().mean()), "mae": float(error.abs().mean())}
            for name, error in (("mean", then), ("persistence", then - now))
        }
