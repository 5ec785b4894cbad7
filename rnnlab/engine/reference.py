"""The plain loop over time: the truth that every other way of running a cell is tested against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rnnlab.cells import Cell
from rnnlab.interface import State, map_state


def run(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
) -> tuple[Tensor, State]:
    """Run ``cell`` over ``inputs`` step by step; autograd follows.

    Args:
        cell: the cell.
        inputs: ``[T, B, input_size]``.
        state: the state before the first step.
        lengths: ``[B]``, or None where every sequence has T steps. Past its own end a sequence's outputs are
            zero and its state stays as it was there.
        context: what the cell's ``prepare`` takes beyond its inputs.

    Returns:
        outputs ``[T, B, output_size]`` and the state at the end of every sequence.
    """
    if lengths is not None:  # whatever stands in the padding, NaN even, must not reach the weights' gradients
        live = torch.arange(len(inputs), device=inputs.device).unsqueeze(1) < lengths
        inputs = inputs.where(live.unsqueeze(-1), 0)
    constants, prepared = cell.prepare(inputs, **context)
    outputs = []
    for t in range(inputs.shape[0]):
        output, new = cell.step(constants, map_state(lambda tensor, t=t: tensor[t], prepared), state)
        if lengths is not None:
            output = freeze(live[t], output, torch.zeros_like(output))
            new = map_state(lambda after, before, live=live[t]: freeze(live, after, before), new, state)
        outputs.append(output)
        state = new
    return torch.stack(outputs), state


def freeze(live: Tensor, after: Tensor, before: Tensor) -> Tensor:
    """``after`` for the rows that are ``live`` ``[B]``, ``before`` for the others; both ``[B, ...]``."""
    return torch.where(live.reshape(-1, *[1] * (after.dim() - 1)), after, before)
