"""Matrix products on the CPU: torch's BLAS, or the kernel of ``c/gemm.c`` where that was measured to be faster."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from rnnlab.engine.cpu import compiler, tune
from rnnlab.engine.cpu.own_gemm import OwnGemm
from rnnlab.engine.once import warn_once

SMALLEST = 2**20
"""Multiplications of a product over a sequence. For fewer, the calls around the kernel cost as much as it saves."""


def mm(left: Tensor, right: Tensor, out: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Multiply ``left [rows, inner] @ right [inner, outer]``, and add ``bias [outer]``; autograd does not record it.

    Args:
        left: with any strides.
        right: with any strides.
        out: where the result is written, each row contiguous; None for a new tensor.
        bias: added to every row.
    """
    is_large = left.device.type == "cpu" and left.numel() * right.shape[1] >= SMALLEST
    kernel = own(left.dtype, "sequence") if is_large else None
    if kernel is None:
        return torch.mm(left, right, out=out) if bias is None else torch.addmm(bias, left, right, out=out)
    if out is None:
        out = left.new_empty(left.shape[0], right.shape[1])
    if bias is not None:
        out.copy_(bias)
    kernel(left, right, out, bias is not None)
    return out


@cache
def own(dtype: torch.dtype, use: str) -> OwnGemm | None:
    """Return our own kernel if it is to be used for a kind of product; None for torch's BLAS.

    Args:
        dtype: of the matrices.
        use: ``step`` for the products of one time step, ``sequence`` for those over all time steps.
    """
    if dtype not in (torch.float32, torch.float64) or not tune.prefers_own(dtype, use):
        return None
    try:
        compiler.blas()  # which finds the threads to work with
        return OwnGemm(dtype)
    except compiler.NoCompiler as error:
        warn_once(f"matrix products use torch's BLAS, as our own kernel cannot be compiled: {error}")
        return None
