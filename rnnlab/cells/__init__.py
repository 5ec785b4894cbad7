"""Recurrent cells: one published cell per file, each written as the equations of one time step.

To add a cell, add a file here and a YAML file of the same name in ``conf/cell``; nothing else.
"""

import re
import sys
from typing import Any, NamedTuple

from rnnlab import lookup
from rnnlab.cells.base import Cell, surrogate


def available() -> list[str]:
    """The names of the built-in cells."""
    return lookup.available(sys.modules[__name__])


def find(name: str) -> type[Cell]:
    """The class of the cell ``name``: a built-in name or ``package.module:Class``."""
    return lookup.find(name, sys.modules[__name__], Cell)


class Description(NamedTuple):
    """What a cell's class says of it: its title, the paper it is from with the year, and the folder it stands in."""

    title: str
    paper: str
    year: int
    family: str


def describe(name: str) -> Description:
    """The description of a built-in cell; its docstring begins with a title and (authors, year, where)."""
    kind = find(name)
    title, paper, year = re.match(r"(.+?) \((.+?, (\d{4}).*)\)", kind.__doc__.splitlines()[0]).groups()
    return Description(title, paper, int(year), kind.__module__.split(".")[-2])


def create(name: str, *, input_size: int, hidden_size: int, **options: Any) -> Cell:
    """A new cell.

    Args:
        name: a built-in name (see `available`) or ``package.module:Class``.
        input_size: features of an input.
        hidden_size: width of the hidden state.
        options: the cell's own keyword-only options.

    Raises:
        InputError: there is no such cell, or it has no such option.
    """
    cell = find(name)
    lookup.check_options(options, cell, f"cell {name!r}")
    return cell(input_size, hidden_size, **options)


__all__ = ["Cell", "Description", "available", "create", "describe", "find", "surrogate"]
