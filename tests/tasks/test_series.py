"""Forecasting from CSV files: against windows cut by hand, one at a time."""

import csv
import hashlib
import itertools
import statistics
from datetime import datetime, timedelta
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks.test_table import Frame

import rnnlab
from rnnlab import cells, layers, models
from rnnlab.__main__ import main
from rnnlab.config import compose
from rnnlab.contracts import check_task
from rnnlab.interface import InputError
from rnnlab.tasks.signals._csv import read_csv
from rnnlab.tasks.signals.series import PUBLIC, Series
from rnnlab.training import train

HILLS = [1.0, 4.0, 2.0, 8.0, 5.0, 7.0, 3.0, 9.0, 6.0, 2.0, 5.0, 4.0, 8.0, 1.0, 7.0, 3.0, 9.0, 2.0, 6.0, 4.0]


def make(tmp_path, text, **options):
    path = tmp_path / "series.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Series(file=str(path), **{"seq_len": 3, "batch_size": 2} | options)


def of(columns):
    """The text of a file with these columns by name; NaN is an empty cell."""
    rows = [["time", *columns], *([t, *row] for t, row in enumerate(zip(*columns.values(), strict=True)))]
    return "\n".join(",".join("" if isinstance(x, float) and isnan(x) else str(x) for x in row) for row in rows)


def windows(task, split):
    """Every window of a pass: the values of its inputs and, step by step, of its targets, in the file's units."""
    scaling, channels = task.scaling, len(task.scaling["columns"])
    mean, deviation = (torch.tensor(scaling[key]) for key in ("mean", "deviation"))
    picked = [scaling["columns"].index(name) for name in scaling["targets"]]
    for step in range(task.num_batches(split)):
        batch = task.batch(split, step)
        inputs = batch.inputs[..., :channels] * deviation + mean
        targets = batch.targets.unflatten(-1, (len(picked), task.horizon))
        targets = targets * deviation[picked].unsqueeze(1) + mean[picked].unsqueeze(1)
        for i in range(batch.batch_size):
            yield inputs[:, i].tolist(), targets[:, i].tolist(), batch.inputs[:, i, channels:].tolist()


def same(found, expected):
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=1e-4)


def evaluate(task, split, predict):
    sums = {"loss": [0.0, 0.0], "mae": [0.0, 0.0]}
    for step in range(task.num_batches(split)):
        batch = task.batch(split, step)
        outputs = predict(batch)
        for name, mean in {"loss": task.loss(outputs, batch), **task.measure(outputs, batch)}.items():
            sums[name] = [old + float(torch.as_tensor(new).sum()) for old, new in zip(sums[name], mean, strict=True)]
    return {name: total / count for name, (total, count) in sums.items()}


def test_the_first_window_is_that_of_the_docstring(tmp_path):
    task = make(tmp_path, of({"x": range(10, 40)}), horizon=2, batch_size=1)
    lines = [line.strip() for line in Series.__doc__.splitlines()]
    rows = [next(line for line in lines if line.startswith(f"{row}  ")).split("  ") for row in ("inputs", "targets")]
    inputs, targets = ([[float(x) for x in cell.split(",")] for cell in row[1:] if cell.strip()] for row in rows)
    assert len(inputs) == len(targets) == 3
    first = min(windows(task, "train"))
    same(first[0], inputs)
    same(first[1], [[target] for target in targets])


