"""The reference backend: a plain loop over time, which defines the results of every other backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rnnlab.cells import Cell
from rnnlab.trees import State, map_state, pick_rows, unstack


def run(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
) -> tuple[Tensor, State]:
    """Run ``cell`` over ``inputs`` step by step, recorded by autograd.

    Args:
        cell: the cell.
        inputs: ``[T, B, input_size]``.
        state: the state before the first step.
        lengths: ``[B]``, or None if every sequence has T steps. After the end of a sequence its outputs are zero and
            its state does not change.
        context: arguments of the cell's ``prepare`` other than the inputs.

    Returns:
        outputs ``[T, B, output_size]`` and the state at the end of every sequence.
    """
    inputs, live = mask(inputs, lengths)
    constants, prepared = widened(cell, cell(inputs, **context))
    return loop(cell, constants, prepared, state, live)


def observer(inputs: Tensor) -> str | None:
    """Return the PyTorch feature that must intercept every operation, so that only the plain loop is correct.

    Returns:
        ``trace`` (``torch.jit.trace``), ``compile`` (``torch.compile``, ``torch.export``), ``transform``
        (``torch.func``, forward-mode derivatives, a dispatch mode, the meta device); None if none of them is active.
    """
    if torch.jit.is_tracing():
        return "trace"
    if torch.compiler.is_compiling():
        return "compile"
    has_modes = torch._C._len_torch_dispatch_stack() > 0 or torch._C._are_functorch_transforms_active()
    if has_modes or torch.autograd.forward_ad._current_level >= 0 or inputs.is_meta:
        return "transform"
    return None


def is_observed_backward(*gradients: Tensor | None) -> bool:
    """Whether the gradient itself is to be differentiated, or several gradients are computed at once."""
    return torch.is_grad_enabled() or torch._C._are_functorch_transforms_active() or are_batched(gradients)


def are_batched(gradients: Sequence[Tensor | None]) -> bool:
    """Whether the tensors are batches of gradients, as with ``is_grads_batched=True``."""
    return any(one is not None and torch._C._functorch.is_legacy_batchedtensor(one) for one in gradients)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype to which ``torch.autocast`` converts the factors of products on a device; None if it is off."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def precision(device: torch.device, dtype: torch.dtype) -> str:
    """Return how a compiled step rounds the factors of its matrix products; sums and everything else have ``dtype``.

    Args:
        device: device of the call.
        dtype: dtype of the cell's parameters.

    Returns:
        ``bf16`` or ``fp16`` under autocast; ``tf32`` on a GPU whose float32 products may be rounded
        (`torch.set_float32_matmul_precision`); ``ieee`` for no rounding, as always in float64.
    """
    if dtype != torch.float32:
        return "ieee"
    autocast = autocast_dtype(device)
    if autocast is not None:
        return _PRECISIONS[autocast]
    is_rounded = device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return "tf32" if is_rounded else "ieee"


_PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "ieee"}


def widened(cell: Cell, tree: Any, convert: Callable[[Tensor, torch.dtype], Tensor] = Tensor.to) -> Any:
    """Convert the tensors that autocast has rounded, bfloat16 or float16, to the dtype of the cell's parameters.

    Under autocast the state and the outputs of every backend have that dtype, and a step has the same trace as without.

    Args:
        cell: the cell.
        tree: nested tuple of tensors.
        convert: function ``(tensor, dtype) -> tensor``.
    """
    like = cell.like
    if autocast_dtype(like.device) is None:
        return tree
    return map_state(lambda tensor: convert(tensor, like.dtype) if tensor.dtype in _ROUNDED else tensor, tree)


_ROUNDED = (torch.bfloat16, torch.float16)


def mask(inputs: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the inputs with zero padding, and the mask of valid steps, bool ``[T, B]``; None if all steps are valid.

    Without zeros, NaN in the padding would reach the gradients of the input weights.
    """
    if lengths is None:
        return inputs, None
    live = torch.arange(len(inputs), device=inputs.device).unsqueeze(1) < lengths
    return inputs.where(live.unsqueeze(-1), 0), live


def loop(cell: Cell, constants: Any, prepared: Any, state: State, live: Tensor | None) -> tuple[Tensor, State]:
    """Run the steps of a prepared sequence.

    Args:
        cell: the cell.
        constants: first result of the cell's ``prepare``, constant over the sequence.
        prepared: second result of the cell's ``prepare``, ``[T, B, ...]``.
        state: the state before the first step.
        live: bool ``[T, B]``, true for valid steps; None if all are valid.
    """
    outputs = []
    for t, inputs in enumerate(unstack(prepared)):
        result = cell.step(constants, inputs, state)
        output, new = result if t else cell.checked(result, state)
        if live is not None:
            output = pick_rows(live[t], output, torch.zeros_like(output))
            new = map_state(lambda after, before, live=live[t]: pick_rows(live, after, before), new, state)
        outputs.append(output)
        state = new
    return widened(cell, (torch.stack(outputs), state))
