"""Run a compiled step: compile and load it, divide the work among threads, and pass the arguments to C."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import lru_cache
from operator import add
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnnlab.engine.cpu import compiler, gemm, threads
from rnnlab.engine.cpu.emit import Source
from rnnlab.engine.cpu.memory import take
from rnnlab.engine.cpu.own_gemm import OwnGemm
from rnnlab.engine.loops.formulas import Array
from rnnlab.engine.loops.lower import Lowered
from rnnlab.engine.loops.schedule import Function, Multiply

ROWS_A_THREAD = 4
"""Smallest number of batch rows for each thread."""
COLUMNS_A_THREAD = 128
"""Columns that do not depend on each other are divided among threads in blocks of this size. Memory bandwidth limits
such loops: half of a row takes 0.9 of the time of the whole row at 128 columns, and 0.6 at 1024."""
NUMBERS_A_THREAD = 2**18
"""Smallest number of elements for each thread if the columns are divided."""
STEPS_TO_TRANSPOSE = 16
"""From this number of time steps on, the weights are copied transposed: products are then 1.1 to 1.6 times as fast."""
MULTIPLICATIONS_TO_SHARE = 2**16
"""Smallest number of multiplications of a time step for each thread that shares the columns with others. The threads
wait for each other two to six times in a step, each time for about 0.2 microseconds."""
MOST_MEMBERS = 31
"""Largest number of threads that share the columns of the same rows (``take_part`` of ``c/team.h``)."""

MEETING = 51 * 8
"""Size of a ``struct meeting`` of ``c/team.h`` in bytes."""
NUMBERS = 5
"""Numbers of a ``struct array`` of ``c/step.h``; the first is its address, the last that of the sums over all steps."""

Memory = dict[Array, Any]

_source = lru_cache(maxsize=64)(Source)


class _Share(NamedTuple):
    """The share of one thread, or of the threads that share its columns.

    first, last: its rows, the last exclusive.
    sizes: the widths of the step, and the number of columns of this share.
    described: the arrays, without addresses.
    starts: where the share begins in each array, in bytes.
    totals: where it begins in each array of sums over all time steps, in bytes.
    """

    first: int
    last: int
    sizes: array
    described: array
    starts: list[int]
    totals: list[int]


class _Division(NamedTuple):
    """How a call is divided.

    shares: the shares.
    members: number of threads that share the columns of the same rows.
    sums: indices in ``described`` of the addresses of the sums over all time steps.
    """

    shares: list[_Share]
    members: int
    sums: list[int]


class Kernel:
    """A cell's step as compiled C functions.

    Args:
        lowered: the step and its backward step, as loops.
        dtype: float32 or float64.
        names: the functions to compile: ``forward`` and ``backward``, or ``inference``.
        device: a CPU.

    Raises:
        NoCompiler: there is no compiler, or it fails.
    """

    dtypes = (torch.float32, torch.float64)
    overlays = True  # each thread reads every number before it overwrites it
    slower = "as Python instead of C, much slower"

    def __init__(self, lowered: Lowered, dtype: torch.dtype, names: Sequence[str], device: torch.device) -> None:
        self.lowered, self.dtype, self.blas = lowered, dtype, compiler.blas()
        self.source = _source(lowered, dtype == torch.float32, tuple(names))
        self.arrays = self.source.arrays
        defines = ("REAL=float", "SINGLE") if dtype == torch.float32 else ("REAL=double",)
        library = compiler.load(self.source.text, *defines)
        order = {constant: place for place, constant in enumerate(lowered.constants)}
        self.places = {  # the place of each array among the constants; None for other arrays
            name: [(one, order[one.name] if one.kind == "constant" else None) for one in self.arrays[name]]
            for name in names
        }
        self.columns = {name: _columns(getattr(lowered, name), self.arrays[name]) for name in names}
        self._divided: dict[str, tuple[Any, _Division]] = {}
        self.functions = {name: getattr(library, name) for name in names}
        for function in self.functions.values():
            function.argtypes, function.restype = [ctypes.c_void_p], None
        self._add_shares, pointer, number = library.add_shares, ctypes.c_void_p, ctypes.c_long
        self._add_shares.argtypes, self._add_shares.restype = [pointer, number, number, pointer], None

    @staticmethod
    def check() -> None:
        """Raise `NoCompiler` unless there is a compiler and a BLAS."""
        compiler.compiler()
        compiler.blas()

    def call(
        self,
        name: str,
        memory: Memory,
        constants: Sequence[Tensor],
        steps: int,
        lengths: Tensor | None,
        precision: str,
    ) -> None:
        """Run one of the three functions.

        Args:
            name: ``forward``, ``inference`` or ``backward``.
            memory: a tensor for every array of the function except constants: ``[T, B, width]``; ``[1, B, width]`` if
                all steps share it; ``[T + 1, B, width]`` or ``[2, B, width]`` for states and their gradients; the
                tensors of `sums` for sums.
            constants: the cell's constants.
            steps: T.
            lengths: int64 ``[B]`` or None.
            precision: ``ieee``, or ``bf16`` to round both factors of every product to bfloat16.
        """
        wanted = getattr(self.lowered, name).products
        tensors = [memory[one] if place is None else constants[place] for one, place in self.places[name]]
        totals = [tensor[1] for tensor in tensors if type(tensor) is tuple]  # of sums, see `sums`
        tensors = [tensor[0] if type(tensor) is tuple else tensor for tensor in tensors]
        size = sum(constants[product.weight].numel() for product in wanted)
        division = self._division(name, tensors, totals, steps, size)
        batch_size, members = tensors[0].shape[1], division.members
        is_large = gemm.pays(steps * batch_size, size)
        assert precision in ("ieee", "bf16"), precision
        own = gemm.own(self.dtype, "pairs") if is_large and precision == "bf16" else None
        own = gemm.own(self.dtype, "step") if is_large and own is None else own
        weights = [_weight(product, constants, steps, own, precision) for product in wanted]
        matrices = array("q", [number for weight in weights for number in _matrix(weight)])
        multiply, pairs = (own.multiply, own.pairs) if own else (0, False)
        products = (self.blas.product[self.dtype], multiply, pairs, self.blas.set_threads)
        widths = [product.inner for product in wanted if precision == "bf16"]
        rounded = self.take((members * batch_size, max(widths))) if widths else None
        ends = 0 if lengths is None else lengths.data_ptr()
        addresses = [tensor.data_ptr() for tensor in tensors]
        calls = []
        for share in division.shares:
            described, meeting = share.described[:], array("q", bytes(MEETING if members > 1 else 8))
            described[::NUMBERS] = array("q", map(add, addresses, share.starts))
            for index, total, start in zip(division.sums, totals, share.totals, strict=True):
                described[index] = total.data_ptr() + start
            pointers = [pointer.buffer_info()[0] for pointer in (share.sizes, described, matrices)]
            for member in range(members):
                place = rounded[member * batch_size + share.first :].data_ptr() if widths else 0
                numbers = [steps, share.first, share.last, ends, *pointers, place, *products, member, members]
                calls.append((array("q", [*numbers, meeting.buffer_info()[0]]), described, meeting))
        pointers = [arguments.buffer_info()[0] for arguments, *_ in calls]
        held = (memory, constants, weights, matrices, rounded, division, calls)
        threads.run(self.functions[name], pointers, held)

    def _division(
        self, name: str, tensors: Sequence[Tensor], totals: Sequence[Tensor], steps: int, size: int
    ) -> _Division:
        """Return how a call is divided; the result of the last call if nothing that it depends on has changed."""
        form = (steps, torch.get_num_threads(), [(tensor.shape, tensor.stride()) for tensor in tensors])
        known, division = self._divided.get(name, (None, None))
        if known != form:
            division = self._divide(name, tensors, totals, steps, size)
            self._divided[name] = form, division
        return division

    def _divide(
        self, name: str, tensors: Sequence[Tensor], totals: Sequence[Tensor], steps: int, size: int
    ) -> _Division:
        """Divide a call among threads.

        Args:
            name: the function.
            tensors: its arrays; of sums, those over one time step.
            totals: the sums over all time steps.
            steps: T.
            size: the number of multiplications of a time step for one row.
        """
        arrays, batch_size, columns = self.arrays[name], tensors[0].shape[1], self.columns[name]
        numbers = array("q", [n for one, t in zip(arrays, tensors, strict=True) for n in _strides(one, t, batch_size)])
        shares = []
        for part, (first, last, low, high) in enumerate(self.parts(name, batch_size, steps)):
            sizes = array("q", [high - low if n == columns else n for n in self.source.sizes])
            starts = [
                (low if one.width > 1 else 0) + (part * tensor.stride(0) if one.kind == "sum" else 0)
                for one, tensor in zip(arrays, tensors, strict=True)
            ]
            starts = [start * self.dtype.itemsize for start in starts]
            of_totals = [(low + part * tensor.stride(0)) * tensor.itemsize for tensor in totals]
            shares.append(_Share(first, last, sizes, numbers, starts, of_totals))
        sums = [NUMBERS * i + NUMBERS - 1 for i, one in enumerate(arrays) if one.kind == "sum"]
        return _Division(shares, self.members(name, batch_size, size), sums)

    def take(self, shape: Sequence[int]) -> Tensor:
        """Return uninitialised memory for an array."""
        return take(shape, self.dtype)

    def mm(self, left: Tensor, right: Tensor, precision: str) -> Tensor:
        """Compute a product over all time steps, the gradient of a weight, from the unrounded factors."""
        return gemm.mm(left, right)

    def mm_two(self, left: Tensor, first: Tensor, second: Tensor, precision: str) -> tuple[Tensor, Tensor]:
        """Compute two products with the same left factor, as `mm` does."""
        return gemm.mm_two(left, first, second)

    def parts(self, name: str, batch_size: int, steps: int) -> list[tuple[int, int, int, int]]:
        """Return the share of each thread: first row, last row, first column, last column; the last are exclusive."""
        available, columns = torch.get_num_threads(), self.columns[name]
        rows = row_shares(batch_size)
        blocks = -(-columns // COLUMNS_A_THREAD)
        tiles = max(1, min(available // rows, blocks, steps * batch_size * columns // NUMBERS_A_THREAD))
        return [
            (
                batch_size * row // rows,
                batch_size * (row + 1) // rows,
                blocks * tile // tiles * COLUMNS_A_THREAD,
                min(blocks * (tile + 1) // tiles * COLUMNS_A_THREAD, columns),
            )
            for row in range(rows)
            for tile in range(tiles)
        ]

    def members(self, name: str, batch_size: int, size: int) -> int:
        """Return the number of threads that share the columns of the same rows.

        Args:
            name: the function.
            batch_size: B.
            size: the number of multiplications of a time step for one row.
        """
        rows = row_shares(batch_size)
        is_shared = torch.get_num_threads() > rows and getattr(self.lowered, name).products
        return (
            max(1, min(torch.get_num_threads() // rows, MOST_MEMBERS, size // MULTIPLICATIONS_TO_SHARE))
            if is_shared
            else 1
        )

    def sums(self, batch_size: int, steps: int) -> Memory:
        """Return zeros for the gradients of constants: for every thread, sums over one time step and over all steps."""
        shares = len(self.parts("backward", batch_size, steps))
        found = {}
        for one in self.lowered.constant_gradients:
            if one is not None:
                rows = batch_size if one in self.lowered.by_row else 1
                shape = (shares, rows, one.width)
                dtypes = (self.dtype, torch.float64)
                found[one] = tuple(torch.zeros(shape, dtype=dtype, device="cpu") for dtype in dtypes)
        return found

    def total(self, sums: tuple[Tensor, Tensor]) -> Tensor:
        """Return the gradient of a constant after a backward pass, ``[rows, width]``, from its tensors of `sums`."""
        of_step, totals = sums
        shares, rows, width = totals.shape
        self._add_shares(totals.data_ptr(), shares, rows * width, of_step.data_ptr())
        return of_step[0]


def row_shares(batch_size: int) -> int:
    """Return the number of threads among which the rows of a batch are divided."""
    return max(1, min(torch.get_num_threads(), batch_size // ROWS_A_THREAD))


def _weight(product: Multiply, constants: Sequence[Tensor], steps: int, own: OwnGemm | None, precision: str) -> Tensor:
    """Return the weight of a product, ``[inner, outer]``, or its panels for rnnlab's GEMM kernel."""
    weight = constants[product.weight]
    if precision == "bf16":
        weight = weight.to(torch.bfloat16).to(weight.dtype)
    weight = weight.t() if product.transposed else weight
    if own is not None:
        return own.pack(weight)
    (row, column), (inner, outer) = weight.stride(), weight.shape
    lies_well = (column == 1 and row >= outer) or (row == 1 and column >= inner)
    return weight.contiguous() if steps >= STEPS_TO_TRANSPOSE or not lies_well else weight