@pytest.mark.parametrize("horizon", [1, 2])
@pytest.mark.parametrize("seq_len", [1, 3, 4])
@pytest.mark.parametrize("every_step", [True, False])
@pytest.mark.parametrize("targets", [[], ["b"]])
def test_every_window_is_cut_as_by_hand(tmp_path, horizon, seq_len, every_step, targets):
    columns = {"a": [x + t / 64 for t, x in enumerate(HILLS)], "b": [100 + x * x for x in HILLS]}
    task = make(
        tmp_path, of(columns), horizon=horizon, seq_len=seq_len, every_step=every_step, targets=targets, batch_size=1
    )
    for split, start, stop in (("train", 0, 14), ("valid", 14, 16), ("test", 16, 20)):
        expected = []
        for first in range(20):  # of the rows to forecast from the window's last step
            begin = first - seq_len
            if first < start or first + horizon > stop or begin < 0:
                continue
            inputs = [[columns[c][t] for c in "ab"] for t in range(begin, first)]
            scored = [
                [[columns[c][t + ahead] for ahead in range(1, horizon + 1)] for c in targets or "ab"]
                for t in range(begin, first)
            ]
            if split != "train" or not every_step:
                scored[:-1] = (np.array(scored[:-1]) * nan).tolist()
            expected.append((inputs, scored))
        found = [window[:2] for window in windows(task, split)]
        if split == "train":
            expected, found = (sorted(pairs, key=lambda pair: pair[0]) for pairs in (expected, found))
        assert len(found) == len(expected)
        for (inputs, scored), (inputs_expected, scored_expected) in zip(found, expected, strict=True):
            same(inputs, inputs_expected)
            same(scored, scored_expected)


def test_an_epoch_has_every_window_once_and_the_next_another_order(tmp_path):
    task = make(tmp_path, of({"x": range(100)}), batch_size=7)
    steps = len(task.ends["train"]) // 7
    orders = [
        [row for step in range(steps) for row in task.batch("train", epoch * steps + step).inputs[0, :, 0].tolist()]
        for epoch in range(2)
    ]
    assert len(set(orders[0])) == len(orders[0])
    assert orders[0] != orders[1]


def test_only_training_rows_decide_the_scales(tmp_path):
    one = make(tmp_path, of({"x": HILLS}))
    assert one.scaling["mean"] == [pytest.approx(statistics.fmean(HILLS[:14]))]
    assert one.scaling["deviation"] == [pytest.approx(statistics.pstdev(HILLS[:14]))]
    train = [one.batch("train", step).inputs for step in range(5)]
    other = make(tmp_path, of({"x": HILLS[:14] + [1000.0] * 6}))
    assert other.scaling == one.scaling
    assert all(torch.equal(other.batch("train", step).inputs, train[step]) for step in range(5))


@pytest.mark.parametrize("value", [3.0, 0.1, 14.62, -1e9 - 0.1, 1e-300, 1e300])
def test_a_constant_column_is_0_in_training_and_its_change_later(tmp_path, value):
    """The mean of equal numbers is seldom exactly that number in floating point."""
    later = value * 1.5
    rows = 700
    columns = {"x": (HILLS * 50)[: rows + 300], "c": [value] * rows + [later] * 300, "d": [nan] + [value] * 999}
    task = make(tmp_path, of(columns), split=[0.7, 0.3])
    assert task.scaling["mean"][1:] == [value, value]
    assert task.scaling["deviation"][1:] == [1.0, 1.0]
    if abs(later) < 1e30:
        assert task.inputs[:rows, 1:3].abs().max() == 0
        torch.testing.assert_close(task.inputs[rows:, 1], torch.full((300,), later - value))


def test_numbers_that_differ_by_rounding_alone_are_constant_and_small_signals_are_not(tmp_path):
    columns = {
        "x": HILLS,
        "rounded": [0.3, 0.1 + 0.2] * 10,
        "small": [1000 + 1e-7 * x for x in HILLS],
        "tiny": [1e-200 * x for x in HILLS],
    }
    task = make(tmp_path, of(columns))
    assert task.inputs[:14, 1].abs().max() < 1e-15
    scaled = (np.array(HILLS) - np.mean(HILLS[:14])) / np.std(HILLS[:14])
    np.testing.assert_allclose(task.inputs[:, 2], scaled, atol=1e-4)  # 1e-7 has six digits beside 1000
    assert task.inputs[:, 3].isfinite().all()


