"""Linear maps over all steps of a sequence, with pooled memory and the faster matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from rnnlab.engine import reference
from rnnlab.engine.cpu import gemm, memory
from rnnlab.engine.cpu.gemm import mm, mm_and_sums

LARGE = 2**21
"""Size of a sequence, in bytes, from which `Reusing` saves more than its cost of 60 microseconds."""
LARGE_FOR_OWN = 2**16
"""The same if rnnlab's GEMM kernel is used, which saves more."""


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``inputs @ weight.t() + bias`` like `torch.nn.functional.linear`, faster for long inputs on a CPU.

    Args:
        inputs: ``[T, B, F]``; other shapes, small inputs, and inputs under a transform or autocast use torch.
        weight: ``[G, F]``.
        bias: ``[G]``; None for no bias.
    """
    if reference.observer(inputs) is None and _is_large(inputs, len(weight)) and _fits(inputs, weight, bias):
        return _Linear.apply(inputs, weight, bias)
    return functional.linear(inputs, weight, bias)


def reusing(inputs: Tensor, width: int) -> AbstractContextManager:
    """Return a context for the ``prepare`` of a cell: `Reusing` if the sequences are large enough to benefit from it.

    Args:
        inputs: ``[T, B, input_size]``.
        width: the hidden size of the cell.
    """
    return Reusing() if _is_large(inputs, width) else nullcontext()


def _is_large(inputs: Tensor, width: int) -> bool:
    """Whether the inputs, or as many rows of ``width`` numbers, are large."""
    size = inputs.shape[:-1].numel() * max((width, *inputs.shape[-1:])) * inputs.itemsize
    if inputs.device.type != "cpu" or size < LARGE_FOR_OWN or reference.autocast_dtype(inputs.device):
        return False  # autocast has its own product
    return size >= LARGE or gemm.own(inputs.dtype, "sequence") is not None


class Reusing(TorchFunctionMode):
    """A context in which ``linear`` over all time steps uses pooled memory and the faster matrix product.

    The gradients of the parts of its result are joined without a copy if they lie side by side in memory.
    """

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is functional.linear and not kwargs and _fits(*args):
            return _Linear.apply(*args, *[None] * (3 - len(args)))
        if function in _PARTING and type(args[0]) is Tensor and args[0].dim() > 2 and args[0].requires_grad:
            parts = function(*args, **(kwargs or {}))
            return _Parts.apply(args[0], parts) if _are_columns(parts, args[0]) else parts
        return function(*args, **(kwargs or {}))


_PARTING = (Tensor.chunk, Tensor.split, Tensor.unbind, torch.chunk, torch.split, torch.unbind)


def _are_columns(parts: Sequence[Tensor], whole: Tensor) -> bool:
    """Whether several parts of a contiguous tensor ``[T, B, ...]`` divide each row into adjacent blocks."""
    if len(parts) < 2 or not whole.is_contiguous():
        return False
    if any(part.dim() < 3 or part.shape[:2] != whole.shape[:2] for part in parts):
        return False
    starts = accumulate((part[:1, :1].numel() for part in parts), initial=whole.storage_offset())
    pairs = zip(parts, starts, strict=False)  # the last of `starts` is the end of the row
    return all(part.storage_offset() == start and part[:1, :1].is_contiguous() for part, start in pairs)


class _Parts(torch.autograd.Function):
    """Views of a tensor ``[T, B, ...]`` that divide each row into adjacent blocks."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.like, ctx.sizes = whole.shape, whole.new_empty(0), [part[:1, :1].numel() for part in parts]
        return tuple(part.detach() for part in parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None]:
        given = [
            ctx.like.new_zeros((*ctx.shape[:2], size)) if gradient is None else gradient.flatten(2)
            for gradient, size in zip(gradients, ctx.sizes, strict=True)
        ]
        return joined(given).view(ctx.shape), None


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return ``torch.cat(parts, dim=-1)``, without a copy if the parts are all columns of one array ``[T, B, F]``."""
    first = parts[0]
    shape = (*first.shape[:2], sum(part.shape[-1] for part in parts))
    strides = (shape[1] * shape[2], shape[2], 1)
    offset = first.storage_offset()
    for part in parts:
        is_next = part.storage_offset() == offset and part.data_ptr() - first.data_ptr() == (
            (offset - first.storage_offset()) * first.itemsize
        )
        if not is_next or part.stride() != strides or torch.is_grad_enabled():
            return torch.cat(tuple(parts), dim=-1)
        offset += part.shape[-1]
    return first.as_strided(shape, strides)


def side_by_side(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return uninitialised tensors in the shapes of ``tensors [T, B, ...]``.

    Where some of ``tensors`` are together all columns of one array ``[T, B, F]``, so are the results, for `joined`.
    """
    groups: dict[Any, list[int]] = {}
    for n, tensor in enumerate(tensors):
        groups.setdefault((tensor.untyped_storage().data_ptr(), tensor.stride()[:2]), []).append(n)
    found: dict[int, Tensor] = {}
    for (_, (step, row)), members in groups.items():
        T, B = tensors[members[0]].shape[:2]
        starts = [tensors[n].storage_offset() for n in members]
        sizes = [tensors[n][0, 0].numel() for n in members]
        order = sorted(range(len(members)), key=starts.__getitem__)
        ends = [starts[order[0]]]
        for one in order:
            ends.append(ends[-1] + sizes[one])
        covers = len(members) > 1 and [starts[one] for one in order] == ends[:-1] and sum(sizes) == row
        if covers and step == B * row and all(tensors[n][0, 0].is_contiguous() for n in members):
            whole = memory.take((T, B, row), dtype)
            for one, n in enumerate(members):
                start = starts[one] - ends[0]
                found[n] = whole[..., start : start + sizes[one]].unflatten(-1, tensors[n].shape[2:])
        else:
            found.update((n, memory.take(tensors[n].shape, dtype)) for n in members)
    return [found[n] for n in range(len(tensors))]


