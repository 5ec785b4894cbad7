"""Read sequences with classes: a folder of one sub-folder per class, a CSV file, or lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rnnlab.data import read_lines
from rnnlab.interface import InputError
from rnnlab.tasks._predicting import read_arrays, sequences_of
from rnnlab.tasks.signals._csv import cells_of, check_cells, is_time, times_in

CHARACTER = "character"
"""The name of the only column of texts; its cells are the characters."""


class Labelled(NamedTuple):
    """Sequences of rows, with the class of each sequence.

    columns: for each column, its cells in all rows: text, or float64 ``[rows]`` with NaN for missing values.
    lengths: number of rows of each sequence; the sequences follow each other in ``columns``.
    labels: class of each sequence; empty if the classes are not known.
    ids: name of each sequence.
    left_out: names of the columns that are not read, with the reason.
    times: the time of each row, float64 ``[rows]``; None if they are not read.
    """

    columns: dict[str, list[str] | Tensor]
    lengths: list[int]
    labels: list[str]
    ids: list[str]
    left_out: dict[str, str]
    times: Tensor | None = None


def read_labelled(
    path: Path,
    sequence: str,
    label: str,
    columns: Sequence[str],
    text: str = "",
    time: str = "",
    needs_labels: bool = True,
) -> Labelled:
    """Read a folder or a file.

    Args:
        path: a folder with one sub-folder of CSV, .npz or .npy files per class; a CSV file with a column of sequence
            names, or one with a column of texts; a .txt file with lines of class, tab (or comma) and text.
        sequence: name of the column with the name of the sequence.
        label: name of the column with the class.
        columns: names of the columns to read; empty: all except sequence, class and times.
        text: name of the column of texts, each of which is a sequence of characters; empty for a file without texts.
        time: name of the column with the time of each row; empty to read no times.
        needs_labels: whether the class of each sequence is needed.

    Raises:
        InputError: the data cannot be read, or a class is missing.
    """
    if path.is_dir():
        return _read_folder(path, columns, time)
    if not path.is_file():
        raise InputError(f"{path} is neither a file nor a folder; give a CSV file, a .txt file or a folder of classes")
    if path.suffix == ".txt":
        return _read_lines(path, needs_labels)
    if path.suffix in (".npz", ".npy"):
        raise InputError(f"{path} has no classes; put the file into a folder with one sub-folder per class")
    if text:
        return _read_texts(path, text, label, needs_labels)
    return _read_table(path, sequence, label, columns, time, needs_labels)


def of_arrays(values: Any) -> Labelled:
    """Sequences of numbers without classes, see `rnnlab.tasks._predicting.sequences_of`; columns are ``x0``, ``x1``."""
    first = values[0] if isinstance(values, list | tuple) and len(values) else values
    size = np.shape(first)[-1] if np.ndim(first) > 1 else 1
    rows, lengths = sequences_of(values, size)
    return Labelled({f"x{i}": rows[:, i] for i in range(size)}, lengths, [], _numbers(len(lengths)), {})


def of_texts(texts: list[str], labels: list[str]) -> Labelled:
    """Texts as sequences of characters."""
    cells = [character for text in texts for character in text]
    return Labelled({CHARACTER: cells}, list(map(len, texts)), labels, _numbers(len(texts)), {})


def joined(parts: list[Labelled], source: str) -> Labelled:
    """The sequences of several parts, which must have the same columns.

    Raises:
        InputError: they have not.
    """
    columns = parts[0].columns
    for part in parts:
        if set(part.columns) != set(columns):
            raise InputError(
                f"{source} has sequences with the columns {', '.join(columns)} and with {', '.join(part.columns)}; "
                "all must have the same, without empty columns"
            )
    cells: dict[str, list[str] | Tensor] = {}
    for name in columns:
        found = [part.columns[name] for part in parts]
        if all(isinstance(one, Tensor) for one in found):
            cells[name] = torch.cat(found)
        else:
            cells[name] = [str(cell) for one in found for cell in (one if isinstance(one, list) else one.tolist())]
    lengths, labels, ids = ([x for part in parts for x in part[place]] for place in (1, 2, 3))
    times = [part.times for part in parts]
    whole = None if any(one is None for one in times) else torch.cat(times)
    return Labelled(cells, lengths, labels, ids, parts[0].left_out, whole)


def _read_folder(path: Path, columns: Sequence[str], time: str) -> Labelled:
    """The class of a file is the name of its folder."""
    parts: list[Labelled] = []
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        for file in sorted(folder.iterdir()):
            if file.suffix in (".npz", ".npy"):
                found = of_arrays(read_arrays(file))
            elif file.suffix in (".csv", ".tsv"):
                header, lines = cells_of(file)
                found = _part(file, header, lines, [0] * len(lines), columns, (), time)
            else:
                continue
            count = len(found.lengths)
            ids = [f"{folder.name}/{file.name}" + (f"#{i}" if count > 1 else "") for i in range(count)]
            parts.append(found._replace(labels=[folder.name] * count, ids=ids))
    if not parts:
        raise InputError(f"{path} has no CSV, .npz or .npy files in sub-folders; give one sub-folder for each class")
    return joined(parts, str(path))


def _read_lines(path: Path, needs_labels: bool) -> Labelled:
    texts, labels = [], []
    for number, line in enumerate(read_lines(path), 1):
        separator = "\t" if "\t" in line else ","
        label, found, text = line.partition(separator)
        if not needs_labels:
            label, text = ("", line)
        elif not found or not label.strip():
            raise InputError(f"{path}, line {number} has no class; write the class, a tab or a comma, and the text")
        if not text.strip():
            raise InputError(f"{path}, line {number} has no text; remove the line or complete it")
        texts.append(text.strip())
        labels.append(label.strip())
    return of_texts(texts, labels if needs_labels else [])


def _read_texts(path: Path, text: str, label: str, needs_labels: bool) -> Labelled:
    """The texts of a column of a CSV file, with the class in another column."""
    header, lines = cells_of(path)
    wanted = {"text": text, "label": label} if needs_labels else {"text": text}
    _check_columns(path, header, wanted)
    check_cells(path, header, lines, ())
    found = {option: [cells[header.index(name)].strip() for _, cells in lines] for option, name in wanted.items()}
    for option, cells in found.items():
        if "" in cells:
            line = lines[cells.index("")][0]
            raise InputError(f"{path}, line {line} has no {option}; remove the line or complete it")
    return of_texts(found["text"], found.get("label", []))


def _check_columns(path: Path, header: list[str], wanted: dict[str, str]) -> None:
    """Check that the columns that are named in options exist."""
    for option, name in wanted.items():
        if name not in header:
            more = "; name a column of texts in task.text" if option == "sequence" else ""
            raise InputError(
                f"{path} has no column {name!r}; name the column of the {option} in task.{option}, one of "
                f"{', '.join(header)}{more}"
            )


def _read_table(
    path: Path, sequence: str, label: str, columns: Sequence[str], time: str, needs_labels: bool
) -> Labelled:
    header, lines = cells_of(path)
    if needs_labels:
        _check_columns(path, header, {"sequence": sequence, "label": label})
    groups: dict[str, list[int]] = {}
    for row, (line, cells) in enumerate(lines):
        if len(cells) != len(header):
            raise InputError(f"{path}, line {line} has {len(cells)} cells, expected {len(header)}; correct the line")
        groups.setdefault(cells[header.index(sequence)] if sequence in header else "0", []).append(row)
    order = [row for rows in groups.values() for row in rows]
    numbers = [number for number, rows in enumerate(groups.values()) for _ in rows]
    found = _part(path, header, [lines[row] for row in order], numbers, columns, (sequence, label), time)
    return found._replace(labels=_labels_of(path, header, lines, groups, label) if needs_labels else [], ids=[*groups])


def _labels_of(path: Path, header: list[str], lines: Any, groups: dict[str, list[int]], label: str) -> list[str]:
    """The class of each sequence, which is the same in all its rows."""
    labels, place = [], header.index(label)
    for name, rows in groups.items():
        found = {lines[row][1][place].strip() for row in rows}
        if len(found) > 1 or "" in found:
            raise InputError(
                f"{path}, sequence {name!r} has the classes {', '.join(map(repr, sorted(found)))} in column {label!r}; "
                "give each sequence one class"
            )
        labels += found
    return labels


def _part(
    path: Path,
    header: list[str],
    lines: list[tuple[int, list[str]]],
    numbers: list[int],
    columns: Sequence[str],
    others: Sequence[str],
    time: str,
) -> Labelled:
    """The columns of rows that are sorted by their sequence, whose number is in ``numbers``."""
    check_cells(path, header, lines, columns)
    cells = {name: [row[place].strip() for _, row in lines] for place, name in enumerate(header) if name not in others}
    instants = None
    if time:
        instants = times_in(cells[time], time) if time in cells else _no_times(str(path), time)
    if columns:
        return Labelled({name: cells[name] for name in columns}, _counts(numbers), [], [], {}, instants)
    times = [name for place, name in enumerate(cells) if is_time(name, cells[name], is_first=place == 0)]
    if len(times) == len(cells):
        raise InputError(f"{path} has no column of values; to read a column, name it in task.columns")
    kept = {name: values for name, values in cells.items() if name not in times and name != time}
    return Labelled(kept, _counts(numbers), [], [], dict.fromkeys((n for n in times if n != time), "time"), instants)


def _no_times(source: str, name: str) -> Tensor:
    raise InputError(f"{source} has no column {name!r} of times, which task.elapsed names")


def gaps_of(data: Labelled, name: str) -> list[Tensor]:
    """The time between each row of a sequence and the row before it, float64 ``[T]``; NaN for the first row.

    Raises:
        InputError: a row is earlier than the row before it, or the times were not read.
    """
    if data.times is None:
        _no_times("the data", name)
    found = []
    for times, sequence in zip(data.times.split(data.lengths), data.ids, strict=True):
        gaps = torch.cat([times.new_full((1,), nan), times.diff()])
        if (gaps < 0).any():
            raise InputError(
                f"sequence {sequence!r} is not in the order of its times in column {name!r}; sort its rows"
            )
        found.append(gaps)
    return found


def _counts(numbers: list[int]) -> list[int]:
    counts = [0] * (numbers[-1] + 1)
    for number in numbers:
        counts[number] += 1
    return counts


def _numbers(count: int) -> list[str]:
    return [str(i) for i in range(count)]