def test_numbers_beyond_float32_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"column 'x' of .* has numbers too large for float32; scale the column"):
        make(tmp_path, of({"x": [*HILLS[:-1], 1e200]})).batch("train", 0)


def test_a_run_keeps_the_scales_that_it_was_trained_with(tmp_path):
    """An earlier version divided a constant by its rounding error; its runs must be evaluated as they were trained."""
    task = make(tmp_path, of({"x": HILLS, "c": [14.62] * 20}))
    old = {**task.scaling, "mean": [1.0, 14.0], "deviation": [2.0, 3.55e-15]}
    task = make(tmp_path, of({"x": HILLS, "c": [14.62] * 20}))
    task.restore({"scaling": old})
    assert float(task.inputs[0, 1]) == pytest.approx(0.62 / 3.55e-15)


def test_missing_values_are_held_and_not_scored(tmp_path):
    values = [nan, 2.0, nan, 4.0, 6.0, nan, nan, 1.0, 3.0, 5.0, 2.0, 4.0, 6.0, nan, nan, 2.0, 3.0, nan, 5.0, 1.0]
    task = make(tmp_path, of({"x": values}), horizon=2, batch_size=1)
    mean = statistics.fmean(x for x in values[:14] if not isnan(x))
    assert task.input.size == 2
    held, last = [], mean
    for x in values:
        last = last if isnan(x) else x
        held.append(last)
    count = 0
    for split in task.splits:
        for inputs, targets, masks in windows(task, split):
            flat = [x for (x,) in inputs]
            (begin,) = [
                t
                for t in range(18)
                if np.allclose(held[t : t + 3], flat, atol=1e-4)
                and [m for (m,) in masks] == [float(not isnan(x)) for x in values[t : t + 3]]
                and np.allclose(targets[-1][0], values[t + 3 : t + 5], atol=1e-4, equal_nan=True)
            ]
            count += 1
            assert not all(isnan(x) for x in values[begin + 3 : begin + 5]), "nothing is scored"
    assert count == sum(map(len, task.ends.values())) == (10 - 1) + 1 + 3


@pytest.mark.parametrize("every_step", [True, False])
@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("hole", [0, 5])
def test_trivial_forecasts_have_the_errors_stated(tmp_path, every_step, horizon, hole):
    values = (HILLS * 3)[:50]
    columns = {"a": values, "b": [nan if hole and t % hole == 2 else x * t for t, x in enumerate(values)]}
    task = make(
        tmp_path,
        of(columns),
        horizon=horizon,
        every_step=every_step,
        targets=["b"],
        batch_size=1,
        split=[0.6, 0.2, 0.2],
    )
    for split in task.splits:
        stated = task.baselines(split)
        assert list(stated) == ["mean", "persistence"]
        found = {
            "mean": evaluate(task, split, lambda batch: torch.zeros_like(batch.targets)),
            "persistence": evaluate(task, split, lambda batch: batch.inputs[..., 1:2].expand_as(batch.targets)),
        }
        assert found == {name: pytest.approx(errors, rel=1e-5) for name, errors in stated.items()}


def test_the_example_can_be_forecast_better_than_by_persistence():
    """By twice the noise's variance and a step of the seasons; the season before is as noisy, but stands still."""
    task = Series(horizon=24)
    predict = evaluate(task, "test", lambda batch: batch.inputs[-24:].transpose(0, 2).expand_as(batch.targets))
    assert predict["loss"] < 0.2 < 1 < task.baselines("test")["persistence"]["loss"]


def test_the_scales_travel_with_a_model(tmp_path):
    task = make(tmp_path, of({"x": [*HILLS[:-1], nan], "y": HILLS}), horizon=2, targets=["y"])
    elsewhere = Series(file="gone.csv", horizon=2)
    elsewhere.restore(task.memory())
    assert (elsewhere.input, elsewhere.output_size) == (task.input, task.output_size)


