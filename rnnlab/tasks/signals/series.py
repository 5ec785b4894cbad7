"""Forecasting of measured time series: a CSV file with an optional time column and numeric columns."""

from __future__ import annotations

import hashlib
from functools import cached_property
from math import nan, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnnlab.data import PublicFile, locate
from rnnlab.interface import Batch, InputError, Metric, Vectors
from rnnlab.tasks._predicting import Forecasts, Predicts, hold, sequences_of
from rnnlab.tasks.base import EVALUATION_SEED, Finite, Regression, check_least, check_shares
from rnnlab.tasks.signals._csv import Table, read_csv, tell_times, times_of
from rnnlab.tasks.signals.base import scale_of

PUBLIC = {
    "etth1": PublicFile(
        path="ETT-small/ETTh1.csv",
        url="https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
        sha256="f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    ),
    "sunspots": PublicFile(
        path="statsmodels/sunspots.csv",
        url="https://raw.githubusercontent.com/statsmodels/statsmodels/main/statsmodels/datasets/sunspots/sunspots.csv",
        sha256="f67889b1d9002cd5227f0e0ef54e35b419cdd85a31279adef6f73fb41e5c0a9b",
    ),
    "co2": PublicFile(
        path="statsmodels/co2.csv",
        url="https://raw.githubusercontent.com/statsmodels/statsmodels/main/statsmodels/datasets/co2/co2.csv",
        sha256="16695fa2786e53414e5a6b54767a3fdf5de99cfbc68617f69d1362d92776a92f",
    ),
}
SHARES = (0.7, 0.1, 0.2)
ETTH1_ROWS = (8640, 2880, 2880)
"""12, 4 and 4 months of 30 days, in hours; the remaining 3,020 rows of the file are not used."""
SHOWN = 20
"""Maximum number of columns that the log describes."""


class Series(Predicts, Finite, Regression):
    """Forecast the next ``horizon`` rows of a time series from the last ``seq_len``.

    Rows are assumed to be equally spaced in time, unless ``elapsed`` names a column with their times. The first column
    is the time, and not an input, if it contains dates, has a name such as time or year, or contains numbers with equal
    steps. Rows that are not in chronological order are an error. To read the first column as numbers, name it in
    ``columns``. At each step, the model forecasts the next ``horizon`` values of each target column, one column after
    the other: output_size is the number of target columns times ``horizon``. With seq_len=3 and horizon=2, the first
    window of 10, 11, 12, 13, 14, ... is

        inputs        10       11       12
        targets   11, 12   12, 13   13, 14

    Evaluation scores only the last step of a window, after exactly ``seq_len`` rows. It has one window for each row of
    the split at which a forecast can start. The inputs of a window may extend into the previous split, its targets
    never do. With horizon=96, ``etth1`` is thus the benchmark of Informer (arXiv:2012.07436) and its successors.
    Training scores all steps of a window or, without ``every_step``, only the last step.

    Columns are standardised by the mean and standard deviation of the training rows, and errors are computed on
    standardised values, as in that literature. A missing value (an empty cell, NA or NaN) is not scored; its input is
    the last observed value of the column, or the mean if there is none. If a file has missing values, each column has a
    second input, a mask that is 1 for observed and 0 for missing values; the masks follow all columns. Predicting the
    mean has an error of about 1, or more if the series has a trend.

    Args:
        seed: seed of the order of the training windows.
        data_root: directory of the public data sets.
        file: ``example`` (2,000 generated rows: trend, two seasons, noise), ``etth1`` (hourly data of an electricity
            transformer), ``sunspots`` (yearly), ``co2`` (weekly, with missing values), or the path of a CSV file whose
            first line contains the column names.
        columns: names of the columns to read; empty: all except the time.
        targets: names of the columns to forecast; empty: all columns read.
        horizon: number of rows ahead to forecast.
        seq_len: number of rows per window.
        split: fractions of train, valid and test, or of train and valid; null: 0.7, 0.1, 0.2, or 12, 4, 4 months for
            ``etth1``.
        every_step: whether training scores every step of a window.
        elapsed: column with the time of each row, a number or a date, for cells that take elapsed times; it is not an
            input. Empty: rows are equally spaced. The unit is the median time between training rows, and the first time
            of each window is 1.
        batch_size: number of windows per batch.

    Raises:
        InputError: the file cannot be read or is too short, or an option is not valid.
    """

    metrics = {"loss": Metric("standardised mean squared error"), "mae": Metric("standardised mean absolute error")}
    length_metric = None

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        file: str = "example",
        columns: list[str] = (),
        targets: list[str] = (),
        horizon: int = 1,
        seq_len: int = 96,
        split: list[float] | None = None,
        every_step: bool = True,
        elapsed: str = "",
        batch_size: int = 32,
    ) -> None:
        super().__init__(seed, data_root)
        check_least(1, horizon=horizon, seq_len=seq_len, batch_size=batch_size)
        if elapsed and elapsed in (*columns, *targets):
            raise InputError(f"task.elapsed={elapsed} is also in task.columns or task.targets; leave it out there")
        for name, given in (("columns", columns), ("targets", targets)):
            if len(set(given)) < len(given):
                raise InputError(f"task.{name} is {list(given)}; name each column only once")
        if split is not None:
            check_shares(split)
        self.file, self.columns, self.targets = file, list(columns), list(targets)
        self.horizon, self.seq_len, self.batch_size, self.every_step = horizon, seq_len, batch_size, every_step
        self.split = split
        self.elapsed, self.has_elapsed = elapsed, bool(elapsed)
        self.splits = ("train", "valid", "test")[: len(split or SHARES)]
        self._restored: dict[str, Any] | None = None
        self._baselines: dict[str, dict[str, dict[str, float]]] = {}

    @cached_property
    def table(self) -> Table:
        """The columns read from the file."""
        restored = self._restored
        columns = restored["columns"] if restored else self.columns
        return read_table(self.file, columns, self.data_root, restored is None, self.elapsed)

    @cached_property
    def rows(self) -> dict[str, range]:
        """The rows of each split."""
        count = len(self.table.values)
        if self.split is None and self.file == "etth1":
            sizes = ETTH1_ROWS
            ends = [sum(sizes[: i + 1]) for i in range(3)]
        else:
            shares = self.split or SHARES
            ends = [round(count * sum(shares[: i + 1])) for i in range(len(shares))]
        rows = {name: range(*pair) for name, pair in zip(self.splits, zip([0, *ends], ends, strict=False), strict=True)}
        for name, part in rows.items():
            needed = self.horizon + (self.seq_len if name == "train" else 0)
            if len(part) < needed:
                raise InputError(
                    f"the {name} part of {self.file!r} has {len(part)} of {count} rows, too few for one window, which "
                    f"needs {needed}; lower task.seq_len or task.horizon, or give a longer series"
                )
        return rows

    @cached_property
    def scaling(self) -> dict[str, Any]:
        """The data settings of a trained model: column order, targets, masks, scales, and the unit of time."""
        names, values = self.table.names, self.table.values
        targets = self.targets or names
        unknown = [name for name in targets if name not in names]
        if unknown:
            raise InputError(
                f"task.targets has {unknown[0]!r}, which is not among the columns read; choose from {', '.join(names)}"
            )
        train = values[self.rows["train"].start : self.rows["train"].stop]
        seen = ~train.isnan()
        if not seen.any(0).all():
            name = names[int(seen.any(0).int().argmin())]
            raise InputError(f"the training part of column {name!r} of {self.file!r} is empty; leave the column out")
        mean = train.nanmean(0)
        mean, deviation = scale_of(train, mean, (train - mean).square().nanmean(0).sqrt())
        return {
            "columns": names,
            "targets": targets,
            "masked": bool(values.isnan().any()),
            "mean": mean.tolist(),
            "deviation": deviation.tolist(),
            **({"time_unit": self._time_unit()} if self.elapsed else {}),
        }

    def _time_unit(self) -> float:
        """The median time between training rows."""
        rows = self.rows["train"]
        gaps = gaps_in(self.table.instants, [len(self.table.values)], self.elapsed)[0][rows.start : rows.stop]
        known = gaps[gaps > 0]  # not of the first row, which is NaN
        if not len(known):
            raise InputError(f"column {self.elapsed!r} has the same time in all training rows")
        return float(known.median())

    @cached_property
    def times(self) -> Tensor | None:
        """The elapsed time of each row, float ``[N]``, 1 for the first row; None without ``elapsed``."""
        if not self.elapsed:
            return None
        return self._elapsed_in(self.table.instants, [len(self.table.values)])[0]

    def _elapsed_in(self, instants: Tensor, lengths: list[int]) -> list[Tensor]:
        """The elapsed times of several series, of which ``instants`` holds the times, one after the other."""
        unit = self.scaling["time_unit"]
        return [(gaps / unit).nan_to_num(1.0).float() for gaps in gaps_in(instants, lengths, self.elapsed)]

    @property
    def input(self) -> Vectors:  # noqa: D102
        return Vectors(len(self.scaling["columns"]) * (2 if self.scaling["masked"] else 1))

    @property
    def output_size(self) -> int:  # noqa: D102
        return len(self.scaling["targets"]) * self.horizon

    @cached_property
    def inputs(self) -> Tensor:
        """The inputs of each row, ``[N, input.size]``."""
        return self._inputs_of(self.table.values, repr(self.file))

    def _inputs_of(self, values: Tensor, source: str, lengths: list[int] | None = None) -> Tensor:
        """The inputs of rows in the units of the file, float64 ``[N, columns]``.

        Args:
            values: rows of one series, or of several one after the other.
            source: name of the data for an error.
            lengths: number of rows of each series; None for one series.
        """
        mean, deviation = (torch.tensor(self.scaling[key], dtype=torch.float64) for key in ("mean", "deviation"))
        held = hold((values - mean) / deviation, lengths).float()
        if not held.isfinite().all():
            name = self.scaling["columns"][int(held.isfinite().all(0).int().argmin())]
            raise InputError(f"column {name!r} of {source} has numbers too large for float32; scale the column")
        return torch.cat([held, (~values.isnan()).float()], 1) if self.scaling["masked"] else held

    def encode(self, values: Any) -> list[Tensor]:
        """The last ``seq_len`` rows of each series; a missing value is replaced as in training."""
        rows, lengths, _ = self._rows_of(values)
        found = self._inputs_of(rows, "the data", lengths).split(lengths)
        sized = zip(found, lengths, strict=True)
        return [one[-self.seq_len :] if length > self.seq_len else one for one, length in sized]

    def elapsed_of(self, values: Any) -> list[Tensor] | None:
        """The elapsed times of the rows of `encode`; the last column of arrays without names has the times."""
        if not self.elapsed:
            return None
        _, lengths, instants = self._rows_of(values)
        kept = [one[-self.seq_len :] for one in instants.split(lengths)]
        return self._elapsed_in(torch.cat(kept), [len(one) for one in kept])

    def _rows_of(self, values: Any) -> tuple[Tensor, list[int], Tensor | None]:
        """The rows of the user's series, the number of rows of each, and the time of each row with ``elapsed``."""
        names = self.scaling["columns"]
        if not self.elapsed:
            return *sequences_of(values, names), None
        several = isinstance(values, list) and any(hasattr(one, "columns") for one in values)
        values = [self._with_numbers(one) for one in values] if several else self._with_numbers(values)
        rows, lengths = sequences_of(values, [*names, self.elapsed])
        return rows[:, :-1], lengths, rows[:, -1]

    def _with_numbers(self, values: Any) -> Any:
        """A DataFrame as an array whose last column has the times as numbers; anything else stays as it is."""
        names = self.scaling["columns"]
        if not hasattr(values, "columns") or not {*names, self.elapsed} <= set(values.columns):
            return values  # `sequences_of` names a missing column
        times = times_of(np.asarray(values[self.elapsed].to_numpy()), self.elapsed)
        return np.stack([*(values[name].to_numpy() for name in names), times.numpy()], 1)

    def decode(self, outputs: Tensor, values: Any) -> Forecasts:
        """The next ``horizon`` rows of each series, in the units of the file."""
        scales = torch.tensor([self.scaling["deviation"], self.scaling["mean"]], dtype=torch.float64)[:, self._targets]
        names = self.scaling["targets"]
        found = outputs.double().unflatten(1, (len(names), self.horizon)).transpose(1, 2)
        return Forecasts(names, found * scales[0] + scales[1])

    def read_own(self, path: Path) -> Tensor:
        """The rows of a CSV file with the columns of the training file."""
        if path.suffix in (".npz", ".npy"):
            return super().read_own(path)
        table = read_csv(path, self.scaling["columns"], check_times=False, elapsed=self.elapsed)
        return table.values if table.instants is None else torch.cat([table.values, table.instants.unsqueeze(1)], 1)

    @cached_property
    def values(self) -> Tensor:
        """The target columns of each row, ``[N, targets]``, NaN for missing values."""
        return torch.where(self.table.values[:, self._targets].isnan(), nan, self.inputs[:, self._targets])

    @property
    def _targets(self) -> list[int]:
        return [self.scaling["columns"].index(name) for name in self.scaling["targets"]]

    @cached_property
    def ends(self) -> dict[str, Tensor]:
        """The last rows of the windows of each split; windows without any scored value are omitted."""
        seen = ~self.values.isnan().all(1)
        ends = {}
        for split, rows in self.rows.items():
            first = rows.start + self.seq_len - 1 if split == "train" else rows.start - 1
            last = torch.arange(first, rows.stop - self.horizon)
            ends[split] = last[seen.unfold(0, self.horizon, 1).any(1)[last + 1]]
            if not len(ends[split]):
                raise InputError(f"the {split} part of {self.file!r} has no value to forecast; give a longer series")
        return ends

    def count(self, split: str) -> int:
        """Number of windows of a split."""
        return len(self.ends[split])

    def batch(self, split: str, step: int) -> Batch:
        """Inputs ``[seq_len, B, input.size]`` and targets of a batch of windows."""
        rows = self.ends[split][self.chosen(split, step)] + torch.arange(1 - self.seq_len, 1).unsqueeze(1)
        future = self.values.unfold(0, self.horizon, 1)  # [N - horizon + 1, targets, horizon]
        if split == "train" and self.every_step:
            targets = future[rows + 1].flatten(2)
        else:
            targets = torch.full((*rows.shape, self.output_size), nan)
            targets[-1] = future[rows[-1] + 1].flatten(1)
        return Batch(self.inputs[rows], targets, elapsed=self._elapsed_at(rows))

    def _elapsed_at(self, rows: Tensor) -> Tensor | None:
        """The elapsed times of windows ``[seq_len, B]``; the first time of each window is 1."""
        if self.times is None:
            return None
        elapsed = self.times[rows]
        elapsed[0] = 1.0
        return elapsed

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``mean``: the mean of the training rows; ``persistence``: the last observed value.

        Both are averaged over all windows of the split.
        """
        if split not in self._baselines:
            self._baselines[split] = self._trivial_errors(split)
        return self._baselines[split]

    def _trivial_errors(self, split: str) -> dict[str, dict[str, float]]:
        values, now = self.values.double(), self.inputs[:, self._targets].double()
        scored = torch.zeros(len(values) + 1, dtype=torch.float64)  # in how many windows each row is the last one read
        scored[self.ends[split]] = 1
        if split == "train" and self.every_step:
            scored = scored.flip(0).cumsum(0).flip(0)
            scored[: -self.seq_len] -= scored[self.seq_len :].clone()
        sums = dict.fromkeys(("mean", "persistence"), (0.0, 0.0))
        count = 0.0
        for ahead in range(1, self.horizon + 1):
            then, held, weight = values[ahead:], now[:-ahead], scored[: len(values) - ahead].unsqueeze(1)
            count += float((weight * ~then.isnan()).sum())
            for name, error in (("mean", then), ("persistence", then - held)):
                squared, absolute = ((weight * term.nan_to_num()).sum() for term in (error.square(), error.abs()))
                sums[name] = (sums[name][0] + float(squared), sums[name][1] + float(absolute))
        return {name: {"loss": squared / count, "mae": absolute / count} for name, (squared, absolute) in sums.items()}

    def sample(self, model: nn.Module) -> str:
        """A table of the forecast and the true values of the last validation window, in the units of the file."""
        batch = self.batch("valid", self.num_batches("valid") - 1)
        elapsed = None if batch.elapsed is None else batch.elapsed[:, -1:]
        batch = Batch(batch.inputs[:, -1:], batch.targets[:, -1:], elapsed=elapsed)
        with torch.inference_mode():
            outputs, _ = model(batch.to(next(model.parameters()).device))
        rows = ["column  ahead  forecast  value"]
        for i, column in enumerate(self._targets):
            name, mean, deviation = (self.scaling[key][column] for key in ("columns", "mean", "deviation"))
            for ahead in sorted({1, self.horizon}):
                place = i * self.horizon + ahead - 1
                forecast, value = (float(t[-1, 0, place]) * deviation + mean for t in (outputs, batch.targets))
                rows.append(f"{name}  {ahead}  {forecast:.6g}  {value:.6g}")
        return "\n".join(rows)

    def describe(self) -> list[str]:
        """The rows, columns, times, missing values and scales of the file."""
        if self.file == "example":
            return []
        scaling, values = self.scaling, self.table.values
        parts = ", ".join(f"{name} {len(rows)}" for name, rows in self.rows.items())
        # A restored task does not look for a time column.
        times = "" if self._restored else f"; {tell_times(self.table.times, self.has_elapsed)}"
        lines = [f"data: {len(values)} rows of {self.file} ({parts}){times}"]
        for i, name in enumerate(scaling["columns"][:SHOWN]):
            missing = int(values[:, i].isnan().sum())
            is_constant = not self.inputs[self.rows["train"].start : self.rows["train"].stop, i].any()
            lines.append(
                f"column {name!r}: mean {scaling['mean'][i]:.4g}, deviation {scaling['deviation'][i]:.4g} in training"
                + (", constant there and not scaled" if is_constant else "")
                + (f", {missing} missing values" if missing else "")
                + ("" if name in scaling["targets"] else ", not forecast")
            )
        if self.elapsed:
            lines.append(f"column {self.elapsed!r}: elapsed times, median {scaling['time_unit']:g} in training")
        more = len(scaling["columns"]) - SHOWN
        return [*lines, f"and {more} further columns"] if more > 0 else lines

    def memory(self) -> dict[str, Any]:
        """The columns and their scales."""
        return {"scaling": self.scaling}

    def restore(self, memory: dict[str, Any]) -> None:  # noqa: D102
        # A trained model keeps its columns, even if a newer version of the reader would select others.
        self.scaling = self._restored = memory["scaling"]

    def data_digest(self) -> str:
        """SHA-256 of the columns read: names, values and times."""
        names, instants = "\n".join(self.table.names), self.table.instants
        times = b"" if instants is None else instants.numpy().tobytes()
        return hashlib.sha256(names.encode() + self.table.values.numpy().tobytes() + times).hexdigest()


def gaps_in(instants: Tensor, lengths: list[int], name: str) -> list[Tensor]:
    """The time between each row of a series and the row before it, float64 ``[T]``; NaN for the first row.

    Args:
        instants: times of the rows of all series, one after the other.
        lengths: number of rows of each series.
        name: name of the column.

    Raises:
        InputError: a row has no time, or is earlier than the row before it.
    """
    if not instants.isfinite().all():
        raise InputError(f"column {name!r} has a row without a time; give the time of each row")
    found = [torch.cat([one.new_full((1,), nan), one.diff()]) for one in instants.split(lengths)]
    if any((gaps < 0).any() for gaps in found):
        raise InputError(f"the rows are not in the order of their times in column {name!r}; sort them")
    return found


def read_table(file: str, columns: list[str], root: str, check_times: bool = True, elapsed: str = "") -> Table:
    """Read the ``columns`` of a file, given by a built-in name or the path of a CSV file; see `read_csv`.

    Raises:
        InputError: the file or a column does not exist, or the file cannot be read.
    """
    if file == "example":
        table = _example()
        if columns not in ([], table.names):
            raise InputError(f"task.columns is {columns}; the example has one column, {table.names[0]!r}")
        if elapsed:
            raise InputError(f"task.elapsed is {elapsed}; the example has no column of times")
        return table
    path = locate(PUBLIC[file], root) if file in PUBLIC else Path(file).expanduser()
    if not path.is_file():
        raise InputError(
            f"task.file={file!r} is neither a file nor one of example, {', '.join(PUBLIC)}; give the path of a CSV file"
        )
    return read_csv(path, columns, check_times, elapsed)


def _example() -> Table:
    time = torch.arange(2000, dtype=torch.float64)
    seasons = (2 * pi * time / 24).sin() + 0.5 * (2 * pi * time / 168).sin()
    noise = torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(EVALUATION_SEED))
    return Table(["value"], (5e-4 * time + seasons + 0.1 * noise).unsqueeze(1))
