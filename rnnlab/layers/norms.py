"""Norms of blocks: layer norm, and an RMS norm that is fast on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from rnnlab.engine import reference
from rnnlab.engine.cpu import memory
from rnnlab.layers.gate import recorded


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` over the last axis, a third of the time on a CPU (Zhang and Sennrich, 2019, arXiv:1910.07467).

    PyTorch has no kernel for it on a CPU: it runs about twenty operations, each over the whole sequence in new memory.
    """

    def forward(self, inputs: Tensor) -> Tensor:  # noqa: D102
        is_plain = type(inputs) is Tensor and inputs.dtype == self.weight.dtype and inputs.is_contiguous()
        if is_plain and inputs.device.type == "cpu" and reference.observer(inputs) is None:
            return _RMSNorm.apply(inputs, self.weight, self.eps)
        return super().forward(inputs)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, eps: float | None) -> Tensor:
        eps = torch.finfo(inputs.dtype).eps if eps is None else eps
        norms = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True)
        scale = norms.square_().div_(inputs.shape[-1]).add_(eps).rsqrt_()
        ctx.eps = eps
        ctx.save_for_backward(inputs, weight, scale)
        outputs = memory.take(inputs.shape, inputs.dtype)
        return torch.mul(inputs, scale, out=outputs).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        inputs, weight, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: autograd needs the operations of the backward pass
            outputs = rms_norm(inputs, weight.shape, weight, ctx.eps)
            return *recorded(ctx, outputs, (inputs, weight), gradient), None
        # The kernel of layer norm, with a mean of zero, also removes the mean of w ⊙ g; the last line adds it again.
        mean, wanted = torch.zeros_like(scale), [True, True, False]
        of_inputs, of_weight, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, inputs, weight.shape, mean, scale, weight, None, wanted
        )
        removed = (gradient @ weight / len(weight)).unsqueeze(-1) * scale
        return of_inputs.add_(removed), of_weight, None


NORMS = {"layer": nn.LayerNorm, "rms": RMSNorm}
"""Norms by name; each is a class that takes the width."""