def test_the_sample_is_in_the_file_s_units(tmp_path):
    task = make(tmp_path, of({"x": HILLS, "y": [10 * x for x in HILLS]}), horizon=2)
    model = models.find("sequence_model")(task.input, task.output_size, cells.find("gru"), hidden_size=4, num_layers=1)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    means = statistics.fmean(HILLS[:14]), 10 * statistics.fmean(HILLS[:14])
    assert [line.split() for line in task.sample(model).splitlines()[1:]] == [
        [name, ahead, f"{mean:.6g}", value]
        for name, mean, pair in (("x", means[0], "73"), ("y", means[1], ["70", "30"]))
        for ahead, value in zip("12", pair, strict=True)
    ]


def test_a_digest_tells_one_series_from_another(tmp_path):
    digests = {make(tmp_path, of({name: [*HILLS[:-1], last]})).data_digest() for name in "xy" for last in (1.0, 2.0)}
    assert len(digests) == 4


def _rows(*values):
    return "time,x\n" + "".join(f"{t},{value}\n" for t, value in enumerate(values))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no rows; give a CSV file"),
        ("time,x\n", "has no rows; give a CSV file"),
        ("time,x,x\n1,2,3\n", "has two columns named 'x'; rename one"),
        ("time|x\n1|2\n", "has one column, 'time[|]x', with cells that are not numbers; give numeric"),
        ("1,2\n3,4\n", "starts with numbers, 1, 2; add a first line with column names"),
        ("time,x,y\n1,2,3\n2,2\n", "line 3 has 2 cells, expected 3"),
        ("time,x\n1,2\n\n2,abc\n", "line 4, column 'x' has 'abc', which is not a number"),
        ("x\n1\n2\n3\n", "has one column, 'x', which is read as the time; to read it as numbers, name it in"),
        ("time,x\n1,inf\n", "line 2, column 'x' has 'inf', which is not a number"),
        ('time,x\n1,"2\n', r"line 2 is not CSV \(unexpected end of data\)"),
        (_rows(*[2] * 4), r"the train part of .* has 3 of 4 rows, too few for one window, which needs 4"),
        (_rows(*[2] * 14, *[""] * 6), r"the valid part of .* has no value to forecast"),
        (_rows(*[""] * 14, *[2] * 6), "the training part of column 'x' of .* is empty"),
        (b"\xff\xfe\x00bad", r"not UTF-8 text \(byte 0\)"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        make(tmp_path, text).batch("train", 0)


DAYS = [f"2024-01-{day:02}" for day in range(1, 21)]


@pytest.mark.parametrize(
    ("name", "cells", "is_time"),
    [
        ("a", HILLS, False),
        ("a", [3.0] * 20, False),
        ("a", [t * t for t in range(20)], False),
        ("travel (s)", HILLS, False),
        ("a", range(20), True),
        ("a", [round(0.1 * t, 1) for t in range(20)], True),
        ("a", DAYS, True),
        ("a", [f"{1990 + t // 4}Q{t % 4 + 1}" for t in range(20)], True),
        ("time", [t * t for t in range(20)], True),
        ("Time [s]", [t * t for t in range(20)], True),
        ("ObservationDate", range(1900, 1920), True),
        ("utc_time_ms", [t * t for t in range(20)], True),
        ("", [t * t for t in range(20)], True),
        ("a", [f"week {t}" for t in range(20)], True),
    ],
)
def test_the_first_column_is_the_time_if_it_looks_like_one(tmp_path, name, cells, is_time):
    text = f"{name},b\n" + "".join(f"{cell},{value}\n" for cell, value in zip(cells, HILLS, strict=True))
    task = make(tmp_path, text)
    assert task.table.names == (["b"] if is_time else [name, "b"])
    assert task.table.values[:, -1].tolist() == HILLS


@pytest.mark.parametrize(
    "form",
    ["%Y-%m-%d", "%Y%m%d", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y %H:%M", "%b %d, %Y", "%Y-%m-%dT%H:%M:%SZ"],
)
def test_dates_are_read_as_people_write_them(tmp_path, form):
    days = [datetime(2024, 1, 1) + timedelta(days=t) for t in range(20)]
    lines = [f'"{day.strftime(form)}",{value}\n' for day, value in zip(days, HILLS, strict=True)]
    task = make(tmp_path, "when,b\n" + "".join(lines))
    assert task.table.times.values == [86400.0 * t + 1704067200 for t in range(20)]
    assert "1 d apart, no gaps" in task.describe()[0]
    with pytest.raises(InputError, match="has its newest row first, by column 'when'; put the oldest first"):
        make(tmp_path, "when,b\n" + "".join(lines[::-1])).table  # noqa: B018


def test_a_date_and_a_time_of_day_in_two_columns_are_one_time(tmp_path):
    rows = [
        f"{day},{hour}:30,{x}\n" for (day, hour), x in zip(itertools.product(DAYS[:5], range(4)), HILLS, strict=True)
    ]
    task = make(tmp_path, "day,clock,b\n" + "".join(rows))
    assert task.table.names == ["b"]
    assert "1 h to 21 h apart, median 1 h, treated as equal, gaps: 4" in task.describe()[0]


def _times(cells, name="when"):
    return f"{name},b\n" + "".join(f"{cell},{t % 3}\n" for t, cell in enumerate(cells))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (_times(DAYS[::-1]), "has its newest row first, by column 'when'; put the oldest first"),
        (_times(range(20, 0, -1), "t"), "newest row first, by column 't'.*; to read the column as numbers, name it in"),
        (
            _times([*DAYS[:5], *DAYS[4:]]),
            "lines 6 and 7 have the same time '2024-01-05' in column 'when'; keep one row for each time",
        ),
        (_times([*DAYS, *DAYS[-1:] * 2]), "lines 21 and 22 have the same time .* .also 1 other pairs of lines"),
        (
            _times([*DAYS[10:], *DAYS[:10]]),
            "line 12 has '2024-01-01' in column 'when', after '2024-01-20' in line 11; sort the rows",
        ),
        (
            _times([*DAYS[:9], "", *DAYS[10:]]),
            "line 11, column 'when' has '', which is not a time of the same format as '2024-01-01'",
        ),
        (
            _times([1, 2, 3, "x", 5], "time"),
            "line 5, column 'time' has 'x', which is not a time of the same format as '1'",
        ),
        (_times([1, 2, 3, "x", 5], "a"), "line 5, column 'a' has 'x', which is not a number"),
    ],
)
def test_rows_that_are_not_in_the_order_of_time_are_refused(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        make(tmp_path, text).table  # noqa: B018


def test_a_column_that_is_named_is_read_and_not_taken_for_the_time(tmp_path):
    task = make(tmp_path, _times([3, 1, 2, 2, 5], "time"), columns=["time", "b"])
    assert task.table.values[:, 0].tolist() == [3, 1, 2, 2, 5]


def test_a_trained_model_reads_the_columns_it_was_trained_on_whatever_their_order(tmp_path):
    """Earlier versions left the first column out always, and took rows in any order."""
    text = _times([5, 1, 1, 8, *HILLS], "time")
    old = Series(file="unused", seq_len=3)
    old.restore({"scaling": {"columns": ["b"], "targets": ["b"], "masked": False, "mean": [0.0], "deviation": [1.0]}})
    (tmp_path / "series.csv").write_text(text)
    old.file = str(tmp_path / "series.csv")
    assert old.table.values[:, 0].tolist() == [t % 3 for t in range(24)]
    values = np.array([[t % 3] for t in range(24)], dtype=float)
    assert old.data_digest() == hashlib.sha256(b"b" + values.tobytes()).hexdigest()


def test_what_was_read_is_told(tmp_path):
    values = {"x": HILLS, "y": [nan, *HILLS[1:]], "c": [2.5] * 20}
    rows = [["when", *values]]
    days = DAYS[:10] + [f"2024-02-{day:02}" for day in range(1, 11)]
    rows += [[day, *row] for day, row in zip(days, zip(*values.values(), strict=True), strict=True)]
    text = "\n".join(",".join("" if cell != cell else str(cell) for cell in row) for row in rows)
    told = make(tmp_path, text, targets=["x"]).describe()
    assert "20 rows" in told[0]
    assert "(train 14, valid 2, test 4)" in told[0]
    assert "time from column 'when', 2024-01-01 to 2024-02-10, 1 d to 22 d apart, median 1 d" in told[0]
    assert told[0].endswith("gaps: 1")
    x, y = ([statistics.fmean(seen), statistics.pstdev(seen)] for seen in (HILLS[:14], HILLS[1:14]))
    assert told[1:] == [
        f"column 'x': mean {x[0]:.4g}, deviation {x[1]:.4g} in training",
        f"column 'y': mean {y[0]:.4g}, deviation {y[1]:.4g} in training, 1 missing values, not forecast",
        "column 'c': mean 2.5, deviation 1 in training, constant there and not scaled, not forecast",
    ]


def test_files_as_spreadsheets_write_them_are_read(tmp_path):
    rows = "\r\n".join(f'"2020, {t}", {x} , NA, text' for t, x in enumerate(HILLS))
    task = make(tmp_path, b"\xef\xbb\xbf" + f'"time","x","y","note"\r\n{rows}\r\n\r\n'.encode(), columns=["x"])
    assert task.table.values[:, 0].tolist() == HILLS


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"columns": ["z"]}, "has no column 'z'; name one of time, x, y in task.columns"),
        (
            {"columns": ["x"], "targets": ["y"]},
            r"task\.targets has 'y', which is not among the columns read; choose from x",
        ),
        ({"columns": ["x", "x"]}, r"task\.columns is \['x', 'x'\]; name each column only once"),
        ({"horizon": 0}, r"task\.horizon=0 must be at least 1"),
        ({"split": [0.5, 0.4]}, r"task\.split=\[0.5, 0.4\] must be"),
        ({"horizon": 3}, r"the valid part of .* has 2 of 20 rows, too few for one window, which needs 3"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, options, says):
    with pytest.raises(InputError, match=says):
        make(tmp_path, of({"x": HILLS, "y": HILLS}), **options).batch("train", 0)


