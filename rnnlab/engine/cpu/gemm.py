"""Matrix products on the CPU: torch's BLAS, or rnnlab's GEMM kernel if it was measured to be faster."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from rnnlab.engine.cpu import compiler, tune
from rnnlab.engine.cpu.own_gemm import OwnGemm
from rnnlab.engine.once import warn_once

SMALLEST = 2**20
"""Smallest number of multiplications, over a sequence, for which the kernel saves more than calling it costs."""
ROWS_TO_PACK = 32
"""From this number of rows on, over all time steps, packing the right factor saves time."""


def pays(rows: int, size: int) -> bool:
    """Whether a product is large enough for the kernel.

    Args:
        rows: number of rows of the left factor, over all time steps.
        size: number of elements of the right factor.
    """
    return rows >= ROWS_TO_PACK and rows * size >= SMALLEST


def mm(left: Tensor, right: Tensor, out: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Compute ``left [rows, inner] @ right [inner, outer] + bias [outer]``, not recorded by autograd, without autocast.

    Args:
        left: left factor, with any strides.
        right: right factor, with any strides.
        out: tensor for the result, with contiguous rows; None for a new tensor.
        bias: vector that is added to every row; None for no bias.
    """
    is_large = left.device.type == "cpu" and pays(left.shape[0], right.numel())
    kernel = own(left.dtype, "sequence") if is_large else None
    if out is None:
        out = left.new_empty(left.shape[0], right.shape[1])
    if kernel is None:  # autocast ignores products into given memory
        return torch.mm(left, right, out=out) if bias is None else torch.addmm(bias, left, right, out=out)
    kernel(left, right, out, bias if bias is None else bias.contiguous())
    return out


def mm_two(left: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ``left [rows, inner] @ first [inner, outer]`` and ``left @ second`` as `mm` does.

    If both are large, the left factor is packed once.
    """
    rows, outer = left.shape[0], first.shape[1] + second.shape[1]
    if left.device.type == "cpu" and all(pays(rows, right.numel()) for right in (first, second)):
        kernel = own(left.dtype, "sequence")
        if kernel is not None and kernel.takes_two(rows, outer):
            found = [left.new_empty(rows, right.shape[1]) for right in (first, second)]
            kernel(left, first, found[0], more=(second, found[1]))
            return found[0], found[1]
    return mm(left, first), mm(left, second)


def mm_and_sums(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ``left [rows, inner] @ right [inner, outer]`` as `mm` does, and ``left.sum(1)``.

    The kernel adds up a left factor whose rows are not contiguous while it packs it.
    """
    if left.device.type == "cpu" and left.stride(1) != 1 and pays(left.shape[0], right.numel()):
        kernel = own(left.dtype, "sequence")
        if kernel is not None:
            product, sums = left.new_empty(left.shape[0], right.shape[1]), left.new_empty(left.shape[0])
            kernel(left, right, product, sums=sums)
            return product, sums
    return mm(left, right), left.sum(1)


@cache
def own(dtype: torch.dtype, use: str) -> OwnGemm | None:
    """Return rnnlab's kernel if it is used for a kind of product; None if torch's BLAS is used.

    Args:
        dtype: dtype of the matrices.
        use: ``step`` for products of one time step, ``sequence`` for products over all time steps, ``pairs`` for
            products of one time step with bfloat16 factors, which are twice as fast if the processor has an instruction
            for them.
    """
    if dtype not in (torch.float32, torch.float64):
        return None
    is_faster = tune.requested() != "blas" if use == "pairs" else tune.prefers_own(dtype, use)
    if not is_faster:
        return None
    try:
        compiler.blas()  # finds torch's OpenMP threads
        kernel = OwnGemm(dtype)
        if use != "pairs":
            return kernel
        return OwnGemm(dtype, pairs=True) if kernel.multiplies_pairs else None
    except compiler.NoCompiler as error:
        warn_once(f"matrix products use torch's BLAS, because rnnlab's GEMM kernel cannot be compiled: {error}")
        return None
