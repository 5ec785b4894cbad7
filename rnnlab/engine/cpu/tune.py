"""Measure which matrix product is faster on this processor: torch's BLAS or rnnlab's GEMM kernel (``c/gemm.c``).

There are two measurements for each dtype: products of one time step, with few rows and a packed weight, and products
over all time steps. Each is made once, in some tens of milliseconds, on one thread. The speed-ups are stored next to
the compiled libraries, and every later process reads them. A run that is resumed on the same machine therefore has the
same rounding as before.

``RNNLAB_GEMM=blas`` or ``RNNLAB_GEMM=own`` overrides the measurement.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from math import isfinite
from pathlib import Path
from statistics import geometric_mean
from time import thread_time

import torch
from torch import Tensor

from rnnlab.engine.cache import cache_folder, trusted_folder
from rnnlab.engine.cpu import compiler
from rnnlab.engine.cpu.own_gemm import OwnGemm, source
from rnnlab.engine.once import warn_once
from rnnlab.interface import InputError

VARIABLE = "RNNLAB_GEMM"
CHOICES = ("blas", "own")
FASTER = 1.03
"""Smallest speed-up at which rnnlab's kernel is used; a smaller difference may be noise."""
SHAPES = {
    "step": ((1, 256, 1024), (16, 256, 1024), (64, 128, 512)),
    "sequence": ((512, 128, 512),),
}
"""Rows, inner and outer sizes that are timed for each use; the result is the geometric mean of their speed-ups."""
ROUNDS = 15
"""Number of timings of each product, in alternation. The fastest counts, in CPU time, as the machine may be busy."""


def requested() -> str | None:
    """Return the value of ``RNNLAB_GEMM``: ``blas``, ``own``, or None if it is not set.

    Raises:
        InputError: it has another value.
    """
    value = os.environ.get(VARIABLE)
    if value and value not in CHOICES:
        raise InputError(f"{VARIABLE}={value} must be blas or own; unset it to measure which is faster")
    return value or None


def prefers_own(dtype: torch.dtype, use: str) -> bool:
    """Whether rnnlab's kernel is used instead of torch's BLAS.

    Args:
        dtype: float32 or float64.
        use: a key of `SHAPES`.
    """
    asked = requested()
    return asked == "own" if asked else _stored_speedups(dtype).get(use, 0.0) >= FASTER


@cache
def _stored_speedups(dtype: torch.dtype) -> dict[str, float]:
    """Return the speed-ups of rnnlab's kernel by use, and measure them if none are stored.

    The result is empty if the kernel cannot be compiled, or if a measurement cannot be stored: another process could
    get another result.
    """
    folder = trusted_folder()
    try:
        path = folder / f"gemm-{_key(dtype)}.json" if folder else None
        found = _read(path) if path else None
        if found is not None:
            return found
        if folder is None or folder != cache_folder():
            warn_once(
                "matrix products use torch's BLAS: the cache folder, which stores the measurement of the faster "
                f"kernel, cannot be written; set RNNLAB_CACHE to a folder that only you can write, or {VARIABLE}=own"
            )
            return {}
        return _store(path, measure(dtype))
    except compiler.NoCompiler:
        return {}  # another warning gives the reason: cells run without C


def _key(dtype: torch.dtype) -> str:
    """Return a digest of everything that a measurement depends on: processor, compiler, torch, kernel, dtype, sizes."""
    parts = (compiler.surroundings(), torch.__version__, source(), str(dtype), SHAPES)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, float] | None:
    """Return the stored speed-ups; None if there are none, or if the file is damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and found.keys() == SHAPES.keys()
    if whole and all(type(value) is float and isfinite(value) and value > 0 for value in found.values()):
        return found
    return None


def _store(path: Path, speedups: dict[str, float]) -> dict[str, float]:
    """Store speed-ups and return the stored ones: if several processes measure at once, the first result counts."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix="build-")
        with os.fdopen(handle, "w") as file:
            json.dump(speedups, file)
        if path.exists() and _read(path) is None:
            os.replace(name, path)  # a damaged file
        else:
            try:
                os.link(name, path)  # unlike a replacement, it fails if another process was faster
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                os.replace(name, path)
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        warn_once(f"matrix products use torch's BLAS: {path} cannot be written ({error.strerror})")
        return {}
    return _read(path) or {}