@pytest.mark.parametrize("file", ["etth2", "/", "no_such_file.csv"])
def test_a_missing_file_is_named(file):
    with pytest.raises(
        InputError, match=f"task.file='{file}' is neither a file nor one of example, etth1, sunspots, co2"
    ):
        Series(file=file).table  # noqa: B018


def test_the_example_has_one_column():
    with pytest.raises(InputError, match=r"task\.columns is \['x'\]; the example has one column, 'value'"):
        Series(columns=["x"]).table  # noqa: B018


def test_two_shares_mean_no_test(tmp_path):
    task = make(tmp_path, of({"x": HILLS, "y": [nan, *HILLS[1:]]}), split=[0.8, 0.2])
    assert task.splits == ("train", "valid")
    check_task(Series, file=task.file, seq_len=3, horizon=2, split=[0.8, 0.2])


def read(data_root, name):
    with (Path(data_root) / PUBLIC[name].path).open() as file:
        return list(csv.reader(file))[1:]


@pytest.mark.parametrize("horizon", [24, 96])
def test_etth1_is_cut_and_scaled_as_in_the_literature(data_root, horizon):
    task = Series(data_root=data_root, file="etth1", horizon=horizon)
    counts = {"train": 8640 - 96, "valid": 2880, "test": 2880}
    assert {s: len(ends) for s, ends in task.ends.items()} == {s: n - horizon + 1 for s, n in counts.items()}
    values = np.array([[float(x) for x in row[1:]] for row in read(data_root, "etth1")])
    scaled = (values - values[:8640].mean(0)) / values[:8640].std(0)
    first, last = task.batch("test", 0), task.batch("test", task.num_batches("test") - 1)
    np.testing.assert_allclose(first.inputs[:, 0], scaled[11520 - 96 : 11520], atol=1e-5)
    np.testing.assert_allclose(
        last.targets[-1, -1].view(7, horizon).t(), scaled[11520 + 2880 - horizon : 11520 + 2880], atol=1e-5
    )
    origins = range(11520, 11520 + 2880 - horizon + 1)
    errors = [scaled[o : o + horizon] - scaled[o - 1] for o in origins]
    expected = {"loss": np.mean(np.square(errors)), "mae": np.mean(np.abs(errors))}
    assert task.baselines("test")["persistence"] == pytest.approx(expected, rel=1e-5)