def _strides(one: Array, tensor: Tensor, batch_size: int) -> tuple[int, ...]:
    """Return a ``struct array`` of ``c/step.h``, without addresses: 0, strides of steps and rows, step mask, 0."""
    if one.kind == "sum":
        return 0, 0, tensor.stride(1) if tensor.shape[1] > 1 else 0, 0, 0
    if one.kind == "constant":
        return 0, 0, tensor.stride(0) if tensor.dim() == 2 and len(tensor) > 1 else 0, 0, 0
    (steps, rows, _), (step, row, _) = tensor.shape, tensor.stride()
    return 0, step, row if rows == batch_size else 0, steps - 1 if steps <= 2 else -1, 0


def _matrix(weight: Tensor) -> tuple[int, int, int]:
    """Return address, leading dimension and whether it is transposed: a ``struct weight`` of ``c/step.h``."""
    if weight.dim() == 3:
        return weight.data_ptr(), 0, 0
    if weight.stride(1) == 1 or weight.shape[1] == 1:
        return weight.data_ptr(), max(weight.stride(0), weight.shape[1]), 0
    return weight.data_ptr(), weight.stride(1), 1


def _columns(function: Function, arrays: list[Array]) -> int:
    """Return the number of columns if each column depends only on itself; otherwise 0."""
    if function.products or len(function.loops) != 1 or function.loops[0].reductions:
        return 0
    (loop,) = function.loops
    places = [expr.place for expr in function.computed(loop) if expr.place] + [store.place for store in loop.stores]
    shared = ("input", "constant", "upstream")
    widths = [one.width for one in arrays if one.width > 1 or one.kind not in shared]
    return loop.width if {*widths} == {loop.width} and not any(place.offset for place in places) else 0
