"""A cell around another cell."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rnnlab.cells.base import Cell
from rnnlab.trees import State


def innermost(cell: Cell) -> Cell:
    """Return the cell inside all wrappers."""
    while isinstance(inner := getattr(cell, "cell", None), Cell):  # wrappers of users need not be `Wrapped`
        cell = inner
    return cell


def name_of(cell: Cell) -> str:
    """Return the class name of the cell inside all wrappers."""
    return type(innermost(cell)).__name__


class Wrapped(Cell):
    """Base class of cells that wrap another cell; by default they behave like it."""

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell.input_size, cell.hidden_size, cell.output_size)
        self.cell = cell
        self.states = cell.states
        self.keeps_norm, self.has_surrogate = cell.keeps_norm, cell.has_surrogate
        self.context_per_step, self.context_between = cell.context_per_step, cell.context_between

    @property
    def required_context(self) -> tuple[str, ...]:  # noqa: D102
        return self.cell.required_context

    def initial_state(self, batch_size: int) -> State:  # noqa: D102
        return self.cell.initial_state(batch_size)

    def prepare(self, inputs: Tensor, **context: Any) -> tuple[Any, Any]:  # noqa: D102
        return self.cell(inputs, **context)

    def step(self, constants: Any, inputs: Any, state: State) -> tuple[Tensor, State]:  # noqa: D102
        return self.cell.step(constants, inputs, state)
