"""Forecasting of measured time series: a CSV file with a column of time and columns of numbers."""

from __future__ import annotations

import hashlib
from functools import cached_property
from math import nan, pi
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.data import PublicFile, locate
from rnnlab.interface import Batch, InputError, Metric, Vectors
from rnnlab.tasks.base import EVALUATION_SEED, Finite, Regression, check_least, check_shares
from rnnlab.tasks.signals._csv import Table, read_csv, tell_times
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
"""12, 4 and 4 months of 30 days of hours; the file has 3,020 more, which are not used."""
SHOWN = 20
"""So many columns are described."""


class Series(Finite, Regression):
    """Forecast the next ``horizon`` rows of a time series from the last ``seq_len``.

    Rows are taken to be equally far apart in time. The first column is the time, and no input, if it has dates, a name
    such as time or year, or numbers with equal steps; rows that are not in its order are refused. Name it in
    ``columns`` to read it as numbers. At each step a model forecasts all of the next ``horizon`` values of every target
    column: output_size is their product, one column after the other. With seq_len=3 and horizon=2, the first window of
    10, 11, 12, 13, 14, ... is

        inputs        10       11       12
        targets   11, 12   12, 13   13, 14

    In an evaluation only the last step is scored, which has seen exactly ``seq_len`` rows, and there is a window for
    every row of the split with which a forecast can begin; its inputs may reach back into the split before, its targets
    never. So ``etth1`` with horizon=96 is what Informer (arXiv:2012.07436) and its successors measure. In training all
    steps are scored, or, without ``every_step``, the last one only.

    Columns are standardised by mean and standard deviation of the training rows; errors are of standardised values, as
    in that literature. Where a cell is empty (or NA or NaN), the input is the value last seen, the mean before the
    first, and nothing is scored; where a file has such cells, as many inputs follow the columns, 1 where the column was
    seen, 0 where it was not. Who always names the mean has an error of about 1 or, with a trend, more.

    Args:
        seed: of the order of the training windows.
        data_root: where public data sets lie.
        file: ``example`` (2,000 generated rows: trend, two seasons, noise), ``etth1`` (hours of a transformer),
            ``sunspots`` (years), ``co2`` (weeks, some missing), or the path of a CSV file whose first line has names.
        columns: the columns to read; none: all but the time.
        targets: those of them to forecast; none: all.
        horizon: how many rows ahead to forecast.
        seq_len: rows of a window.
        split: the shares of train, valid and test, or of train and valid; null: 0.7, 0.1, 0.2, and 12, 4, 4 months of
            ``etth1``.
        every_step: whether in training every step of a window is scored.
        batch_size: windows in a batch.

    Raises:
        InputError: the file cannot be read or is too short, or an option is not possible.
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
        batch_size: int = 32,
    ) -> None:
        super().__init__(seed, data_root)
        check_least(1, horizon=horizon, seq_len=seq_len, batch_size=batch_size)
        for name, given in (("columns", columns), ("targets", targets)):
            if len(set(given)) < len(given):
                raise InputError(f"task.{name} is {list(given)}; name every column once")
        if split is not None:
            check_shares(split)
        self.file, self.columns, self.targets = file, list(columns), list(targets)
        self.horizon, self.seq_len, self.batch_size, self.every_step = horizon, seq_len, batch_size, every_step
        self.split = split
        self.splits = ("train", "valid", "test")[: len(split or SHARES)]
        self._restored: dict[str, Any] | None = None
        self._baselines: dict[str, dict[str, dict[str, float]]] = {}

    @cached_property
    def table(self) -> Table:
        """The columns that are read."""
        restored = self._restored
        columns = restored["columns"] if restored else self.columns
        return read_table(self.file, columns, self.data_root, check_times=restored is None)

    @cached_property
    def rows(self) -> dict[str, range]:
        """The rows of every split."""
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
        """What a trained model depends on: the columns in order, which are targets, whether there are masks, scales."""
        names, values = self.table.names, self.table.values
        targets = self.targets or names
        unknown = [name for name in targets if name not in names]
        if unknown:
            raise InputError(
                f"task.targets has {unknown[0]!r}, the columns read are {', '.join(names)}; name one of those"
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
        }

    @property
    def input(self) -> Vectors:  # noqa: D102
        return Vectors(len(self.scaling["columns"]) * (2 if self.scaling["masked"] else 1))

    @property
    def output_size(self) -> int:  # noqa: D102
        return len(self.scaling["targets"]) * self.horizon

    @cached_property
    def inputs(self) -> Tensor:
        """What is read at every row, ``[N, input.size]``."""
        mean, deviation = (torch.tensor(self.scaling[key], dtype=torch.float64) for key in ("mean", "deviation"))
        values = (self.table.values - mean) / deviation
        seen = ~values.isnan()
        last = torch.where(seen, torch.arange(len(values)).unsqueeze(1), -1).cummax(0).values
        held = torch.where(last >= 0, values.nan_to_num().gather(0, last.clamp_min(0)), 0.0)
        held = held.float()
        if not held.isfinite().all():
            name = self.scaling["columns"][int(held.isfinite().all(0).int().argmin())]
            raise InputError(f"column {name!r} of {self.file!r} has numbers too large for float32; scale the column")
        return torch.cat([held, seen.float()], 1) if self.scaling["masked"] else held

    @cached_property
    def values(self) -> Tensor:
        """What is to be forecast at every row, ``[N, targets]``, NaN where it is missing."""
        return torch.where(self.table.values[:, self._targets].isnan(), nan, self.inputs[:, self._targets])

    @property
    def _targets(self) -> list[int]:
        return [self.scaling["columns"].index(name) for name in self.scaling["targets"]]

    @cached_property
    def ends(self) -> dict[str, Tensor]:
        """The last rows of the windows of every split; a window without anything to score is left out."""
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
        """Of windows."""
        return len(self.ends[split])

    def batch(self, split: str, step: int) -> Batch:
        """The next windows, ``[seq_len, B, input.size]``."""
        rows = self.ends[split][self.chosen(split, step)] + torch.arange(1 - self.seq_len, 1).unsqueeze(1)
        future = self.values.unfold(0, self.horizon, 1)  # [N - horizon + 1, targets, horizon]
        if split == "train" and self.every_step:
            targets = future[rows + 1].flatten(2)
        else:
            targets = torch.full((*rows.shape, self.output_size), nan)
            targets[-1] = future[rows[-1] + 1].flatten(1)
        return Batch(self.inputs[rows], targets)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``mean``, that of the training rows, and ``persistence``: every value stays as it was last seen.

        Over all windows of a split.
        """
        if split not in self._baselines:
            self._baselines[split] = self._trivial_errors(split)
        return self._baselines[split]

    def _trivial_errors(self, split: str) -> dict[str, dict[str, float]]:
        values, now = self.values.double(), self.inputs[:, self._targets].double()
        scored = torch.zeros(len(values) + 1, dtype=torch.float64)  # in how many windows, with a row as the last seen
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
        """The forecast of the last window of validation beside what came, in the file's own units."""
        batch = self.batch("valid", self.num_batches("valid") - 1)
        batch = Batch(batch.inputs[:, -1:], batch.targets[:, -1:])
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
        """Rows, columns, time, missing values and scales, as they were read."""
        if self.file == "example":
            return []
        scaling, values = self.scaling, self.table.values
        parts = ", ".join(f"{name} {len(rows)}" for name, rows in self.rows.items())
        times = "" if self._restored else f"; {tell_times(self.table.times)}"  # looked for when a run begins
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
        more = len(scaling["columns"]) - SHOWN
        return [*lines, f"and {more} further columns"] if more > 0 else lines

    def memory(self) -> dict[str, Any]:
        """The columns and their scales."""
        return {"scaling": self.scaling}

    def restore(self, memory: dict[str, Any]) -> None:  # noqa: D102
        # A trained model keeps the columns that it was trained on, whatever would be read of the file today.
        self.scaling = self._restored = memory["scaling"]

    def data_digest(self) -> str:
        """SHA-256 of the columns read: names and values."""
        names = "\n".join(self.table.names)
        return hashlib.sha256(names.encode() + self.table.values.numpy().tobytes()).hexdigest()


def read_table(file: str, columns: list[str], root: str, check_times: bool = True) -> Table:
    """The ``columns`` of a file, a built-in name or the path of a CSV file; see `read_csv`.

    Raises:
        InputError: there is no such file or column, or the file cannot be used.
    """
    if file == "example":
        table = _example()
        if columns not in ([], table.names):
            raise InputError(f"task.columns is {columns}; the example has one column, {table.names[0]!r}")
        return table
    path = locate(PUBLIC[file], root) if file in PUBLIC else Path(file).expanduser()
    if not path.is_file():
        raise InputError(
            f"task.file={file!r} is neither a file nor one of example, {', '.join(PUBLIC)}; give the path of a CSV file"
        )
    return read_csv(path, columns, check_times)


def _example() -> Table:
    time = torch.arange(2000, dtype=torch.float64)
    seasons = (2 * pi * time / 24).sin() + 0.5 * (2 * pi * time / 168).sin()
    noise = torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(EVALUATION_SEED))
    return Table(["value"], (5e-4 * time + seasons + 0.1 * noise).unsqueeze(1))
