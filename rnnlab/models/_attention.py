"""Attention of a decoder to the memory of an encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rnnlab import engine
from rnnlab.cells.base import check_choice
from rnnlab.interface import InputError
from rnnlab.layers import Linear

KINDS = ("additive", "dot", "general")


class Attention(nn.Module):
    """Weighted mean of a memory, with weights that depend on a query.

    The scores of a query h and a memory vector m are

        additive  v · tanh(W h + U m)  (Bahdanau, Cho and Bengio, 2015, arXiv:1409.0473)
        dot       h · m                (Luong, Pham and Manning, 2015, arXiv:1508.04025)
        general   h · W m              (the same)

    For ``dot`` with a memory of twice the width of the query, m is the sum of its two halves: the two directions of a
    bidirectional encoder.

    Args:
        kind: ``additive``, ``dot`` or ``general``.
        query_size: width of a query.
        memory_size: width of a memory vector.

    Raises:
        InputError: ``kind`` is unknown, or the widths do not fit for ``dot``.
    """

    def __init__(self, kind: str, query_size: int, memory_size: int) -> None:
        super().__init__()
        self.kind = check_choice("model.attention", kind, (*KINDS, "none"))
        self.query_size = query_size
        if kind == "dot":
            if memory_size not in (query_size, 2 * query_size):
                raise InputError(
                    f"model.attention=dot needs a memory as wide as the decoder, got {memory_size} and {query_size}; "
                    "use model.attention=general"
                )
            return
        self.project_memory = Linear(memory_size, query_size, bias=False)
        if kind == "additive":
            self.project_query = Linear(query_size, query_size)
            self.score = nn.Parameter(torch.empty(query_size).uniform_(-(query_size**-0.5), query_size**-0.5))

    def keys(self, memory: Tensor) -> Tensor:
        """What the scores read of a memory ``[B, S, M]``: ``[B, S, query_size]``."""
        if self.kind != "dot":
            return self.project_memory(memory)
        return memory.unflatten(-1, (-1, self.query_size)).sum(-2)

    def forward(self, queries: Tensor, memory: Tensor, keys: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Attend with all queries at once.

        Args:
            queries: ``[T, B, query_size]``.
            memory: ``[B, S, M]``.
            keys: the memory's `keys`, ``[B, S, query_size]``.
            present: bool ``[B, S]``, False for padding.

        Returns:
            the context ``[T, B, M]`` and the weights ``[T, B, S]``; the weights of padding are zero.
        """
        by_sequence = queries.transpose(0, 1)
        if self.kind == "additive":
            query = self.project_query(queries).transpose(0, 1)
            scores = engine.additive_scores(query, keys, self.score)
        else:
            scores = torch.bmm(by_sequence, keys.transpose(1, 2))
        weights = scores.masked_fill(~present.unsqueeze(1), -torch.inf).softmax(-1)
        return torch.bmm(weights, memory).transpose(0, 1), weights.transpose(0, 1)
