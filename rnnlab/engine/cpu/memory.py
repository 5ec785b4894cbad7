"""A pool of large blocks of CPU memory, which are reused as soon as no tensor refers to them.

The C library returns large blocks to the system, and the system maps new memory page by page at its first use. For the
arrays of a sequence this takes up to a tenth of the time of all matrix products, in every training step. The pool keeps
blocks that are requested regularly.
"""

from __future__ import annotations

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
PATIENCE = 256
"""Number of requests after which an unused block is freed; a training step of ten layers makes about sixty."""


@dataclass(slots=True, eq=False)
class _Block:
    storage: torch.UntypedStorage
    wanted: int  # the number of the last request that it served


_BLOCKS: list[_Block] = []
_requests = count(1)


def take(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return an uninitialised contiguous tensor on the CPU, as ``torch.empty`` does."""
    size = prod(shape) * dtype.itemsize
    if size < SMALLEST or not size or not _counts():
        return torch.empty(shape, dtype=dtype, device="cpu")
    block = _free_block(size)
    tensor = torch.empty(0, dtype=dtype, device="cpu").set_(block.storage, 0, shape)
    _BLOCKS.append(block)  # after `set_`, so that other threads see that the block is in use
    return tensor


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
        elif _is_free(block):
            there = block.storage.nbytes()
            if block.storage.is_shared():  # another process may still read it
                _claim(block)
            elif size <= there < best_size:
                best, best_size = block, there
    if best is not None and _claim(best):
        if _is_free(best):
            best.wanted = now
            return best
        _BLOCKS.append(best)  # another thread has used it in the meantime
    return _Block(torch.UntypedStorage(size), now)


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
    block = _Block(torch.UntypedStorage(8), 0)
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
