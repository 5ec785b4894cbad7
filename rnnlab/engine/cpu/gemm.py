"""A custom kernel for matrix products, for processors that the BLAS inside torch does not make full use of.

That BLAS is MKL on x86, which works with vectors of 256 bits on AMD's processors, whatever they have. The C in
``c/gemm.c`` follows Goto and van de Geijn (2008, "Anatomy of high-performance matrix multiplication"): the right matrix
is laid out in panels that are read from front to back, and a block of the result stays in registers meanwhile.

Which of the two is used is measured once on each machine, see `is_wanted`.
"""

from __future__ import annotations

import ctypes
import json
import os
import tempfile
from array import array
from collections.abc import Callable
from functools import cache, partial
from math import prod
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from rnnlab.engine.cpu import compiler, threads
from rnnlab.interface import InputError

SMALLEST = 2**20
"""Multiplications of a whole product. For fewer, what stands around it costs as much as is won."""
MULTIPLICATIONS_A_THREAD = 2**21
"""Less work than this is not worth a further thread."""

MEASURED = ((32, 256, 1024, True), (64, 128, 512, True), (1024, 256, 1024, False))
"""The products by which the two are compared: rows, inner and outer size, and whether it is that of a single step of a
sequence, for which the kernel lays out the weight beforehand."""
ADVANTAGE = 1.05
"""The kernel is used if it is faster than this in the mean: where both are alike, torch's is the simpler one."""


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
        self.library = compiler.load('#include "gemm.c"\n', "float" if dtype == torch.float32 else "double")
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

    def step(self, left: Tensor, right: Tensor, out: Tensor) -> Callable[[], None]:
        """The product of one step, ``out = left @ right``, as a function; the weight ``right`` has been laid out."""
        panels, (rows, inner), outer = self.pack(right), left.shape, right.shape[1]
        pointers = (left.data_ptr(), *left.stride(), panels.data_ptr(), out.data_ptr(), out.stride(0), 0)
        kinds = [*[ctypes.c_long] * 3, ctypes.c_void_p, *[ctypes.c_long] * 2, *[ctypes.c_void_p] * 2, ctypes.c_long]
        call = ctypes.CFUNCTYPE(None, *kinds, ctypes.c_int)(self.multiply)
        return partial(_held, (left, panels, out), partial(call, rows, inner, outer, *pointers))


def _held(held: tuple[Tensor, ...], call: Callable[[], None]) -> None:
    """Call a C function while the tensors that it reads and writes are held."""
    call()


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
    """The kernel, where torch's BLAS is slower; None elsewhere, and where it cannot be compiled."""
    if dtype not in (torch.float32, torch.float64) or not is_wanted():
        return None
    try:
        compiler.blas()  # whose threads are the ones to work with
        return Product(dtype)
    except compiler.NoCompiler:
        return None


@cache
def is_wanted() -> bool:
    """Whether the kernel is used rather than torch's BLAS: because it is faster on this processor.

    The environment variable RNNLAB_GEMM, ``own`` or ``blas``, decides. Without it both are timed once; the result is
    kept in the cache of compiled libraries, so that each later process on the machine decides alike and a resumed run
    computes the same numbers.

    Raises:
        InputError: RNNLAB_GEMM has another value.
    """
    chosen = os.environ.get("RNNLAB_GEMM", "")
    if chosen not in ("", "own", "blas"):
        raise InputError(f"RNNLAB_GEMM={chosen!r} must be own, blas or unset")
    if chosen:
        return chosen == "own"
    try:
        compiler.blas()
        return _advantage() > ADVANTAGE
    except compiler.NoCompiler:
        return False


def _advantage() -> float:
    """How many times as fast as torch's BLAS the kernel is, from the cache, or measured now and put there."""
    path = compiler.cache_folder() / f"gemm-{compiler.digest(torch.__version__)}.json"
    found = _read(path)
    if found is None:
        path.unlink(missing_ok=True)  # it is damaged
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as build:
            made = Path(build, "gemm.json")
            made.write_text(json.dumps({"advantage": measure()}))
            try:
                os.link(made, path)
            except FileExistsError:  # another process was first, and all must decide alike
                pass
            except OSError:  # a file system without links
                os.replace(made, path)
        found = _read(path)
    return 0.0 if found is None else found


def _read(path: Path) -> float | None:
    try:
        return float(json.loads(path.read_text())["advantage"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measure() -> float:
    """Time torch's BLAS over that of the kernel, one thread each: the geometric mean over `MEASURED`, in float32.

    Takes some 20 ms, and a second where the kernel is yet to be compiled.
    """
    kernel, threads_before = Product(torch.float32), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ratios = []
        for rows, inner, outer, is_step in MEASURED:
            shapes = ((rows, inner), (inner, outer), (rows, outer))
            left, right, out = (torch.ones(shape, dtype=torch.float32, device="cpu") for shape in shapes)
            repeats = max(1, 2**23 // (rows * inner * outer))
            own = kernel.step(left, right, out) if is_step else partial(kernel, left, right, out, False)
            ways = (partial(torch.mm, left, right, out=out), own)
            for way in ways:  # the first call of each also lays out memory
                way()
            # In turns, and the shortest time counts: other processes only ever add to it.
            rounds = [[_time(way, repeats) for way in ways] for _ in range(5)]
            blas_time, own_time = map(min, zip(*rounds, strict=True))
            ratios.append(blas_time / own_time)
    finally:
        torch.set_num_threads(threads_before)
    return prod(ratios) ** (1 / len(ratios))


def _time(work: Callable[[], object], repeats: int) -> float:
    started = perf_counter()
    for _ in range(repeats):
        work()
    return perf_counter() - started
