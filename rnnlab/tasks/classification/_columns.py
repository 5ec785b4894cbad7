"""Encode the columns of sequences as numbers: standardised values, one-hot categories and masks of missing values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rnnlab.interface import InputError
from rnnlab.tasks._predicting import hold
from rnnlab.tasks.classification._labelled import CHARACTER, Labelled
from rnnlab.tasks.signals._csv import MISSING, number_of
from rnnlab.tasks.signals.base import scale_of

MOST_CATEGORIES = 1000
"""Largest number of categories of a column, unless the column has the characters of texts."""


def numbers_in(cells: list[str] | Tensor) -> Tensor | None:
    """The values of a column, float64 ``[rows]`` with NaN for missing ones; None if a cell is not a number."""
    if isinstance(cells, Tensor):
        return cells
    values = [number_of(cell) for cell in cells]
    return None if None in values else torch.tensor(values, dtype=torch.float64)


def fit(data: Labelled, is_train: Tensor) -> dict[str, Any]:
    """The encoding of the columns, from the training rows: a column is numeric if all its cells are numbers or missing.

    Args:
        data: all sequences.
        is_train: whether each row is a training row, bool ``[rows]``.

    Returns:
        plain containers: ``numeric`` with mean and deviation by column, ``categories`` by column, and ``masked``,
        whether numeric columns have masks.

    Raises:
        InputError: a column has no values or too many categories.
    """
    numeric: dict[str, list[float]] = {}
    categories: dict[str, list[str]] = {}
    rows, masked = is_train.nonzero().flatten(), False
    for name, cells in data.columns.items():
        values = numbers_in(cells)
        if values is None:
            found = sorted({cells[row] for row in rows.tolist()} - set(MISSING))
            if len(found) > MOST_CATEGORIES and name != CHARACTER:
                raise InputError(
                    f"column {name!r} has {len(found)} different values that are not numbers, more than "
                    f"{MOST_CATEGORIES}; name the other columns in task.columns"
                )
            categories[name] = found
            continue
        train = values[rows].unsqueeze(1)
        if train.isnan().all():
            raise InputError(f"the training part of column {name!r} is empty; name the other columns in task.columns")
        mean = train.nanmean(0)
        scales = scale_of(train, mean, (train - mean).square().nanmean(0).sqrt())
        numeric[name] = [float(scale) for scale in scales]
        masked |= bool(values.isnan().any())
    return {"numeric": numeric, "categories": categories, "masked": masked}


def size_of(encoding: dict[str, Any]) -> int:
    """The number of inputs of a step."""
    masks = 2 if encoding["masked"] else 1
    return masks * len(encoding["numeric"]) + sum(map(len, encoding["categories"].values()))


def encode(data: Labelled, encoding: dict[str, Any]) -> list[Tensor]:
    """The inputs of each sequence, float ``[T, size_of(encoding)]``.

    Numeric columns come first, then the categories of each categorical column, then the masks. A missing number is the
    last observed one of its sequence, or the mean; a missing or unknown category is all zeros.

    Raises:
        InputError: a column is missing, or a numeric column has a cell that is not a number.
    """
    for name in (*encoding["numeric"], *encoding["categories"]):
        if name not in data.columns:
            raise InputError(
                f"the data have no column {name!r}; the model needs it (columns: {', '.join(data.columns)})"
            )
    parts: list[Tensor] = []
    if encoding["numeric"]:
        parts += _numeric(data, encoding)
    for place, (name, categories) in enumerate(encoding["categories"].items(), bool(parts)):
        cells, known = data.columns[name], {category: i for i, category in enumerate(categories)}
        cells = cells if isinstance(cells, list) else [f"{value:g}" for value in cells.tolist()]
        found = torch.tensor([known.get(cell, len(known)) for cell in cells], dtype=torch.int64)
        parts.insert(place, torch.nn.functional.one_hot(found, len(known) + 1)[:, :-1].float())
    return list(torch.cat(parts, 1).split(data.lengths))


def _numeric(data: Labelled, encoding: dict[str, Any]) -> list[Tensor]:
    """The standardised values ``[rows, columns]``, and the masks if the encoding has masks."""
    found = []
    for name, (mean, deviation) in encoding["numeric"].items():
        values = numbers_in(data.columns[name])
        if values is None:
            wrong = next(cell for cell in data.columns[name] if number_of(cell) is None)
            raise InputError(f"column {name!r} has {wrong!r}, which is not a number; correct it or leave it empty")
        found.append((values - mean) / deviation)
    values = torch.stack(found, 1)
    held = hold(values, data.lengths).float()
    if not held.isfinite().all():
        name = list(encoding["numeric"])[int(held.isfinite().all(0).int().argmin())]
        raise InputError(f"column {name!r} has numbers too large for float32; scale the column")
    return [held, (~values.isnan()).float()] if encoding["masked"] else [held]
