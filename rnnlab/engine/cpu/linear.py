"""Linear maps over all steps of a sequence, with pooled memory and the faster matrix product."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from rnnlab.engine import reference
from rnnlab.engine.cpu import gemm, memory
from rnnlab.engine.cpu.gemm import mm

LARGE = 2**21
"""Size of the inputs of a sequence, in bytes, from which `Reusing` saves more than its cost of 60 microseconds."""
LARGE_FOR_OWN = 2**16
"""The same if rnnlab's GEMM kernel is used, which saves more."""


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``inputs @ weight.t() + bias`` like `torch.nn.functional.linear`, faster for long inputs on a CPU.

    Args:
        inputs: ``[T, B, F]``; other shapes, small inputs, and inputs under a transform or autocast use torch.
        weight: ``[G, F]``.
        bias: ``[G]``; None for no bias.
    """
    if reference.observer(inputs) is None and _is_large(inputs) and _fits(inputs, weight, bias):
        return _Linear.apply(inputs, weight, bias)
    return functional.linear(inputs, weight, bias)


def reusing(inputs: Tensor) -> AbstractContextManager:
    """Return a context for the ``prepare`` of a cell: `Reusing` if the inputs are large enough to benefit from it."""
    return Reusing() if _is_large(inputs) else nullcontext()


def _is_large(inputs: Tensor) -> bool:
    if inputs.device.type != "cpu" or inputs.nbytes < LARGE_FOR_OWN or reference.autocast_dtype(inputs.device):
        return False  # autocast has its own product
    return inputs.nbytes >= LARGE or gemm.own(inputs.dtype, "sequence") is not None


class Reusing(TorchFunctionMode):
    """A context in which ``linear`` over all time steps uses pooled memory and the faster matrix product."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is functional.linear and not kwargs and _fits(*args):
            return _Linear.apply(*args, *[None] * (3 - len(args)))
        return function(*args, **(kwargs or {}))


def _fits(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether a linear map is large, and has plain CPU tensors of one dtype as arguments."""
    given = (inputs, weight) if bias is None else (inputs, weight, bias)
    if [tensor.dim() for tensor in given] != [3, 2, 1][: len(given)]:
        return False
    rows = inputs.shape[0] * inputs.shape[1]
    is_large = rows * len(weight) * weight.itemsize >= memory.SMALLEST
    if not is_large and rows * weight.numel() >= gemm.SMALLEST and weight.device.type == "cpu":
        is_large = gemm.own(weight.dtype, "sequence") is not None
    return is_large and all(
        type(t) in (Tensor, torch.nn.Parameter) and t.device.type == "cpu" and t.dtype == weight.dtype for t in given
    )


class _Linear(torch.autograd.Function):
    """``inputs [T, B, F] @ weight [G, F].t() + bias [G]``, in pooled memory."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        of_inputs, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(inputs if of_weight else None, weight if of_inputs else None)
        ctx.set_materialize_grads(False)
        outputs = memory.take((*inputs.shape[:2], len(weight)), inputs.dtype)
        mm(inputs.flatten(0, 1), weight.t(), outputs.flatten(0, 1), bias)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return None, None, None
        inputs, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        rows, of_inputs = gradient.flatten(0, 1), None
        if wanted[0] and torch.is_grad_enabled():  # create_graph: autograd does not record products into given memory
            of_inputs = gradient @ weight
        elif wanted[0]:
            of_inputs = memory.take((*gradient.shape[:2], weight.shape[1]), weight.dtype)
            mm(rows, weight, of_inputs.flatten(0, 1))
        of_weight = None
        if wanted[1]:
            columns = inputs.flatten(0, 1)
            of_weight = rows.t() @ columns if torch.is_grad_enabled() else mm(rows.t(), columns)
        return of_inputs, of_weight, rows.sum(0) if wanted[2] else None
