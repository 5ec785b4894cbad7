"""Reader for the .ts format of sktime and aeon: time series with classes."""

from __future__ import annotations

from math import isfinite, nan
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rnnlab.interface import InputError


class Cases(NamedTuple):
    """The content of a file.

    classes: names of the classes, in the order of the file's header.
    series: one tensor per series, float32 ``[T, dimensions]``, NaN for missing values.
    labels: class index of each series.
    """

    classes: list[str]
    series: list[Tensor]
    labels: list[int]


def read_ts(path: Path) -> Cases:
    """Read the series and classes of a .ts file.

    The header consists of lines ``@name value`` and ends with ``@data``; names are case-insensitive. Each line after it
    is one series: dimensions are separated by colons, values by commas, and the class is last. ``#`` starts a comment
    line, ``?`` is a missing value. Time stamps, series without a class, and series whose dimensions differ in length
    are not supported.

    Raises:
        InputError: the file or one of its lines cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; put the file into {path.parent}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); convert it to UTF-8 first") from None
    lines = [(number, line) for number, line in enumerate(map(str.strip, text.split("\n")), 1) if line]
    lines = [(number, line) for number, line in lines if not line.startswith("#")]

    header: dict[str, list[str]] = {}
    while lines and "data" not in header:
        number, line = lines.pop(0)
        if not line.startswith("@"):
            raise InputError(
                f"{path}, line {number} comes before @data and starts with neither @ nor #; correct the line"
            )
        name, *values = line[1:].split() or [""]
        header[name.lower()] = values
    classes, dimensions, length = _read_header(path, header)

    series, labels = [], []
    for number, line in lines:
        *parts, label = (part.strip() for part in line.split(":"))
        if label not in classes:
            raise InputError(f"{path}, line {number} has the class {label!r}, which is not in @classLabel; correct it")
        case = _case(f"{path}, line {number}", parts, dimensions, length)
        dimensions = case.shape[1]
        series.append(case)
        labels.append(classes.index(label))
    if not series:
        raise InputError(f"{path} has no series after @data; give a file with at least one")
    return Cases(classes, series, labels)


def _read_header(path: Path, header: dict[str, list[str]]) -> tuple[list[str], int | None, int | None]:
    """The classes, and the numbers of dimensions and of steps if the header has them."""
    if "data" not in header:
        raise InputError(f"{path} has no @data line; give a file in the .ts format")
    said = {name: values[0].lower() for name, values in header.items() if values}
    if said.get("timestamps") == "true":
        raise InputError(f"{path} has time stamps, which are not supported; give series with equally spaced steps")
    classes = header.get("classlabel", [])[1:]
    if said.get("classlabel") != "true" or not classes:
        raise InputError(f"{path} has no line '@classLabel true' followed by class names; give a file with classes")
    sizes = []
    for name, shown in (("dimensions", "@dimensions"), ("serieslength", "@seriesLength")):
        given = header.get(name)
        if given is not None and not (len(given) == 1 and given[0].isdecimal() and int(given[0]) > 0):
            raise InputError(f"{path} has {shown} {' '.join(given)}; it must be an integer of at least 1")
        sizes.append(int(given[0]) if given else None)
    dimensions, length = sizes
    if said.get("univariate") == "true":
        dimensions = dimensions or 1
    return classes, dimensions, None if said.get("equallength") == "false" else length


def _case(where: str, parts: list[str], dimensions: int | None, length: int | None) -> Tensor:
    """Parse one series ``[T, dimensions]`` from the text of its dimensions."""
    if dimensions not in (None, len(parts)):
        raise InputError(f"{where} has {len(parts)} dimensions, expected {dimensions}; correct the line")
    values = [[_number(where, cell.strip()) for cell in part.split(",")] for part in parts]
    lengths = {len(row) for row in values}
    if len(lengths) != 1:
        raise InputError(f"{where} has dimensions of {sorted(lengths)} steps; all must have the same length")
    if length not in (None, *lengths):
        raise InputError(f"{where} has {lengths.pop()} steps, @seriesLength says {length}; correct one of them")
    return torch.tensor(values).t().contiguous()


def _number(where: str, cell: str) -> float:
    if cell.lower() in ("?", "nan"):
        return nan
    try:
        value = float(cell)
    except ValueError:
        value = nan
    if not isfinite(value):
        raise InputError(f"{where} has {cell!r}, which is not a number; correct it, or write ? for a missing value")
    return value