def _fits(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether a linear map is large, and has plain CPU tensors of one dtype as arguments."""
    given = (inputs, weight) if bias is None else (inputs, weight, bias)
    if [tensor.dim() for tensor in given] != [3, 2, 1][: len(given)]:
        return False
    rows = inputs.shape[0] * inputs.shape[1]
    is_large = rows * len(weight) * weight.itemsize >= memory.SMALLEST
    if not is_large and gemm.pays(rows, weight.numel()) and weight.device.type == "cpu":
        is_large = gemm.own(weight.dtype, "sequence") is not None
    return is_large and all(
        type(t) in (Tensor, torch.nn.Parameter) and t.device.type == "cpu" and t.dtype == weight.dtype for t in given
    )


class _Linear(torch.autograd.Function):
    """``inputs [T, B, F] @ weight [G, F].t() + bias [G]``, in pooled memory."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        of_inputs, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(inputs if of_weight else None, weight if of_inputs else None)
        ctx.set_materialize_grads(False)
        return product(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, None, None) if gradient is None else gradients(*ctx.saved_tensors, gradient, ctx.needs_input_grad)


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``inputs [T, B, F] @ weight [G, F].t() + bias [G]``, in pooled memory; autograd does not record it."""
    outputs = memory.take((*inputs.shape[:2], len(weight)), inputs.dtype)
    mm(inputs.flatten(0, 1), weight.t(), outputs.flatten(0, 1), bias)
    return outputs


def gradients(
    inputs: Tensor | None, weight: Tensor | None, gradient: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Compute the gradients of `product`.

    Args:
        inputs: ``[T, B, F]``; None if the gradient of the weight is not wanted.
        weight: ``[G, F]``; None if the gradient of the inputs is not wanted.
        gradient: gradient of the result, ``[T, B, G]``.
        wanted: whether the gradients of inputs, weight and bias are wanted; the others are None.
    """
    is_observed = reference.is_observed_backward(gradient)  # products into given memory are not recorded
    rows, of_inputs, of_weight = gradient.reshape(gradient.shape[:2].numel(), gradient.shape[2]), None, None
    if wanted[0] and is_observed:
        of_inputs = (rows @ weight).view(*gradient.shape[:2], weight.shape[1])
    elif wanted[0]:
        of_inputs = memory.take((*gradient.shape[:2], weight.shape[1]), weight.dtype)
        mm(rows, weight, of_inputs.flatten(0, 1))
    if wanted[1] and wanted[2] and not is_observed:
        return of_inputs, *mm_and_sums(rows.t(), inputs.flatten(0, 1))
    if wanted[1]:
        columns = inputs.flatten(0, 1)
        of_weight = rows.t() @ columns if is_observed else mm(rows.t(), columns)
    return of_inputs, of_weight, rows.sum(0) if wanted[2] else None