def measure(dtype: torch.dtype) -> dict[str, float]:
    """Time both products on one thread, and return the speed-up of rnnlab's kernel over the BLAS for each use.

    Args:
        dtype: float32 or float64.

    Raises:
        NoCompiler: the kernel cannot be compiled, or the BLAS cannot be called.
    """
    own, blas = OwnGemm(dtype), compiler.blas()
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False), _one_thread(blas):
        return {
            use: geometric_mean([_speedup(*_contenders(own, blas, use, *shape)) for shape in shapes])
            for use, shapes in SHAPES.items()
        }


def _contenders(
    own: OwnGemm, blas: compiler.Blas, use: str, rows: int, inner: int, outer: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return two functions that compute the same products, with rnnlab's kernel and with the BLAS."""
    like = {"dtype": own.dtype, "device": "cpu"}
    left, weight = torch.ones(rows, inner, **like), torch.ones(outer, inner, **like)
    if use == "step":
        return _step(own, blas, left, weight.t())
    mine, theirs = (lambda a, b, out: own(a, b, out, shares=1)), (lambda a, b, out: torch.mm(a, b, out=out))
    return _layer(mine, left, weight), _layer(theirs, left, weight)


def _layer(mm: Callable[[Tensor, Tensor, Tensor], object], inputs: Tensor, weight: Tensor) -> Callable[[], object]:
    """Return a function that computes the three products of a linear layer: outputs and gradients of both factors."""
    outputs, of_inputs, of_weight = inputs @ weight.t(), torch.empty_like(inputs), torch.empty_like(weight)
    products = [(inputs, weight.t(), outputs), (outputs, weight, of_inputs), (outputs.t(), inputs, of_weight)]
    return lambda: [mm(*product) for product in products]


def _step(
    own: OwnGemm, blas: compiler.Blas, left: Tensor, weight: Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return two functions that multiply the rows of one time step by a weight, as compiled steps do."""
    (rows, inner), outer = left.shape, weight.shape[1]
    out, panels, right = left.new_empty(rows, outer), own.pack(weight), weight.contiguous()
    real, size = (ctypes.c_float if own.dtype == torch.float32 else ctypes.c_double), ctypes.c_long
    pointer = ctypes.c_void_p
    multiply = ctypes.CFUNCTYPE(None, *[size] * 3, pointer, size, size, pointer, pointer, size, ctypes.c_int)(
        own.multiply
    )
    mine = (rows, inner, outer, left.data_ptr(), inner, 1, panels.data_ptr(), out.data_ptr(), outer, 0)
    gemm = ctypes.CFUNCTYPE(None, *[pointer] * 13)(blas.product[own.dtype])
    m, n, k = (ctypes.c_int(number) for number in (outer, rows, inner))
    one, zero, letter = real(1), real(0), ctypes.c_char(b"N")
    held = (letter, letter, m, n, k, one, right, m, left, k, zero, out, m)
    theirs = [part.data_ptr() if isinstance(part, Tensor) else ctypes.addressof(part) for part in held]

    def by_blas(held: tuple = held) -> None:  # keeps the memory behind the addresses alive
        gemm(*theirs)

    def by_own(held: tuple = (left, panels, out)) -> None:
        multiply(*mine)

    return by_own, by_blas


def _speedup(own: Callable[[], object], blas: Callable[[], object]) -> float:
    """Return the time of ``blas`` divided by the time of ``own``, each the fastest of `ROUNDS`."""
    times: dict[Callable[[], object], list[float]] = {own: [], blas: []}
    for function in times:
        function()  # warms up the caches and the BLAS
    for _ in range(ROUNDS):
        for function, taken in times.items():
            start = thread_time()
            function()
            taken.append(thread_time() - start)
    return min(times[blas]) / max(min(times[own]), 1e-9)


@contextmanager
def _one_thread(blas: compiler.Blas) -> Iterator[None]:
    """Limit the BLAS to one thread, if it can be limited for the calling thread only."""
    set_threads = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(blas.set_threads) if blas.set_threads else int
    before = set_threads(1)
    try:
        yield
    finally:
        set_threads(before)
