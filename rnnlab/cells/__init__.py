"""Recurrent cells: one published cell per file, each written as the equations of one time step.

To add a cell, add a file here. A YAML file in ``conf/cell`` is only needed for a preset: other defaults under a new
name, with ``class: NAME``.
"""

import re
import sys
from typing import Any, NamedTuple

from rnnlab import lookup
from rnnlab.cells.base import Cell, surrogate


def available() -> list[str]:
    """Return the names of the built-in cells."""
    return lookup.available(sys.modules[__name__])


def find(name: str) -> type[Cell]:
    """Return the class of the cell ``name``: a built-in name or ``package.module:Class``."""
    return lookup.find(name, sys.modules[__name__], Cell)


class Description(NamedTuple):
    """Title, paper, year and family (folder) of a built-in cell."""

    title: str
    paper: str
    year: int
    family: str


def describe(name: str) -> Description:
    """Return the description of a built-in cell, from the first line of its docstring: title (authors, year, venue)."""
    kind = find(name)
    found = re.match(r"(.+?) \((.+?, (\d{4}).*)\)", kind.__doc__ or "")
    assert found, f"the docstring of {kind.__name__} begins with another line than title (authors, year, venue)"
    title, paper, year = found.groups()
    return Description(title, paper, int(year), kind.__module__.split(".")[-2])


def create(name: str, *, input_size: int, hidden_size: int, **options: Any) -> Cell:
    """Create a cell.

    Args:
        name: a built-in name (see `available`) or ``package.module:Class``.
        input_size: number of input features.
        hidden_size: width of the hidden state.
        options: keyword-only options of the cell.

    Raises:
        InputError: the cell or the option does not exist.
    """
    cell = find(name)
    lookup.check_options(options, cell, f"cell {name!r}")
    return cell(input_size, hidden_size, **options)


__all__ = ["Cell", "Description", "available", "create", "describe", "find", "surrogate"]
