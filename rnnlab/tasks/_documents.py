"""Streams of documents: each document ends with a separator, and the state is reset where the next one starts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from rnnlab.heads import IGNORE


class Packed(NamedTuple):
    """Parallel streams of whole documents, ``[T, B]`` each; after the end of a stream no position is scored.

    inputs: tokens.
    targets: the next tokens, and IGNORE at the last token of each document.
    fresh: whether a document starts.
    """

    inputs: Tensor
    targets: Tensor
    fresh: Tensor


def document_starts(text: str, separator: str) -> Tensor:
    """Return the places where documents start, int64 ``[documents]``; a separator belongs to the document before it."""
    lengths = [len(document) + len(separator) for document in text.split(separator)]
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    return starts[starts < len(text)]


def packed(tokens: Tensor, starts: Tensor, batch_size: int, multiple: int = 1) -> Packed | None:
    """Divide documents into contiguous streams of about equal length.

    Args:
        tokens: the tokens of all documents, int64 ``[N]``.
        starts: where documents start, ascending from 0.
        batch_size: number of streams, B.
        multiple: T is padded to a multiple of this number.

    Returns:
        the streams; None if there are fewer documents than streams, or no document has two tokens.
    """
    number = torch.arange(batch_size)
    places = torch.searchsorted(starts, number * len(tokens) / batch_size)
    places = (places - number).cummax(0).values + number  # a document or more for each stream
    places = torch.minimum(places, len(starts) - batch_size + number)
    if int(places[0]) < 0:
        return None
    sizes = torch.diff(starts[places], append=torch.tensor([len(tokens)]))
    is_start = torch.zeros(len(tokens), dtype=torch.bool)
    is_start[starts] = True
    targets = torch.where(is_start, IGNORE, tokens).roll(-1)
    targets[-1] = IGNORE
    if bool((targets == IGNORE).all()):
        return None
    pieces = sizes.tolist()
    targets = pad_sequence(targets.split(pieces), padding_value=IGNORE)
    steps = int((targets != IGNORE).any(1).nonzero().max()) + 1  # the last token of a stream predicts nothing
    inputs, fresh = (pad_sequence(part.split(pieces))[:steps] for part in (tokens, is_start))
    rest = (0, 0, 0, -steps % multiple)
    return Packed(pad(inputs, rest), pad(targets[:steps], rest, value=IGNORE), pad(fresh, rest))
