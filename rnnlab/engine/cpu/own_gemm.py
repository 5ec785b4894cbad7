"""rnnlab's GEMM kernel (``c/gemm.c``): matrix products compiled for the processor of this machine.

The BLAS inside torch is mostly MKL, which uses only half of the vector width of AMD's processors with AVX-512. There
this kernel is 1.5 to 2.7 times as fast. `rnnlab.engine.cpu.tune` decides when it is used.
"""

from __future__ import annotations

import ctypes
import threading
from array import array
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from rnnlab.engine.cpu import compiler, threads
from rnnlab.engine.cpu.memory import HUGE, take

MULTIPLICATIONS_A_THREAD = 2**21
"""Smallest number of multiplications for each thread; with fewer, starting a thread costs more than it saves."""

NUMBERS_A_THREAD = 2**14
"""Smallest number of elements that a thread packs; a smaller weight is packed by fewer threads."""

_LOCAL = threading.local()
"""Memory for panels, ``room``, of each Python thread."""

FACTORS = (0, 3, 6, 16, 19)
"""The addresses of factors and results in a ``struct call``, in the order of the arguments of `OwnGemm`."""
NO_MORE = (0,) * 7
"""``more`` of a ``struct call`` without a second right factor."""
SET_IN_C = (0,) * 5
"""The last numbers of a ``struct call``."""

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
            for function in (self.library.whole, self.library.pack_all):
                function.argtypes, function.restype = [pointer], None

    def pack(self, weight: Tensor) -> Tensor:
        """Copy a matrix ``[inner, outer]`` into panels ``[outer / width, inner, width]``, which `multiply` reads.

        With ``pairs``, the matrix is float32 and has been rounded, and ``inner`` of the panels counts pairs.
        """
        (inner, outer), (row, column) = weight.shape, weight.stride()
        shape = (-(-outer // self.width), -(-inner // 2) if self.pairs else inner, self.width)
        panels = self._memory(prod(shape))
        panels = panels.view(shape) if panels.numel() == prod(shape) else panels[: prod(shape)].view(shape)
        shares = min(torch.get_num_threads(), inner * outer // NUMBERS_A_THREAD) if threads.can_wait() else 1
        if self.pairs or shares < 2:
            self.library.pack(weight.data_ptr(), row, column, inner, outer, panels.data_ptr())
            return panels
        numbers = [0, 0, 0, weight.data_ptr(), row, column, 0, 0, 0, 0, inner, outer, 0, 0, panels.data_ptr(), inner]
        calls = [array("q", [*numbers, *NO_MORE, *SET_IN_C]) for _ in range(shares)]
        threads.run(self.library.pack_all, [call.buffer_info()[0] for call in calls], (weight, panels, calls))
        return panels

    def _memory(self, numbers: int) -> Tensor:
        """Return memory for at least ``numbers`` elements; a large block consists of whole huge pages."""
        huge = HUGE // self.dtype.itemsize
        return take((numbers if 2 * numbers < huge else -(-numbers // huge) * huge,), self.dtype)

    def _room(self, numbers: int) -> Tensor:
        """Return memory for panels that are read within one call of C: the same for all calls of a thread, if it fits.

        Without OpenMP a call may be interrupted while other threads still read the panels.
        """
        if numbers * self.dtype.itemsize > HUGE or not threads.can_wait():
            return self._memory(numbers)
        room = getattr(_LOCAL, "room", None)
        if room is None:
            room = _LOCAL.room = take((HUGE,), torch.uint8)
        return room

    def __call__(
        self,
        left: Tensor,
        right: Tensor,
        out: Tensor,
        bias: Tensor | None = None,
        shares: int | None = None,
        more: tuple[Tensor, Tensor] | None = None,
        sums: Tensor | None = None,
    ) -> None:
        """Compute ``out [rows, outer] = left [rows, inner] @ right [inner, outer] + bias [outer]``.

        Args:
            left: left factor, with any strides.
            right: right factor, with any strides.
            out: tensor for the result, with contiguous rows.
            bias: contiguous vector that is added to every row; None for no bias.
            shares: number of threads; None to choose it from the amount of work.
            more: another right factor and its result, ``left @ more[0]``; see `takes_two`.
            sums: vector for ``left.sum(1)``, if the rows of ``left`` are not contiguous.
        """
        tensors = (left, right, out, *(more or ()))
        rows, inner, outer = sizes = (*left.shape, right.shape[1])
        if more is not None:
            outer += more[0].shape[1]
            sizes = (*sizes, more[0].shape[1])
        if shares is None:
            shares = self._threads(rows, inner, outer)
        strides, shape = tuple([tensor.stride() for tensor in tensors]), (self.width, self.depth)
        divided, numbers = _divided(sizes, strides, shares, self.dtype.itemsize, shape, threads.can_wait())
        room = self._room(numbers)
        addresses = [tensor.data_ptr() for tensor in tensors]
        calls = []
        for described, starts, of_bias, of_sums, panels in divided:
            call = described[:]
            for place, address, start in zip(FACTORS, addresses, starts, strict=False):
                call[place] = address + start
            call[12] = 0 if bias is None else bias.data_ptr() + of_bias
            call[13] = 0 if sums is None or of_sums is None else sums.data_ptr() + of_sums
            call[14] = room.data_ptr() + panels
            calls.append(call)
        held = (tensors, bias, calls, room, sums)
        threads.run(self.library.whole, [call.buffer_info()[0] for call in calls], held)

    def takes_two(self, rows: int, outer: int) -> bool:
        """Whether one call for two right factors with ``outer`` columns in all takes less time than two calls."""
        return not _by_columns(rows, outer)

    def _threads(self, rows: int, inner: int, outer: int) -> int:
        """Return the number of threads for a product."""
        worth = rows * inner * outer // MULTIPLICATIONS_A_THREAD
        most = -(-outer // self.width) if _by_columns(rows, outer) else rows // 8
        return max(1, min(torch.get_num_threads(), worth, most))


def _by_columns(rows: int, outer: int) -> bool:
    """Whether threads divide the columns of a product, as packing all of them would take too long for few rows."""
    return rows < outer


@lru_cache(maxsize=512)
def _divided(
    sizes: tuple[int, ...],
    strides: tuple[tuple[int, int], ...],
    shares: int,
    itemsize: int,
    panel: tuple[int, int],
    together: bool,
) -> tuple[list[tuple[array, list[int], int, int | None, int]], int]:
    """Divide a product among threads.

    Every thread packs and multiplies its own columns of the right factor, or multiplies its own rows of the left factor
    by a right factor that all threads pack together.

    Args:
        sizes: rows, inner and outer size, and the outer size of a second right factor if there is one.
        strides: strides of left factor, right factor and result, and of a second right factor and its result.
        shares: number of threads.
        itemsize: size of a number in bytes.
        panel: columns and rows of a panel.
        together: whether threads can pack one right factor; otherwise every thread packs all of it.

    Returns:
        the shares of the threads, and the number of elements of all panels. A share is a ``struct call`` of
        ``c/gemm.c`` without addresses, and where it begins, in bytes: in each factor and result (in the order of
        ``strides``), in the bias, in the sums (None if it computes none), and in the memory for panels.
    """
    (rows, inner, outer), (width, depth) = sizes[:3], panel
    (left, right, result), of_more = strides[:3], strides[3:]
    columns = sum(-(-size // width) * width for size in sizes[2:])  # of all panels
    more: tuple[int, ...] = NO_MORE
    if by_columns := _by_columns(rows, outer):
        count, unit, moves = -(-outer // width), width, [0, right[1], 1]
    else:
        count, unit, moves = rows, 1, [left[0], 0, result[0]]
    if of_more:
        more = (0, *of_more[0], 0, *of_more[1], sizes[3])
        moves += [0, of_more[1][0]]
    widest = -(-count // shares) * width if by_columns else columns
    packed = min(inner, max(1, PACKED // (widest * depth)) * depth)
    apart = packed * widest if by_columns or not together else 0
    found = []
    for part in range(shares):
        first = count * part // shares * unit
        last = min(count * (part + 1) // shares * unit, outer if by_columns else rows)
        share = (rows, inner, last - first) if by_columns else (last - first, inner, outer)
        described = array("q", [0, *left, 0, *right, 0, *result, *share, 0, 0, 0, packed, *more, *SET_IN_C])
        starts, start = [first * move * itemsize for move in moves], first * itemsize
        # Threads that divide the columns have all rows, of which the first adds up the left factor.
        of_bias, of_sums = (start, None if part else 0) if by_columns else (0, start)
        found.append((described, starts, of_bias, of_sums, part * apart * itemsize))
    return found, max(shares * apart, packed * columns)


def source() -> str:
    """Return the C code of the kernel."""
    return (compiler.SOURCES / "gemm.c").read_text()
