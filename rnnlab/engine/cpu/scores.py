"""Scores of additive attention, compiled (``c/scores.c``): three to five times as fast as the operations of torch."""

from __future__ import annotations

import ctypes
from array import array
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rnnlab.engine import reference
from rnnlab.engine.cpu import compiler, threads
from rnnlab.engine.once import warn_once

SMALLEST = 2**14
"""Smallest number of terms T * S * A of all sequences for which the kernel is called, and of each further thread."""


def additive_scores(query: Tensor, keys: Tensor, v: Tensor) -> Tensor:
    """Compute ``v · tanh(query_t + keys_s)`` for all t and s (Bahdanau, Cho and Bengio, 2015, arXiv:1409.0473).

    Args:
        query: ``[B, T, A]``.
        keys: ``[B, S, A]``.
        v: ``[A]``.

    Returns:
        ``[B, T, S]``.
    """
    given = (query, keys, v)
    is_plain = reference.autocast_dtype(query.device) is None and all(
        type(t) in (Tensor, torch.nn.Parameter) and t.device.type == "cpu" and t.dtype == torch.float32 for t in given
    )
    if is_plain and query.numel() * keys.shape[1] >= SMALLEST and reference.observer(query) is None and _library():
        return _Scores.apply(*given)
    return _plain(*given)


def _plain(query: Tensor, keys: Tensor, v: Tensor) -> Tensor:
    return (query.unsqueeze(2) + keys.unsqueeze(1)).tanh() @ v


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, v: Tensor) -> Tensor:
        query, keys, v = query.contiguous(), keys.contiguous(), v.contiguous()
        ctx.save_for_backward(query, keys, v)
        scores = query.new_empty(*query.shape[:2], keys.shape[1])
        _run(query, keys, v, scores, None)
        return scores

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: the gradient must be differentiable too
            return torch.autograd.grad(_plain(*ctx.saved_tensors), ctx.saved_tensors, gradient, create_graph=True)
        query, keys, v = ctx.saved_tensors
        of_query, of_keys = torch.zeros_like(query), torch.zeros_like(keys)
        of_v = _run(query, keys, v, gradient.contiguous(), (of_query, of_keys))
        return of_query, of_keys, of_v


def _run(query: Tensor, keys: Tensor, v: Tensor, scores: Tensor, gradients: tuple[Tensor, Tensor] | None) -> Tensor:
    """Compute the scores, or with ``gradients`` add those of query and keys to them; returns the gradient of v."""
    (B, T, A), S = query.shape, keys.shape[1]
    shares = max(1, min(torch.get_num_threads(), B, B * T * S * A // SMALLEST))
    of_v = query.new_zeros(B, A)
    calls = []
    for part in range(shares):
        sizes = [B * part // shares, B * (part + 1) // shares, T, S, A]
        inputs = [query.data_ptr(), keys.data_ptr(), v.data_ptr()]
        if gradients is None:
            results = [0, scores.data_ptr(), 0, 0, 0]
        else:
            results = [scores.data_ptr(), 0, *(g.data_ptr() for g in gradients), of_v.data_ptr()]
        calls.append(array("q", [*sizes, *inputs, *results]))
    held = (query, keys, v, scores, gradients, of_v, calls)
    threads.run(_library().whole, [call.buffer_info()[0] for call in calls], held)
    return of_v.sum(0)


@cache
def _library() -> ctypes.CDLL | None:
    """Return the compiled kernel; None if there is no compiler."""
    try:
        library = compiler.load((compiler.SOURCES / "scores.c").read_text())
    except compiler.NoCompiler as error:
        warn_once(f"additive attention is slower than it could be, because its kernel cannot be compiled: {error}")
        return None
    library.whole.argtypes = [ctypes.c_void_p]
    library.whole.restype = None
    return library
