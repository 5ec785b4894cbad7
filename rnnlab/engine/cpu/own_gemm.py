"""rnnlab's GEMM kernel (``c/gemm.c``): matrix products compiled for the processor of this machine.

The BLAS inside torch is mostly MKL, which uses only half of the vector width of AMD's processors with AVX-512. There
this kernel is 1.5 to 2.7 times as fast. `rnnlab.engine.cpu.tune` decides when it is used.
"""

from __future__ import annotations

import ctypes
from array import array
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from rnnlab.engine.cpu import compiler, threads
from rnnlab.engine.cpu.memory import HUGE, take

MULTIPLICATIONS_A_THREAD = 2**21
"""Smallest number of multiplications for each thread; with fewer, starting a thread costs more than it saves."""

PACKED = 2**17
"""Largest number of elements of the right matrix that are packed at once, if they are more than ``depth`` rows. They
are read for every group of rows and should stay in a cache of 1 MiB."""


class OwnGemm:
    """Matrix products for one dtype.

    Args:
        dtype: float32 or float64.
        pairs: whether the factors are bfloat16 numbers, two in each 32 bits; only `pack` and ``multiply`` exist then,
            and the processor must have ``multiplies_pairs``.

    Attributes:
        library: the compiled C code.
        multiply: the address of the C function that multiplies the rows of one time step by a packed weight.
        multiplies_pairs: whether the processor has an instruction for pairs of bfloat16 numbers.

    Raises:
        NoCompiler: there is no compiler, or it fails.
    """

    def __init__(self, dtype: torch.dtype, pairs: bool = False) -> None:
        self.dtype, self.pairs = dtype, pairs
        real = "float" if dtype == torch.float32 else "double"
        self.library = compiler.load(source(), f"REAL={real}", *["PAIRS"] * pairs)
        self.width, self.depth = self.library.width(), self.library.depth()
        self.multiplies_pairs = bool(self.library.multiplies_pairs())
        self.multiply = ctypes.cast(self.library.multiply, ctypes.c_void_p).value
        size, pointer = ctypes.c_long, ctypes.c_void_p
        self.library.pack.argtypes = [pointer, *[size] * 4, pointer]
        self.library.pack.restype = None
        if not pairs:
            self.library.whole.argtypes, self.library.whole.restype = [pointer], None

    def pack(self, weight: Tensor) -> Tensor:
        """Copy a matrix ``[inner, outer]`` into panels ``[outer / width, inner, width]``, which `multiply` reads.

        With ``pairs``, the matrix is float32 and has been rounded, and ``inner`` of the panels counts pairs.
        """
        inner, outer = weight.shape
        panels = self._panels(-(-inner // 2) if self.pairs else inner, outer)
        self.library.pack(weight.data_ptr(), *weight.stride(), inner, outer, panels.data_ptr())
        return panels

    def _panels(self, inner: int, outer: int) -> Tensor:
        shape = (-(-outer // self.width), inner, self.width)
        numbers, huge = prod(shape), HUGE // self.dtype.itemsize
        if 2 * numbers < huge:
            return torch.empty(shape, dtype=self.dtype, device="cpu")
        return take((-(-numbers // huge) * huge,), self.dtype)[:numbers].view(shape)  # whole huge pages

    def __call__(
        self, left: Tensor, right: Tensor, out: Tensor, bias: Tensor | None = None, shares: int | None = None
    ) -> None:
        """Compute ``out [rows, outer] = left [rows, inner] @ right [inner, outer] + bias [outer]``.

        Args:
            left: left factor, with any strides.
            right: right factor, with any strides.
            out: tensor for the result, with contiguous rows.
            bias: contiguous vector that is added to every row; None for no bias.
            shares: number of threads; None to choose it from the amount of work.
        """
        (rows, inner), outer = left.shape, right.shape[1]
        by_columns = rows < outer  # then every thread packs its own columns; otherwise all, for its own rows
        if shares is None:
            worth = rows * inner * outer // MULTIPLICATIONS_A_THREAD
            most = -(-outer // self.width) if by_columns else rows // 8
            shares = max(1, min(torch.get_num_threads(), worth, most))
        strides = (0, right.stride(1), 1, 1) if by_columns else (left.stride(0), 0, out.stride(0), 0)
        distances = [stride * self.dtype.itemsize for stride in strides]
        addresses = (left.data_ptr(), right.data_ptr(), out.data_ptr(), 0 if bias is None else bias.data_ptr())
        calls, room = [], []
        for first, last in _shares(outer, shares, self.width) if by_columns else _shares(rows, shares, 1):
            sizes = (rows, inner, last - first) if by_columns else (last - first, inner, outer)
            packed = min(inner, max(1, PACKED // (sizes[2] * self.depth)) * self.depth)
            room.append(self._panels(packed, sizes[2]))
            a, b, c, d = (at + first * distance if at else 0 for at, distance in zip(addresses, distances, strict=True))
            matrices = (a, *left.stride(), b, *right.stride(), c, *out.stride())
            calls.append(array("q", [*matrices, *sizes, d, room[-1].data_ptr(), packed]))
        threads.run(
            self.library.whole, [call.buffer_info()[0] for call in calls], (left, right, out, bias, calls, room)
        )


def _shares(count: int, shares: int, multiple: int) -> list[tuple[int, int]]:
    """Divide rows or columns into adjacent parts of about equal size, which start at a multiple: first and end."""
    ends = [min(count, -(-count // multiple) * part // shares * multiple) for part in range(shares + 1)]
    return list(pairwise(ends))


def source() -> str:
    """Return the C code of the kernel."""
    return (compiler.SOURCES / "gemm.c").read_text()
