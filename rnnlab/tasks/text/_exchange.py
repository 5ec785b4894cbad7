"""Exchanges of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Exchange(NamedTuple):
    """A conversation so far, and the reply to its last utterance.

    history: all utterances before the reply.
    reply: the reply.
    recalls: whether the reply repeats something that was said before the last utterance.
    is_fixed: whether the exchange has no variable part, so that it can be learned only by heart.
    """

    history: tuple[str, ...]
    reply: str
    recalls: bool = False
    is_fixed: bool = False


def exchanges(utterances: Sequence[str]) -> list[Exchange]:
    """The exchanges of a conversation in which each utterance replies to the previous one."""
    return [Exchange(tuple(utterances[:place]), utterances[place]) for place in range(1, len(utterances))]
