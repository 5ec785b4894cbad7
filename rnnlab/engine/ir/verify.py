"""Check a traced step against the cell's own step and autograd, forward and backward, on random numbers.

`rnnlab.engine.ir.trace` refuses steps that it cannot represent. This check finds errors that the trace does not detect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rnnlab.cells import Cell
from rnnlab.engine.ir import loop
from rnnlab.engine.ir.emit_python import Steps
from rnnlab.engine.ir.program import Unsupported
from rnnlab.trees import State, map_state, tensors_of

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest allowed error relative to a tensor's largest magnitude; for other dtypes it is `LOOSE`."""
LOOSE = 0.1
ROUNDING = 1e-3
"""Additional tolerance relative to the largest magnitude among all tensors, as some tensors are zero up to rounding."""


def verify(
    cell: Cell, steps: Steps, constants: Any, inputs: Any, state: State, training: bool, raw: bool = False
) -> None:
    """Compare one traced step and its gradients with the cell's own step and autograd.

    Args:
        cell: the cell.
        steps: the traced step and its backward step.
        constants: the constants of the step.
        inputs: the inputs of the step; only shapes and dtypes matter, the values are drawn at random.
        state: the state before the step, likewise.
        training: whether to compare gradients, too.
        raw: whether the step includes ``cell.activate``.

    Raises:
        Unsupported: the results differ, or the cell's step fails on random numbers.
    """
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        inputs, state = (map_state(lambda tensor: random_like(tensor, draw), part) for part in (inputs, state))
    leaves = [tensor for part in (constants, inputs, state) for tensor in tensors_of(part)]
    wanted = list({id(tensor): tensor for tensor in leaves if training and tensor.requires_grad}.values())
    try:
        with torch.set_grad_enabled(training):
            output, after = cell.step(constants, cell.activate(constants, inputs) if raw else inputs, state)
        results = [output, *tensors_of(after)]
        with torch.no_grad():
            upstream = [random_like(result.detach(), draw) * result.requires_grad for result in results]
        pairs = [pair for pair in zip(results, upstream, strict=True) if pair[0].requires_grad]
        truth: list[Tensor | None] = [None] * len(wanted)
        if wanted and pairs:
            # A sum and not grad_outputs, for which PyTorch would import SymPy.
            loss = torch.stack([(result * gradient).sum() for result, gradient in pairs]).sum()
            truth = list(torch.autograd.grad(loss, wanted, allow_unused=True))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise Unsupported(f"code that raises {type(error).__name__} on random numbers") from error
    parts = [[tensor.detach() for tensor in tensors_of(part)] for part in (constants, inputs, state)]
    with torch.no_grad():
        rows = [tensor.unsqueeze(0) for tensor in parts[1]]
        ours, final, kept = loop.forward(steps, parts[0], rows, parts[2], None)
        compare([ours[0], *final], results, "the results differ")
        if not wanted:
            return
        found = loop.backward(steps, parts[0], rows, kept, None, upstream[0].unsqueeze(0), tuple(upstream[1:]))
    first, last = len(parts[0]), len(parts[0]) + len(parts[1])
    totals: dict[int, Tensor] = {}  # the gradients of a tensor that occurs twice add up
    for place, (tensor, gradient) in enumerate(zip(leaves, found, strict=True)):
        if gradient is not None:
            gradient = gradient[0] if first <= place < last else gradient
            totals[id(tensor)] = totals[id(tensor)] + gradient if id(tensor) in totals else gradient
    none = [torch.zeros_like(tensor) for tensor in wanted]
    mine = [totals.get(id(tensor), zero) for tensor, zero in zip(wanted, none, strict=True)]
    true = [zero if gradient is None else gradient for gradient, zero in zip(truth, none, strict=True)]
    compare(mine, true, "the gradients differ")


def random_like(tensor: Tensor, draw: torch.Generator) -> Tensor:
    """Draw random numbers with the shape and dtype of ``tensor``; return masks and integer tensors unchanged."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor
    dtype = torch.complex128 if tensor.is_complex() else torch.float64
    drawn = torch.randn(tensor.shape, generator=draw, dtype=dtype, device="cpu")
    return (0.7 * drawn).to(tensor.device, tensor.dtype).requires_grad_(tensor.requires_grad)


def compare(ours: Sequence[Tensor], truth: Sequence[Tensor], fault: str, tolerance: float | None = None) -> None:
    """Compare tensors; NaN equals NaN.

    Args:
        ours: the tensors to check.
        truth: the expected tensors.
        fault: what is wrong if they differ.
        tolerance: the largest allowed error relative to a tensor's largest magnitude; None for `TOLERANCES`.

    Raises:
        Unsupported: a shape, a dtype or a number differs.
    """
    truth = [true.detach() for true in truth]
    size = max((_size(true) for true in truth), default=0.0)
    for mine, true in zip(ours, truth, strict=True):
        allowed = (tolerance or TOLERANCES.get(true.dtype, LOOSE)) * (_size(true) + ROUNDING * size)
        alike = mine.shape == true.shape and mine.dtype == true.dtype
        if alike and (true.is_floating_point() or true.is_complex()):
            alike = torch.allclose(mine, true, 0, allowed, equal_nan=True)
        elif alike:
            alike = torch.equal(mine, true)
        if not alike:
            raise Unsupported(f"code that its trace does not represent ({fault})")


def _size(tensor: Tensor) -> float:
    """Return the largest magnitude among the finite numbers; 0 if there are none."""
    if not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
        return 0.0
    return float(tensor.nan_to_num(0, 0, 0).abs().max())
