"""The plain loop over time: the truth that every other way of running a cell is tested against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rnnlab.cells import Cell
from rnnlab.interface import State, map_state, pick_rows, unstack


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
    inputs, live = mask(inputs, lengths)
    constants, prepared = cell(inputs, **context)
    return loop(cell, constants, prepared, state, live)


def observer(inputs: Tensor) -> str | None:
    """What looks at every operation, or changes it, so that the equations must run as they are written; else None.

    ``trace`` (``torch.jit.trace``), ``compile`` (``torch.compile``, ``torch.export``), ``transform`` (``torch.func``,
    forward-mode derivatives, a dispatch mode, the meta device), or ``autocast``.
    """
    if torch.jit.is_tracing():
        return "trace"
    if torch.compiler.is_compiling():
        return "compile"
    has_modes = torch._C._len_torch_dispatch_stack() > 0 or torch._C._are_functorch_transforms_active()
    if has_modes or torch.autograd.forward_ad._current_level >= 0 or inputs.is_meta:
        return "transform"
    return "autocast" if torch.is_autocast_enabled(inputs.device.type) else None


def mask(inputs: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Inputs without what stands in the padding, and which steps count, bool ``[T, B]``; None where all do.

    NaN in the padding would otherwise reach the gradients of the input weights.
    """
    if lengths is None:
        return inputs, None
    live = torch.arange(len(inputs), device=inputs.device).unsqueeze(1) < lengths
    return inputs.where(live.unsqueeze(-1), 0), live


def loop(cell: Cell, constants: Any, prepared: Any, state: State, live: Tensor | None) -> tuple[Tensor, State]:
    """The steps themselves, on what ``prepare`` made; ``live`` is bool ``[T, B]``, None where all steps count."""
    outputs = []
    for t, inputs in enumerate(unstack(prepared)):
        result = cell.step(constants, inputs, state)
        output, new = result if t else cell.checked(result, state)
        if live is not None:
            output = pick_rows(live[t], output, torch.zeros_like(output))
            new = map_state(lambda after, before, live=live[t]: pick_rows(live, after, before), new, state)
        outputs.append(output)
        state = new
    return torch.stack(outputs), state
