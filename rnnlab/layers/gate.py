"""The gate of blocks and of SwiGLU: the product of SiLU and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from rnnlab.engine import reference
from rnnlab.engine.cpu import memory


def recorded(ctx: Any, outputs: Tensor, inputs: Sequence[Tensor], gradient: Tensor) -> tuple[Any, ...]:
    """Return the gradients of the first inputs of an autograd function, recorded by autograd; None where not needed.

    Args:
        ctx: context of the function.
        outputs: results of the function, computed again from ``inputs``.
        inputs: saved inputs of the function.
        gradient: gradient of the outputs.
    """
    needed = ctx.needs_input_grad[: len(inputs)]
    wanted = [tensor for tensor, is_needed in zip(inputs, needed, strict=True) if is_needed]
    found = iter(torch.autograd.grad(outputs, wanted, gradient, create_graph=True))
    return tuple(next(found) if is_needed else None for is_needed in needed)


def gated(gate: Tensor, values: Tensor) -> Tensor:
    """Return ``SiLU(gate) ⊙ values``, both of the same shape; on a CPU in pooled memory, and SiLU is not stored."""
    if reference.observer(gate) is None and _is_plain(gate, values):
        return _Gated.apply(gate, values)
    return silu(gate) * values


def _is_plain(gate: Tensor, values: Tensor) -> bool:
    is_of_cpu = all(type(t) is Tensor and t.device.type == "cpu" and t.is_contiguous() for t in (gate, values))
    return is_of_cpu and gate.dtype == values.dtype and gate.shape == values.shape


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(gate, values)
        outputs = memory.take(gate.shape, gate.dtype)
        return torch.ops.aten.silu.out(gate, out=outputs).mul_(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, values = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: autograd does not record operations into given memory
            return recorded(ctx, silu(gate) * values, (gate, values), gradient)
        of_gate, of_values = (memory.take(gate.shape, gate.dtype) for _ in range(2))
        torch.mul(gradient, values, out=of_gate)
        torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
        return of_gate, torch.ops.aten.silu.out(gate, out=of_values).mul_(gradient)