def test_etth1_can_be_univariate(data_root):
    task = Series(data_root=data_root, file="etth1", columns=["OT"], horizon=24)
    assert (task.input.size, task.output_size) == (1, 24)


def test_the_weeks_that_co2_lacks_are_not_scored(data_root):
    task = Series(data_root=data_root, file="co2")
    assert (task.input.size, int(task.values.isnan().sum()), len(task.values)) == (2, 59, 2284)
    assert int((task.inputs[:, 1] == 0).sum()) == 59
    first = next(t for t, row in enumerate(read(data_root, "co2")) if not row[1])
    assert task.inputs[first, 0] == task.inputs[first - 1, 0]


def test_there_are_309_years_of_sunspots(data_root):
    task = Series(data_root=data_root, file="sunspots")
    assert task.table.names == ["SUNACTIVITY"]
    assert len(task.table.values) == 309
    check_task(Series, data_root=data_root, file="sunspots", seq_len=20)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_semicolons_or_tabs_with_decimal_commas(tmp_path, separator):
    rows = [["year", "a", "b, c"], ["2001", "1,5", "-2"], ["2002", ",25", "1,5e3"], ["2003", "NA", "4"]]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(separator.join(row) for row in rows))
    table = read_csv(path)
    assert table.names == ["a", "b, c"]
    assert table.times.values == [2001, 2002, 2003]
    assert str(table.values.tolist()) == "[[1.5, -2.0], [0.25, 1500.0], [nan, 4.0]]"


