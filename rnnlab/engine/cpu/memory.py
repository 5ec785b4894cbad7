"""A pool of large blocks of CPU memory, which are reused as soon as no tensor refers to them.

The C library returns large blocks to the system, and the system maps new memory page by page at its first use. For the
arrays of a sequence this takes up to a tenth of the time of all matrix products, in every training step. The pool keeps
blocks that are requested regularly. On Linux they consist of huge pages as far as possible: with pages of 4 KiB,
looking up their addresses takes another tenth of the time.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from math import prod
from typing import Any

import torch
from torch import Tensor

from rnnlab.trees import tensors_of

SMALLEST = 2**20
"""Smallest block in the pool, in bytes. The C library itself keeps smaller blocks."""
HUGE = 2**21
"""Size and alignment of a huge page, in bytes."""
PATIENCE = 256
"""Number of requests after which an unused block is freed; a training step of ten layers makes about sixty."""


@dataclass(slots=True, eq=False)
class _Block:
    storage: torch.UntypedStorage
    wanted: int  # the number of the last request that it served
    size: int
    start: int = 0  # where the memory begins in the storage, in bytes


_CPU = torch.device("cpu")

_BLOCKS: list[_Block] = []
_requests = count(1)


def take(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return an uninitialised contiguous tensor on the CPU, as ``torch.empty`` does."""
    size = prod(shape) * dtype.itemsize
    if size < SMALLEST or not size or not _counts():
        return torch.empty(shape, dtype=dtype, device=_CPU)
    block = _free_block(size)
    tensor = torch.empty(0, dtype=dtype, device="cpu").set_(block.storage, block.start // dtype.itemsize, shape)
    _BLOCKS.append(block)  # after `set_`, so that other threads see that the block is in use
    return tensor


def take_like(tensor: Tensor) -> Tensor:
    """Return an uninitialised tensor of the shape and dtype of a contiguous one; faster than `take` if it is small."""
    return torch.empty_like(tensor) if tensor.nbytes < SMALLEST else take(tensor.shape, tensor.dtype)


def converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``tensor.to(dtype)``, on a CPU in memory of the pool."""
    return _Converted.apply(tensor, dtype) if tensor.device.type == "cpu" else tensor.to(dtype)


class _Converted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = tensor.dtype
        return take(tensor.shape, dtype).copy_(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.to(ctx.dtype), None


def _free_block(size: int) -> _Block:
    """Return the smallest free block of at least ``size`` and less than twice as many bytes; otherwise a new block.

    The block is removed from `_BLOCKS`, so that only the caller has it. A lock is not used: a forked process or a
    signal handler could wait for it forever.
    """
    now, best, best_size = next(_requests), None, 2 * size
    for block in _BLOCKS[::-1]:  # among equal sizes the last used, so that unneeded blocks expire
        if block.wanted + PATIENCE < now:  # its memory is freed when the last tensor releases it
            _claim(block)
        elif size <= block.size < best_size and _is_free(block):
            if block.storage.is_shared():  # another process may still read it
                _claim(block)
            else:
                best, best_size = block, block.size
    if best is not None and _claim(best):
        if _is_free(best):
            best.wanted = now
            return best
        _BLOCKS.append(best)  # another thread has used it in the meantime
    return _new_block(size, now)


def _new_block(size: int, now: int) -> _Block:
    """Allocate a block that starts at a huge page. The memory before it is never used and therefore takes no pages."""
    advise = _advise()
    if size < HUGE or advise is None:
        return _Block(torch.UntypedStorage(size), now, size)
    storage = torch.UntypedStorage(size + HUGE)
    address = storage.data_ptr()
    start = -address % HUGE
    advise(address + start, size // HUGE * HUGE, mmap.MADV_HUGEPAGE)  # if it fails, the pages stay small
    return _Block(storage, now, size, start)


@cache
def _advise() -> Any:
    """Return the C function ``madvise``; None where there are no huge pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = getattr(ctypes.CDLL(None), "madvise", None)
    if function is not None:
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def _claim(block: _Block) -> bool:
    """Remove a block from `_BLOCKS`; return False if another thread was faster."""
    try:
        _BLOCKS.remove(block)
    except ValueError:
        return False
    return True


def _is_free(block: _Block) -> bool:
    """Whether neither a tensor nor a Python object refers to a block's storage."""
    return torch._C._storage_Use_Count(block.storage._cdata) == 1 and sys.getrefcount(block.storage) == 2


@cache
def _counts() -> bool:
    """Whether `_is_free` reads the reference counts of this version of torch correctly; if not, no block is reused."""
    block = _Block(torch.UntypedStorage(8), 0, 8)
    free = [_is_free(block)]
    tensor = torch.empty(0, dtype=torch.float32, device="cpu").set_(block.storage, 0, (2,))
    held, tensor = [_is_free(block)], tensor[1:].detach()
    held += [_is_free(block)]
    del tensor
    name = block.storage
    held += [_is_free(block)]
    del name
    free += [_is_free(block)]
    return all(free) and not any(held)


def owned(prepared: Any, alone: Any) -> list[bool]:
    """Return, for every tensor, whether nothing else refers to it or to its memory, so that it may be overwritten.

    Args:
        prepared: a nested tuple of tensors, bound to one name.
        alone: a tuple with the same nesting of tensors from `alone_like`, also bound to one name, whose reference
            counts are the expected ones.
    """
    (tuples, held), (own_tuples, expected) = _references(prepared), _references(alone)
    if tuples != own_tuples:
        return [False] * len(held)
    triples = zip(tensors_of(prepared), held, expected, strict=True)
    return [tensor.is_contiguous() and mine == wanted for tensor, mine, wanted in triples]


def alone_like(tensor: Tensor) -> Tensor:
    """Return a tensor without other references, a view if ``tensor`` is a view, for `owned`."""
    other = tensor.new_empty(1)
    return other.view(1) if tensor._is_view() else other  # results of linear are views


def _references(tree: Any) -> tuple[list[int], list[tuple[int, ...]]]:
    """Count the references to each tuple and each tensor of a tree: in Python, in torch, to its memory and its base."""
    if tree is None:
        return [], []
    if isinstance(tree, Tensor):
        memory = torch._C._storage_Use_Count(tree.untyped_storage()._cdata)
        counts = (sys.getrefcount(tree), tree._use_count(), memory)
        if tree._is_view():
            base = tree._base
            counts += (sys.getrefcount(base), base._use_count())
        return [], [counts]
    parts = [_references(part) for part in tree]
    tuples = [sys.getrefcount(tree) if tree else 0, *(count for part in parts for count in part[0])]
    return tuples, [count for part in parts for count in part[1]]
