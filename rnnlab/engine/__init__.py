"""How a cell is run over time: one cell, several ways, always the same numbers.

=============  =====================================================================================
``reference``  a plain loop over the steps with autograd: any cell, any dtype; the truth for the others
``fused``      one autograd function for the sequence: the step traced, its backward step derived; any cell that does
               what `rnnlab.engine.derive` has rules for; written out by ``rnnlab explain``
``native``     ``torch.nn``'s own kernel (oneDNN, cuDNN), for cells whose mathematics it has
``auto``       ``native`` where the cell has it, ``reference`` otherwise
=============  =====================================================================================

A way of running is a function ``run(cell, inputs, state, lengths, **context) -> (outputs, state)``.
"""

from collections.abc import Callable
from typing import NamedTuple

from rnnlab.cells import Cell
from rnnlab.engine import fused, native, reference
from rnnlab.engine.trace import Unsupported
from rnnlab.interface import InputError

BACKENDS = ("auto", "reference", "fused", "native")


class Choice(NamedTuple):
    """The way chosen for a cell: its name, its function, and why it was chosen."""

    name: str
    run: Callable
    reason: str


def choose(cell: Cell, backend: str = "auto") -> Choice:
    """How to run ``cell``.

    Args:
        cell: the cell.
        backend: one of `BACKENDS`.

    Raises:
        InputError: there is no such backend, or it cannot run this cell.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}; the choices are {', '.join(BACKENDS)}")
    has_native = cell.native() is not None
    if backend == "native" and not has_native:
        raise InputError(
            f"backend 'native' cannot run {type(cell).__name__} as configured, torch.nn has no such layer; "
            "'reference' can, and 'auto' picks it"
        )
    if backend == "fused":
        try:
            fused.steps_of(cell)
        except Unsupported as error:
            raise InputError(
                f"backend 'fused' cannot run {type(cell).__name__}, its step does {error}; 'reference' can"
            ) from error
    if backend != "auto":
        return Choice(backend, _RUN[backend], "asked for")
    if has_native:
        return Choice("native", native.run, "torch.nn has this cell and runs it at least as fast")
    return Choice("reference", reference.run, "torch.nn has no such cell")


def backends_of(cell: Cell) -> list[str]:
    """The backends, other than ``auto``, that can run ``cell``; the reference first."""
    found = []
    for backend in BACKENDS[1:]:
        try:
            found.append(choose(cell, backend).name)
        except InputError:
            continue
    return found


_RUN = {"reference": reference.run, "fused": fused.run, "native": native.run}
