"""Repeated n-grams of a text: the characters that a model can predict by recalling its context."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rnnlab.interface import Batch


@dataclass(frozen=True)
class MarkedBatch(Batch):
    """A batch of a text with a mask of the targets that end a repeated n-gram.

    repeated: bool ``[T, B]``, see `repeated`.
    """

    repeated: Tensor | None = None


def repeated(streams: Tensor, training: Tensor, length: int, most: int) -> Tensor:
    """Whether each character ends an n-gram that occurred earlier in its stream and is rare in the training text.

    Args:
        streams: tokens, int64 ``[T, B]``, at least 0; each column is a text.
        training: tokens of the training text in the same form, ``[S, B']``.
        length: number of characters of an n-gram, at least 1.
        most: largest number of occurrences of a rare n-gram in the training text.

    Returns:
        bool ``[T, B]``; the first ``length`` characters of a stream never end a repeated n-gram.
    """
    found = torch.zeros_like(streams, dtype=torch.bool)
    if len(streams) < length:
        return found
    ids = _ids(torch.cat([training.t().flatten(), streams.t().flatten()]), length)
    of_training, of_streams = ids.split([training.numel(), streams.numel()])
    counts = torch.bincount(_inside(of_training, training, length).flatten(), minlength=int(ids.max()) + 1)
    own = _inside(of_streams, streams, length)
    ordered, order = own.sort(dim=0, stable=True)
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[1:] = ordered[1:] == ordered[:-1]
    found[length - 1 :] = torch.zeros_like(again).scatter_(0, order, again) & (counts[own] <= most)
    return found


def _ids(tokens: Tensor, length: int) -> Tensor:
    """The n-gram that starts at each token, as an integer that is equal for equal n-grams; int64 ``[N]``.

    N-grams that would end after the last token are padded with its first token.
    """
    if length == 1:
        return tokens
    half = length // 2
    left, right = _ids(tokens, half), _ids(tokens, length - half)
    pairs = left * (int(right.max()) + 1) + torch.cat([right[half:], right[:half]])
    return pairs.unique(return_inverse=True)[1]


def _inside(ids: Tensor, streams: Tensor, length: int) -> Tensor:
    """The n-grams that lie within a stream, ``[T - length + 1, B]``."""
    return ids.view(streams.shape[1], -1).t()[: len(streams) - length + 1]
