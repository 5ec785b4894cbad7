"""Read time series from CSV files: find the time column, read the numeric columns and check the row order."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from math import isfinite, nan
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rnnlab.interface import InputError

MISSING = ("", "na", "nan")
DECIMAL_COMMA = re.compile(r"^(\s*[-+]?\d*),(\d+(?:[eE][-+]?\d+)?\s*)$")
TIME_NAMES = {
    *("time", "date", "datetime", "timestamp", "ts", "ds", "t", "unix", "epoch", "index", "idx", "step", "period"),
    *("year", "quarter", "month", "week", "day", "hour", "minute", "second"),
}
"""If the name of the first column ends with one of these words, the column is the time."""
UNITS = {"s", "sec", "secs", "seconds", "ms", "us", "ns", "min", "minutes", "h", "hours", "d", "days", "utc", "gmt"}
DAYS = (
    *("%Y-%m-%d", "%Y-%m", "%Y/%m/%d", "%Y/%m", "%Y.%m.%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y"),
    *("%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%b %Y", "%B %Y", "%b-%y", "%b-%Y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y"),
    *("%d-%b-%y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y"),
)
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
"""The supported formats of dates (`DAYS`) and times of day (`CLOCKS`), in addition to ISO 8601."""


class Times(NamedTuple):
    """The time of each row.

    columns: names of the time columns: one column, or two for a date and a time of day.
    cells: text of the time cells.
    values: seconds if the cells are dates, otherwise the numbers of the cells; empty if the cells are neither.
    are_dates: whether the cells are dates, and the values seconds.
    """

    columns: list[str]
    cells: list[str]
    values: list[float]
    are_dates: bool


class Table(NamedTuple):
    """The numeric columns of a file.

    names: names of the columns.
    values: float64 ``[N, columns]``, NaN for empty cells.
    times: times of the rows; None if the file has no time column or the reader did not look for it.
    instants: the time of each row in the column ``elapsed`` of `read_csv`, float64 ``[N]``; None without it.
    """

    names: list[str]
    values: Tensor
    times: Times | None = None
    instants: Tensor | None = None


def read_csv(path: Path, columns: Sequence[str] = (), check_times: bool = True, elapsed: str = "") -> Table:
    """Read the numeric columns of a CSV file.

    Args:
        path: path of the file; its first line contains the column names.
        columns: names of the columns to read; empty: all except the time.
        check_times: whether to look for a time column and to check that the rows are in its order.
        elapsed: name of a column of times, which is read into ``instants``; empty for none. If it is the first column
            and the second one has times of day, both are read.

    Raises:
        InputError: the file cannot be read, a column does not exist, a cell is neither a number nor empty, or the rows
            are not in chronological order.
    """
    header, lines = cells_of(path)
    if all(number_of(name) is not None for name in header):
        raise InputError(f"{path} starts with numbers, {', '.join(header)}; add a first line with column names")
    if len(header) == 1 and not columns and any(number_of("".join(cells)) is None for _, cells in lines):
        raise InputError(
            f"{path} has one column, {header[0]!r}, with cells that are not numbers; give numeric columns, separated "
            "by commas"
        )
    check_cells(path, header, lines, columns)
    times = _find_times(path, header, lines) if check_times and header[0] not in columns else None
    names = list(columns) or [name for name in header if times is None or name not in times.columns]
    instants = _instants_in(path, header, lines, elapsed) if elapsed else None
    names = names if columns else [name for name in names if name != elapsed]
    if not names:
        raise InputError(
            f"{path} has one column, {header[0]!r}, which is read as the time; to read it as numbers, name it in "
            "task.columns"
        )
    values = _numbers_of(path, header, lines, names)
    if times is not None:
        _check_order(path, times, [line for line, _ in lines])
    return Table(names, values, times, instants)


def _instants_in(path: Path, header: list[str], lines: list[tuple[int, list[str]]], name: str) -> Tensor:
    """The times of the rows in the column ``name``, float64 ``[N]``."""
    if name not in header:
        raise InputError(f"{path} has no column {name!r} of times, which task.elapsed names")
    place = header.index(name)
    cells = [row[place].strip() for _, row in lines]
    both = _with_clock(header, lines, cells) if place == 0 and isinstance(_instants(cells), list) else None
    return times_in(cells, name) if both is None else torch.tensor(both.values, dtype=torch.float64)


def times_in(cells: list[str], name: str) -> Tensor:
    """The times in a column, float64 ``[rows]``: numbers, or seconds for dates.

    Raises:
        InputError: a cell is neither.
    """
    found = instants_of(cells)
    if found is None:
        raise InputError(f"column {name!r} has cells that are neither numbers nor dates of one format; correct them")
    return torch.tensor(found, dtype=torch.float64)


def cells_of(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The column names, and for each row its line number and its cells.

    Cells are separated by commas, or by semicolons or tabs if the first line has more of them. In the latter case,
    numbers may have decimal commas; they are returned with points.

    Raises:
        InputError: the file is not a CSV file with a line of column names and at least one row.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); convert it to UTF-8 first") from None
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)  # the comma if there are equally many
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} is not CSV ({error}); correct the line") from None
    if len(lines) < 2:
        raise InputError(f"{path} has no rows; give a CSV file with a line of column names and lines of numbers")
    header = [cell.strip() for cell in lines[0][1]]
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path} has two columns named {name!r}; rename one")
    if separator == ",":
        return header, lines[1:]
    return header, [(line, [DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in cells]) for line, cells in lines[1:]]


def check_cells(path: Path, header: list[str], lines: list[tuple[int, list[str]]], columns: Sequence[str]) -> None:
    """Check that the ``columns`` exist, and that every row has a cell for each column of the header.

    Raises:
        InputError: a column does not exist, or a row has more or fewer cells.
    """
    for name in columns:
        if name not in header:
            raise InputError(f"{path} has no column {name!r}; name one of {', '.join(header)} in task.columns")
    for line, cells in lines:
        if len(cells) != len(header):
            raise InputError(f"{path}, line {line} has {len(cells)} cells, expected {len(header)}; correct the line")


def times_of(column: np.ndarray, name: str) -> Tensor:
    """The times in a column of a DataFrame, float64 ``[rows]``; see `times_in`."""
    if column.dtype.kind == "M":
        return torch.from_numpy(column.astype("datetime64[ns]").astype(np.int64) / 1e9)
    return times_in([str(time) for time in column.tolist()], name)


def _numbers_of(path: Path, header: list[str], lines: list[tuple[int, list[str]]], names: list[str]) -> Tensor:
    """The values of the columns ``names``, ``[N, len(names)]``."""
    places = [header.index(name) for name in names]
    values = []
    for line, cells in lines:
        row = [number_of(cells[place]) for place in places]
        if None in row:
            place = places[row.index(None)]
            raise InputError(
                f"{path}, line {line}, column {header[place]!r} has {cells[place]!r}, which is not a number; "
                "correct it, leave it empty, or name other columns in task.columns"
            )
        values.append(row)
    return torch.tensor(values, dtype=torch.float64)


def number_of(cell: str) -> float | None:
    """The value of a cell: NaN if it is empty, None if it is not a number."""
    if cell.strip().lower() in MISSING:
        return nan
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if isfinite(value) else None


def instants_of(cells: list[str]) -> list[float] | None:
    """The times in a column: numbers, or seconds if the cells are dates; None if a cell is neither."""
    numbers = [number_of(cell) for cell in cells]
    if all(number is not None and number == number for number in numbers):
        return numbers
    dates = _instants(cells)
    return dates if isinstance(dates, list) else None


def _find_times(path: Path, header: list[str], lines: list[tuple[int, list[str]]]) -> Times | None:
    """The first column as the time, or None if it is not a time column.

    The first column is the time if it contains dates, if its name ends with one of `TIME_NAMES`, or if its numbers have
    equal steps. A first column of other text is also returned, but without values: it is not read as numbers, and the
    order of the rows is not checked.
    """
    cells = [row[0].strip() for _, row in lines]
    dates = _instants(cells)
    if isinstance(dates, list):
        return _with_clock(header, lines, cells) or Times(header[:1], cells, dates, True)
    numbers = [number_of(cell) for cell in cells]
    wrong = dates if dates is not None else next((i for i, n in enumerate(numbers) if n is None or n != n), None)
    is_named = _is_time_name(header[0])
    if wrong is None or (None not in numbers and not is_named):
        is_time = is_named or _has_equal_steps(numbers)
        return Times(header[:1], cells, numbers, False) if is_time else None
    if dates is None and numbers[0] is None:
        return Times(header[:1], cells, [], False)
    if dates is None and not is_named:
        return None  # a numeric column with an invalid cell; `_numbers_of` reports it
    raise InputError(
        f"{path}, line {lines[wrong][0]}, column {header[0]!r} has {cells[wrong]!r}, which is not a time of the same "
        f"format as {cells[0]!r}; correct it"
    )


def _with_clock(header: list[str], lines: list[tuple[int, list[str]]], days: list[str]) -> Times | None:
    """The first two columns as the time, if the second contains times of day; otherwise None."""
    if len(header) < 2:
        return None
    cells = [f"{day} {row[1].strip()}" for day, (_, row) in zip(days, lines, strict=True)]
    values = _instants(cells) if all(":" in row[1] for _, row in lines) else None
    return Times(header[:2], cells, values, True) if isinstance(values, list) else None


def _is_time_name(name: str) -> bool:
    """Whether the name of a column marks it as the time; an empty name marks an index, as written by pandas."""
    words = re.findall(r"[a-z]+", re.sub(r"[(\[].*", "", re.sub(r"([a-z])([A-Z])", r"\1 \2", name)).lower())
    while len(words) > 1 and words[-1] in UNITS:
        words.pop()
    return name == "" or (bool(words) and words[-1] in TIME_NAMES)


def is_time(name: str, cells: list[str], is_first: bool) -> bool:
    """Whether a column contains times: dates or, if it is the first column, numbers under the name of a time."""
    if is_first and _is_time_name(name) and all(number_of(cell) is not None for cell in cells):
        return True
    return number_of(cells[0]) is None and isinstance(_instants(cells), list)


def _has_equal_steps(numbers: list[float]) -> bool:
    steps = [after - before for before, after in pairwise(numbers)]
    return len(steps) > 1 and steps[0] != 0 and all(abs(step - steps[0]) <= 1e-6 * abs(steps[0]) for step in steps)


def _instants(cells: list[str]) -> list[float] | int | None:
    """Convert cells to seconds since 1970.

    Returns:
        the seconds; the index of an invalid cell if only the first cells are dates; None if the first cell is no date.
    """
    read, furthest = [], None
    for parse in _parsers(cells[0]):
        found = []
        for place, cell in enumerate(cells):
            try:
                found.append(_seconds(parse(cell)))
            except ValueError:
                furthest = place if furthest is None else max(furthest, place)
                break
        else:
            read.append(found)
    # A date such as 01/02/2024 is ambiguous; prefer the format in which the rows are in order.
    return next((found for found in read if _is_increasing(found)), read[0] if read else furthest)


def _parsers(cell: str) -> list[Callable[[str], datetime]]:
    """The functions that can parse ``cell`` as a date."""
    if cell.isdigit() and len(cell) != 8:  # a number; fromisoformat would accept some numbers of 11 digits
        return []
    parsers = [datetime.fromisoformat, _quarter]
    for form in [] if cell.isdigit() else [day + clock for day in DAYS for clock in CLOCKS]:
        parsers.append(lambda text, form=form: datetime.strptime(text, form))
    return [parse for parse in parsers if _reads(parse, cell)]


def _quarter(text: str) -> datetime:
    """The first day of a quarter such as 2024Q1."""
    match = re.fullmatch(r"(\d{4})[- ]?[Qq]([1-4])", text)
    if match is None:
        raise ValueError(text)
    return datetime(int(match[1]), 3 * int(match[2]) - 2, 1)


def _reads(parse: Callable[[str], datetime], cell: str) -> bool:
    try:
        parse(cell)
    except ValueError:
        return False
    return True


def _seconds(date: datetime) -> float:
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _is_increasing(values: Iterable[float]) -> bool:
    return all(before < after for before, after in pairwise(values))


def _check_order(path: Path, times: Times, lines: list[int]) -> None:
    """Check that each row is later than the previous row.

    Raises:
        InputError: a row is not later.
    """
    if _is_increasing(times.values):
        return
    column = " and ".join(map(repr, times.columns))
    are_numbers = all(number_of(cell) is not None for cell in times.cells)
    way = "; to read the column as numbers, name it in task.columns" if are_numbers else ""
    if _is_increasing(-value for value in times.values):
        raise InputError(f"{path} has its newest row first, by column {column}; put the oldest first{way}")
    wrong = [i for i, (before, after) in enumerate(pairwise(times.values)) if after < before]
    if wrong:
        first = wrong[0]
        raise InputError(
            f"{path} is not in chronological order: line {lines[first + 1]} has {times.cells[first + 1]!r} in column "
            f"{column}, after {times.cells[first]!r} in line {lines[first]}; sort the rows{way}"
        )
    twice = [i for i, (before, after) in enumerate(pairwise(times.values)) if after == before]
    more = f" (also {len(twice) - 1} other pairs of lines)" if len(twice) > 1 else ""
    raise InputError(
        f"{path}, lines {lines[twice[0]]} and {lines[twice[0] + 1]} have the same time {times.cells[twice[0]]!r} in "
        f"column {column}{more}; keep one row for each time{way}"
    )


def tell_times(times: Times | None, are_read: bool = False) -> str:
    """A summary of the times of the rows: column, span, spacing and gaps; ``are_read`` is for elapsed times."""
    if times is None:
        return "no time column; rows are assumed to be equally spaced, in the order of the file"
    column = " and ".join(map(repr, times.columns))
    if not times.values:
        reason = f"{times.cells[0]!r} is neither a date nor a number"
        return f"column {column} is not read and the order of the rows is not checked: {reason}"
    span = f"time from column {column}, {times.cells[0]} to {times.cells[-1]}"
    steps = [after - before for before, after in pairwise(times.values)]
    if not steps:
        return span
    tell, usual = (_duration if times.are_dates else lambda number: f"{number:g}"), median(steps)
    gaps = [step for step in steps if step > 1.5 * usual]
    spacing = f"{tell(usual)} apart"
    if max(steps) - min(steps) > 1e-6 * usual:
        treated = "" if are_read else ", treated as equal"
        spacing = f"{tell(min(steps))} to {tell(max(steps))} apart, median {tell(usual)}{treated}"
    return f"{span}, {spacing}, " + (f"gaps: {len(gaps)}" if gaps else "no gaps")


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