def write_times(path, count=40, dates=False):
    """A CSV file whose rows are 1, 2 or 5 hours apart; returns the options of the task."""
    rows, now = ["when,x,y"], datetime(2024, 1, 1)
    for i in range(count):
        now += timedelta(hours=(1, 2, 2, 5)[i * i % 4])
        when = now.isoformat() if dates else (now - datetime(2024, 1, 1)).total_seconds() / 3600
        rows.append(f"{when},{HILLS[i % 20]},{HILLS[i * 3 % 20]}")
    path.write_text("\n".join(rows) + "\n")
    return {"file": str(path), "seq_len": 4, "batch_size": 3, "elapsed": "when"}


@pytest.mark.parametrize("dates", [False, True])
def test_a_column_of_times_gives_elapsed_times(tmp_path, dates):
    task = Series(**write_times(tmp_path / "own.csv", dates=dates))
    assert task.scaling["columns"] == ["x", "y"]
    assert task.has_elapsed
    with open(tmp_path / "own.csv") as file:
        lines = list(csv.DictReader(file))
    hours = [datetime.fromisoformat(row["when"]).timestamp() / 3600 if dates else float(row["when"]) for row in lines]
    gaps = [after - before for before, after in itertools.pairwise(hours)]
    unit = sorted(gaps[: len(task.rows["train"]) - 1])[(len(task.rows["train"]) - 2) // 2]
    assert task.scaling["time_unit"] == pytest.approx(unit * (3600 if dates else 1))
    for split in task.splits:
        for step in range(task.num_batches(split)):
            batch = task.batch(split, step)
            for i, end in enumerate(task.ends[split][task.chosen(split, step)].tolist()):
                expected = [1.0, *(gap / unit for gap in gaps[end - 3 : end])]
                assert batch.elapsed[:, i].tolist() == pytest.approx(expected)
    assert f"column 'when': elapsed times, median {task.scaling['time_unit']:g} in training" in task.describe()
    assert "treated as equal" not in task.describe()[0]


@pytest.mark.slow
def test_the_model_reads_the_elapsed_times_of_a_series(tmp_path):
    """The outputs of a batch are those of the equations of `cfc`, step by step with the times of the file."""
    check_task(Series, **write_times(tmp_path / "own.csv"))
    task = Series(**write_times(tmp_path / "own.csv"))
    cell = cells.create("cfc", input_size=2, hidden_size=5)
    batch = task.batch("valid", 0)
    outputs, _ = layers.Recurrent(cell)(batch.inputs, elapsed=batch.elapsed)
    state = cell.initial_state(batch.batch_size)
    for x, elapsed, expected in zip(batch.inputs, batch.elapsed, outputs, strict=True):
        constants, prepared = cell(x.unsqueeze(0), elapsed=elapsed.unsqueeze(0))
        output, state = cell.step(constants, tuple(one[0] for one in prepared), state)
        torch.testing.assert_close(output, expected)


@pytest.mark.slow
def test_times_reach_a_forecast(tmp_path):
    options = write_times(tmp_path / "own.csv", dates=True)
    run = tmp_path / "run"
    train(compose([
        "task=series", *(f"task.{name}={value}" for name, value in options.items()), "cell=cfc", "model.hidden_size=8",
        "trainer.steps=10", "trainer.eval_every=10", f"run_dir={run}", "logger.tensorboard=false",
        "logger.progress=false",
    ]))  # fmt: skip
    trained = rnnlab.load(run)
    found = trained.predict(trained.task.read_own(tmp_path / "own.csv"))
    with open(tmp_path / "own.csv") as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in "xy"}
    when = np.array([row["when"] for row in rows])
    frame = Frame(**columns, when=when)
    torch.testing.assert_close(trained.predict(frame).values, found.values)
    torch.testing.assert_close(trained.predict([frame]).values, found.values)
    frame = Frame(**columns, when=when.astype("datetime64[s]"))
    torch.testing.assert_close(trained.predict(frame).values, found.values)
    even = Frame(**columns, when=np.arange(40) * np.timedelta64(1, "h") + np.datetime64("2024-01-01"))
    assert not torch.allclose(trained.predict(even).values, found.values)
    assert main(["evaluate", f"run={run}"]) == 0
    assert main(["export", f"run={run}"]) == 0
    with pytest.raises(InputError, match="must be"):
        trained.predict(np.zeros((5, 2)))


def test_times_of_a_series_that_cannot_be_used_are_refused(tmp_path):
    path = tmp_path / "own.csv"
    options = write_times(path)
    for changed, sentence in (
        ({"elapsed": "then"}, "has no column 'then' of times, which task.elapsed names"),
        ({"elapsed": "x"}, "the rows are not in the order of their times in column 'x'"),
        ({"columns": ["x", "when"]}, "task.elapsed=when is also in task.columns"),
        ({"file": "example"}, "the example has no column of times"),
    ):
        with pytest.raises(InputError, match=sentence):
            Series(**options | changed).scaling  # noqa: B018 - reads the file
    path.write_text(path.read_text().replace("\n", "\nnoon,1,2\n", 1))
    with pytest.raises(InputError, match=r"not a time of the same format|neither numbers nor dates"):
        Series(**options).scaling  # noqa: B018
