"""The state after every step, as a cell: its output has the states as additional columns."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from rnnlab.cells.base import Cell
from rnnlab.layers.wrapped import Wrapped
from rnnlab.trees import State, map_state, tensors_of


class Exposing(Wrapped):
    """A cell whose output is the output of ``cell``, followed by the new state as columns.

    Every backend returns these columns for all steps, with their gradients. Complex numbers take two columns each.
    Steps with matrix or complex states are not compiled in this form.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        example = tensors_of(cell.initial_state(1))
        self.output_size += sum(tensor.numel() * (1 + tensor.is_complex()) for tensor in example)

    def step(self, constants: Any, inputs: Any, state: State) -> tuple[Tensor, State]:  # noqa: D102
        output, new = self.cell.step(constants, inputs, state)
        return torch.cat([output, *map(_columns, tensors_of(new))], -1), new


def separated(outputs: Tensor, output_size: int, like: State) -> tuple[Tensor, State]:
    """Divide outputs of an `Exposing` cell into those of its cell and the states, a tree of ``[T, B, ...]``.

    Args:
        outputs: ``[T, B, columns]``.
        output_size: number of columns of the cell's own output.
        like: a state, which defines structure, shapes and dtypes.
    """
    sizes = [prod(tensor.shape[1:]) * (1 + tensor.is_complex()) for tensor in tensors_of(like)]
    own, *columns = outputs.split([output_size, *sizes], -1)
    found = iter(columns)
    return own, map_state(lambda tensor: _from_columns(next(found), tensor), like)


def _columns(tensor: Tensor) -> Tensor:
    """Return a state ``[B, ...]`` as real columns ``[B, n]``."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.unsqueeze(1) if tensor.dim() == 1 else tensor.flatten(1)


def _from_columns(columns: Tensor, like: Tensor) -> Tensor:
    """Return columns ``[T, B, n]`` as states ``[T, B, ...]`` like ``like`` ``[B, ...]``."""
    shape = (*columns.shape[:2], *like.shape[1:])
    if like.is_complex():
        return torch.view_as_complex(columns.unflatten(-1, (-1, 2)).contiguous()).view(shape)
    return columns.reshape(shape).to(like.dtype)
