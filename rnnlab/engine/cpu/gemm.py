"""Matrix products of our own, for processors that the BLAS inside torch does not make full use of.

That BLAS is MKL, which on AMD's processors works with vectors of 256 bits, whatever they have. On a Zen 5 the C below,
compiled for the processor at hand, is 2.0 to 2.7 times as fast, from the few rows of one step to the many of all steps.
It is the textbook's way (Goto and van de Geijn, 2008, "Anatomy of high-performance matrix multiplication"): the right
matrix is laid out in panels that are read from front to back, and a block of the result stays in registers meanwhile.
Elsewhere torch's own product is taken; on Intel's processors MKL is as fast as the hardware allows. A Zen 4, which has
AVX-512 but does it in halves, was not measured.
"""

from __future__ import annotations

import ctypes
from array import array
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from rnnlab.engine.cpu import compiler, threads

SMALLEST = 2**20
"""Multiplications of a whole product. For fewer, what stands around it costs as much as is won."""
MULTIPLICATIONS_A_THREAD = 2**21
"""Less work than this is not worth a further thread."""

CPUINFO = Path("/proc/cpuinfo")


class Product:
    """Products of numbers of one type.

    Args:
        dtype: float32 or float64.

    Attributes:
        multiply: the address of the C function for one step of a sequence, with a weight that `pack` has laid out.

    Raises:
        NoCompiler: there is no compiler, or it fails.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        real = "float" if dtype == torch.float32 else "double"
        self.library = compiler.load((compiler.SOURCES / "gemm.c").read_text(), f"REAL={real}")
        self.width, self.depth = self.library.width(), self.library.depth()
        self.multiply = ctypes.cast(self.library.multiply, ctypes.c_void_p).value
        self.library.pack.argtypes = [ctypes.c_void_p, *[ctypes.c_long] * 4, ctypes.c_void_p]
        self.library.whole.argtypes = [ctypes.c_void_p]
        self.library.pack.restype = self.library.whole.restype = None

    def pack(self, weight: Tensor) -> Tensor:
        """``[inner, outer]`` as panels ``[outer / width, inner, width]``."""
        inner, outer = weight.shape
        panels = self._panels(inner, outer)
        self.library.pack(weight.data_ptr(), *weight.stride(), inner, outer, panels.data_ptr())
        return panels

    def _panels(self, inner: int, outer: int) -> Tensor:
        return torch.empty(-(-outer // self.width), inner, self.width, dtype=self.dtype, device="cpu")

    def __call__(self, left: Tensor, right: Tensor, out: Tensor, add: bool) -> None:
        """``out [rows, outer] = left [rows, inner] @ right [inner, outer]``, or added to ``out`` if ``add``."""
        (rows, inner), outer = left.shape, right.shape[1]
        count = max(1, min(torch.get_num_threads(), rows * inner * outer // MULTIPLICATIONS_A_THREAD, rows // 8))
        calls, room = [], [self._panels(min(inner, self.depth), outer) for _ in range(count)]
        for part, panels in enumerate(room):
            first, last = rows * part // count, rows * (part + 1) // count
            matrices = [(left[first:last], left), (right, right), (out[first:last], out)]
            described = [number for view, whole in matrices for number in (view.data_ptr(), *whole.stride())]
            calls.append(array("q", [*described, last - first, inner, outer, add, panels.data_ptr()]))
        threads.run(self.library.whole, [call.buffer_info()[0] for call in calls], (left, right, out, calls, room))


def mm(left: Tensor, right: Tensor, out: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """``left [rows, inner] @ right [inner, outer]``, plus ``bias [outer]``; not recorded for autograd.

    Args:
        left: it may lie in memory in any way.
        right: as ``left``.
        out: where to put it, each row in one piece; None for new memory.
        bias: what is added to every row.
    """
    own = ours(left.dtype) if left.device.type == "cpu" and left.numel() * right.shape[1] >= SMALLEST else None
    if own is None:
        return torch.mm(left, right, out=out) if bias is None else torch.addmm(bias, left, right, out=out)
    if out is None:
        out = left.new_empty(left.shape[0], right.shape[1])
    if bias is not None:
        out.copy_(bias)
    own(left, right, out, bias is not None)
    return out


@cache
def ours(dtype: torch.dtype) -> Product | None:
    """Our products, where torch's are slower; None elsewhere, and where they cannot be compiled."""
    if dtype not in (torch.float32, torch.float64) or not is_wanted():
        return None
    try:
        compiler.blas()  # whose threads are the ones to work with
        return Product(dtype)
    except compiler.NoCompiler:
        return None


@cache
def is_wanted() -> bool:
    """Whether torch's BLAS is MKL, and the processor has vectors of 512 bits and is not Intel's."""
    if not torch.backends.mkl.is_available() or not CPUINFO.exists():
        return False
    with CPUINFO.open(errors="replace") as file:
        first = file.read(8192).split("\n\n")[0]  # of a hundred processors the first
    return "avx512f" in first and "GenuineIntel" not in first
