"""Operations of a cell's step on states that are matrices: no matrix products, and yet most of its cost."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rnnlab.cells import Cell
from rnnlab.interface import map_state, tensors_of

VECTOR = 2
"""Axes of a batch of vectors, ``[B, H]``. The state of S4D has three, ``[B, H, N]``, that of mLSTM four."""


class _Elements(TorchDispatchMode):
    """Counts the elements that point-wise operations make, and sums take, of tensors with more axes than `VECTOR`."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        is_sum = function.overloadpacket.__name__ in ("sum", "mean")
        if is_sum or torch.Tag.pointwise in function.tags:
            counted = args[0] if is_sum else result
            self.count += counted.numel() if counted.dim() > VECTOR else 0
        return result


@torch.no_grad()
def state_operations(cell: Cell) -> int:
    """Point-wise operations on matrices in one step of one sequence; 0 where all states are vectors.

    One for each element of a result. Those on vectors are not counted: beside them the matrix products are far more.
    """
    state = cell.initial_state(1)
    if all(tensor.dim() <= VECTOR for tensor in tensors_of(state)):
        return 0
    constants, prepared = cell(cell.like.new_zeros(1, 1, cell.input_size))
    with _Elements() as elements:
        cell.step(constants, map_state(lambda tensor: tensor[0], prepared), state)
    return elements.count
