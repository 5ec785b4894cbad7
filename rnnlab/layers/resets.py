"""Resets inside a sequence, as a cell: the state starts again before the steps that a mask selects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rnnlab.cells.base import Cell
from rnnlab.layers.wrapped import Wrapped
from rnnlab.trees import State, map_state, tensors_of


class Resetting(Wrapped):
    """A cell that starts again where ``fresh`` is True: the state before such a step is the initial state.

        s_{t-1} ← s_0 where fresh_t

    The selection is part of the step, so every backend traces, differentiates and compiles it together with the cell.
    No gradient flows from a step back over a reset; the gradient of the initial state is the sum over all resets.

    Args:
        cell: the cell.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self.context_per_step = (*cell.context_per_step, "fresh")

    def prepare(
        self, inputs: Tensor, fresh: Tensor | None = None, first: State | None = None, **context: Any
    ) -> tuple[Any, Any]:
        """Prepare the cell, and the mask for states of each number of axes.

        Args:
            inputs: ``[T, B, input_size]``.
            fresh: bool ``[T, B]``; None for no reset.
            first: the initial state of one sequence, ``[1, ...]``; None for the cell's own.
            context: additional arguments of the cell's ``prepare``.
        """
        first = self.cell.initial_state(1) if first is None else first
        if fresh is None:
            fresh = torch.zeros(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        axes = sorted({tensor.dim() for tensor in tensors_of(first)})
        constants, prepared = self.cell(inputs, **context)
        return (constants, first), (prepared, *(fresh.view(*fresh.shape, *[1] * (n - 1)) for n in axes))

    def step(self, constants: Any, inputs: Any, state: State) -> tuple[Tensor, State]:  # noqa: D102
        constants, first = constants
        prepared, *masks = inputs
        by_axes = {mask.dim(): mask for mask in masks}
        state = map_state(lambda new, old: torch.where(by_axes[old.dim()], new, old), first, state)
        return self.cell.step(constants, prepared, state)
