"""Base class of the simulated signals: one long series for each split, cut into windows."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from rnnlab.interface import Batch, InputError, Metric, Vectors
from rnnlab.tasks.base import Regression, check_least

ROUNDING = 1e-13
"""A smaller relative difference between float64 values counts as a rounding error."""


def scale_of(train: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """The offset and the scale that standardise each column.

    The computed standard deviation of a constant column is often a small rounding error instead of 0, and dividing by
    it would give arbitrary values. Therefore a constant column is not scaled, and its standardised value is exactly 0.

    Args:
        train: training rows, float64 ``[N, columns]``, NaN for missing values.
        mean: mean of each column.
        deviation: standard deviation of each column.

    Returns:
        mean and standard deviation of each column; for a constant column its value and 1.
    """
    low = torch.where(train.isnan(), torch.inf, train).amin(0)
    high = torch.where(train.isnan(), -torch.inf, train).amax(0)
    constant = (high - low <= ROUNDING * torch.maximum(low.abs(), high.abs())) | (deviation == 0)
    return torch.where(constant, low, mean), torch.where(constant, 1.0, deviation)


class Simulated(Regression):
    """Forecast a simulated signal ``horizon`` steps ahead, at every step of a window.

    Each split has its own series, which is the same in every run. All series are standardised by the mean and standard
    deviation of the training series, so errors are in units of its variance or standard deviation. Training draws
    windows at random positions. Evaluation windows overlap by ``washout`` steps, which are not scored, so that each
    step of the series except the first ``washout`` is scored exactly once. With horizon=2 and washout=1, a window of
    four steps is

        inputs   x0  x1  x2  x3
        targets   -  x3  x4  x5        - is not scored

    Args:
        seed: seed of the training windows.
        data_root: not used.
        horizon: number of steps ahead to forecast.
        washout: number of steps at the start of a window that are not scored.
        seq_len: number of steps per window.
        batch_size: number of windows per batch.
        train_steps: length of the training series.
        eval_steps: number of scored steps in validation and in test, rounded up to whole windows.

    Raises:
        InputError: an option is not valid.

    channels: number of values of the signal per step.
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
            raise InputError(f"task.washout={washout} must be from 0 to {seq_len - 1} (task.seq_len - 1)")
        if train_steps < seq_len + horizon:
            raise InputError(
                f"task.train_steps={train_steps} must be at least {seq_len + horizon} (task.seq_len + task.horizon)"
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
        """The standardised series of each split, ``[N, channels]``."""
        raw = {split: self.simulate(split, steps) for split, steps in self.sizes.items()}
        train = raw["train"]
        mean, deviation = scale_of(train, train.mean(0), train.std(0, correction=0))
        return {split: ((values - mean) / deviation).float() for split, values in raw.items()}

    def num_batches(self, split: str) -> int:  # noqa: D102
        return -(-self.windows // self.batch_size)

    def batch(self, split: str, step: int) -> Batch:
        """Windows ``[seq_len, B, channels]``: at random positions for training, in order for evaluation."""
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
        """``mean``: the mean of the training series; ``persistence``: the current value.

        Both are averaged over all steps of the split that can be scored.
        """
        series = self.series[split].double()
        now, then = series[self.washout : -self.horizon], series[self.washout + self.horizon :]
        return {
            name: {"loss": float(error.square().mean()), "mae": float(error.abs().mean())}
            for name, error in (("mean", then), ("persistence", then - now))
        }
