"""Run a compiled step with heads: allocate its arrays, divide the heads among threads, and call C."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor

from rnnlab.engine.cpu import compiler, threads
from rnnlab.engine.cpu.heads import HeadSource
from rnnlab.engine.cpu.layout import natural
from rnnlab.engine.cpu.linear import side_by_side
from rnnlab.engine.cpu.memory import take, take_like

DTYPES = (torch.float32, torch.float64)

SMALLEST = 2**17
"""Least number of elements of states, over all steps, for a thread of its own: to wake it takes some microseconds."""

CACHE = 3 * 2**17
"""Bytes of a core's cache that states may take: most processors have at least 512 KiB."""


class HeadKernel:
    """A step with heads as compiled C functions.

    Args:
        source: the step.
        dtype: float32 or float64, as in the source.

    Raises:
        NoCompiler: there is no compiler, or it fails.
    """

    def __init__(self, source: HeadSource, dtype: torch.dtype) -> None:
        self.source, self.program, self.dtype = source, source.program, dtype
        compiler.blas()  # whose threads run the functions
        defines = ("REAL=float", "SINGLE") if dtype == torch.float32 else ("REAL=double",)
        library = compiler.load(self.source.text, *defines)
        self.functions = {name: getattr(library, name) for name in ("forward", "backward")}
        for function in self.functions.values():
            function.argtypes, function.restype = [ctypes.c_void_p], None
        self.strides = [natural(value.shape[1:]) for value in self.program.inputs]
        self.described: dict[str, tuple[list, array]] = {}

    def forward(
        self, constants: Sequence[Tensor], inputs: Sequence[Tensor], state: Sequence[Tensor],
        lengths: Tensor | None, every: int,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:  # fmt: skip
        """Run all time steps.

        Args:
            constants: the constants.
            inputs: the prepared inputs, ``[T, B, ...]``.
            state: the initial state, ``[B, heads, ...]`` each.
            lengths: int64 ``[B]`` or None.
            every: the number of steps between two checkpoints; 0 to store none.

        Returns:
            outputs ``[T, B, ...]``, the final state, and what `backward` needs: the sums, ``[T, B, heads, sums]``, and
            the checkpoints, ``[T / every, B, heads, record]``; nothing if ``every`` is 0.
        """
        steps, rows = inputs[0].shape[:2]
        given = self._read(inputs, [*constants, *state])
        outputs = take((steps, rows, *self.program.output.shape[1:]), self.dtype)
        last = [take_like(tensor) for tensor in given[-len(state) :]]
        heads = (rows, self.source.heads)
        # Without a backward pass all steps store their sums in the same place, and there are no checkpoints.
        sums = take((steps if every else 1, *heads, self.source.sums), self.dtype)
        checkpoints = take((-(-steps // every), *heads, self.source.record), self.dtype) if every else sums
        tensors = [*given, outputs, sums, checkpoints, *last]
        scratch = self.source.scratch + 2 * self.source.record
        self._call("forward", tensors, (), scratch, steps, rows, lengths, every)
        return outputs, last, [sums, checkpoints] if every else []

    def backward(
        self, constants: Sequence[Tensor], inputs: Sequence[Tensor], state: Sequence[Tensor], kept: Sequence[Tensor],
        output_gradients: Tensor, state_gradients: Sequence[Tensor | None], lengths: Tensor | None, every: int,
    ) -> list[Tensor | None]:  # fmt: skip
        """Return the gradients of constants, inputs and initial state; None for a tensor without a gradient.

        Args:
            constants: the constants.
            inputs: the prepared inputs, ``[T, B, ...]``.
            state: the initial state.
            kept: sums and checkpoints from `forward`.
            output_gradients: gradients of the outputs, ``[T, B, ...]``.
            state_gradients: gradients of the final state; None if they are zero.
            lengths: int64 ``[B]`` or None.
            every: as for `forward`.
        """
        steps, rows = inputs[0].shape[:2]
        last = [_NOTHING if g is None else self._converted(g).contiguous() for g in state_gradients]
        first = [take(tensor.shape, self.dtype) for tensor in state]
        leaves = dict(zip((*self.program.inputs, *self.program.constants), (*inputs, *constants), strict=True))
        learned = [value for value in self.source.learned if value in self.program.inputs]
        whole = [value for value in learned if value not in self.source.shared]
        found_in = dict(zip(whole, side_by_side([leaves[v] for v in whole], self.dtype), strict=True))
        own = {v: found_in[v] if v in found_in else take(self._by_head(leaves[v]), self.dtype) for v in learned}
        shares = len(self._parts(rows, steps))
        sums = {
            v: torch.zeros((shares, leaves[v].numel()), dtype=torch.float64, device="cpu")
            for v in self.source.learned
            if v in self.program.constants
        }
        upstream = self._rows(output_gradients, natural(output_gradients.shape[2:]))
        tensors = [*self._read(inputs, constants), *last, upstream, *kept, *first, *own.values()]
        scratch = self.source.scratch + (every + 3) * self.source.record
        self._call("backward", tensors, tuple(sums.values()), scratch, steps, rows, lengths, every)
        found: list[Tensor | None] = []
        for value, tensor in zip(self.program.constants, constants, strict=True):
            total = sums.pop(value, None)  # a constant that a cell returns twice gets its gradient once
            found.append(None if total is None else total.sum(0).to(tensor.dtype).reshape(tensor.shape))
        own |= {value: own[value].sum(2, keepdim=True) for value in self.source.shared.intersection(own)}
        found += [own.get(value) for value in self.program.inputs]
        return found + [g if s.requires_grad else None for g, s in zip(first, state, strict=True)]

    def interval(self, steps: int, rows: int) -> int:
        """Return the number of steps between two checkpoints, from the number of steps and of sequences.

        The checkpoints, and the states between two of them for each thread, take the least memory with an interval of
        sqrt(steps * heads / threads), where ``heads`` counts those of all sequences. It is at least sqrt(steps). An
        interval above sqrt(steps) is used only as far as the states fit into a cache.
        """
        per_thread = rows * self.source.heads // len(self._parts(rows, steps))
        fitting = CACHE // (self.source.record * self.dtype.itemsize)
        return max(1, isqrt(steps), min(isqrt(steps * per_thread), fitting, steps))

    def _by_head(self, tensor: Tensor) -> Sequence[int]:
        """Return the shape of the gradient of an input that all heads share, with a part for each head."""
        return (*tensor.shape[:2], self.source.heads, *tensor.shape[3:])

    def _rows(self, tensor: Tensor, strides: Sequence[int]) -> Tensor:
        """Return a tensor ``[T, B, ...]`` in the dtype of the step, with ``strides`` after the batch."""
        tensor = self._converted(tensor)
        # The strides of axes with one element do not matter.
        is_fit = tensor.stride()[2:] == strides or tensor[:1, :1].is_contiguous()
        return tensor if is_fit else tensor.contiguous()

    def _converted(self, tensor: Tensor) -> Tensor:
        """Return a tensor in the dtype of the step."""
        is_fit = tensor.dtype == self.dtype and not tensor.is_neg()
        return tensor if is_fit else tensor.to(self.dtype).resolve_neg()

    def _read(self, inputs: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
        """Return prepared inputs, and other tensors, which are contiguous altogether, as the C functions read them."""
        found = [self._rows(tensor, strides) for tensor, strides in zip(inputs, self.strides, strict=True)]
        return found + [self._converted(tensor).contiguous() for tensor in others]

    def _parts(self, rows: int, steps: int) -> list[tuple[int, int]]:
        """Return the share of each thread: its first and last head, the last exclusive."""
        items = rows * self.source.heads
        work = items * steps * self.source.record
        shares = max(1, min(torch.get_num_threads(), items, work // SMALLEST))
        return [(items * n // shares, items * (n + 1) // shares) for n in range(shares)]

    def _call(
        self, name: str, tensors: list[Tensor], sums: tuple[Tensor, ...], scratch: int, steps: int, rows: int,
        lengths: Tensor | None, every: int,
    ) -> None:  # fmt: skip
        """Call a C function; its arrays are ``tensors`` and ``sums`` in the order of the source, and scratch memory."""
        # A `struct array` of c/step.h for each tensor: address, strides of steps and rows, step mask. All but the
        # addresses are as in the last call, if the tensors have the same form.
        forms = [(tensor.shape, tensor.stride()) for tensor in tensors]
        known, numbers = self.described.get(name, (None, None))
        if known != forms:
            numbers = array("q", [number for form in forms for number in (0, *_strides(*form), -1, 0)])
            self.described[name] = forms, numbers
        numbers = numbers[:]
        numbers[::5] = array("q", [tensor.data_ptr() for tensor in tensors])
        parts = self._parts(rows, steps)
        size = -(-scratch // 16) * 16
        memory = take((len(parts), size), self.dtype)
        ends = 0 if lengths is None else lengths.data_ptr()
        sizes, calls = array("q", [every]), []
        for part, (first, last) in enumerate(parts):
            described = numbers[:]
            for total in sums:
                described.extend((0, 0, 0, 0, total[part].data_ptr()))
            described.extend((memory.data_ptr() + part * size * self.dtype.itemsize, 0, 0, 0, 0))
            pointers = [pointer.buffer_info()[0] for pointer in (sizes, described)]
            calls.append((array("q", [steps, first, last, ends, *pointers, 0, 0, 0, 0, 0, 0]), described))
        pointers = [arguments.buffer_info()[0] for arguments, _ in calls]
        threads.run(self.functions[name], pointers, (tensors, sums, memory, sizes, calls))


_NOTHING = torch.empty(0, device="cpu")
"""An array without elements, whose address is zero."""


def _strides(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """Return the strides of the first two axes; 0 for the first if all its elements are in the same place."""
    step, row, *_ = (*strides, 0, 0)
    return (step if shape and shape[0] > 1 else 0), row
