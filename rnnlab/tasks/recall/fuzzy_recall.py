"""Fuzzy recall: the values of keys seen earlier, where keys and values have several tokens."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import torch
from torch import Tensor

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.tasks._repeated import Repeated
from rnnlab.tasks.base import Labelling, check_least


class FuzzyRecall(Repeated, Labelling):
    """Recall values of several tokens (fuzzy in-context recall of MAD, Poli et al., 2024, arXiv:2403.17844).

    A sequence consists of pairs of a key and a value. A key has 1 to ``key_size`` different tokens, a value 1 to
    ``value_size``; all sizes are equally probable. A key has the same value throughout a sequence. The last key has
    occurred before. All tokens of a repeated key's value are scored, and the last token of the sequence is a target
    only. Blanks before the first pair fill the sequence. With three key tokens, four value tokens, and sizes up to 2:

        inputs   . . b a 1 c 0 2 b a 1 c 0        values 0 to 3, keys a, b, c = 4, 5, 6, blank . = 7
        targets  - - - - - - - - - 1 - 0 2        - is not scored

    In validation and test, all keys have ``key_size`` tokens, as in the paper's code. The defaults are those of the
    paper. Differences: the paper's code trains on every next token and scores only recall in the test, with outputs
    over all tokens; here, training and test score only recall, with outputs over value tokens. The code draws the last
    key first and inserts it at a random position; here, it is the key of a random earlier pair. Chance is one over the
    number of value tokens.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps.
        examples: see `Repeated`.
        vocab: number of tokens: one is the blank, and of the others one half, rounded down, are keys.
        key_size: largest number of tokens of a key.
        value_size: largest number of tokens of a value.
    """

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        vocab: int = 16,
        key_size: int = 3,
        value_size: int = 3,
        **shared: Any,
    ) -> None:
        check_least(1, key_size=key_size, value_size=value_size)
        self.keys = (vocab - 1) // 2
        self.output_size = vocab - 1 - self.keys
        least = max(2 * key_size + 1, 2 * value_size, 4)
        if vocab < least:
            raise InputError(
                f"task.vocab={vocab} must be at least {least} for task.key_size={key_size} and "
                f"task.value_size={value_size}"
            )
        self.vocab, self.key_size, self.value_size = vocab, key_size, value_size
        self.input = Tokens(vocab)
        super().__init__(seed, data_root, **shared)

    __init__ = partialmethod(__init__, lengths=(128, 128), test_lengths=(128, 128), batch_size=128, eval_batches=10)

    @property
    def shortest(self) -> int:
        """Two pairs of the largest size, without the last token."""
        return 2 * (self.key_size + self.value_size) - 1

    def batch(self, split: str, step: int) -> Batch:
        """Batch number ``step``; all keys have the largest size in validation and test."""
        if split == "train":
            return super().batch(split, step)
        generator = self.generator(split, step)
        return self.draw(generator, self._length(split, step, generator), self.key_size)

    def draw(self, generator: torch.Generator, length: int, least: int = 1) -> Batch:
        """Pairs up to the end of the sequence; keys have at least ``least`` tokens."""
        size, room = self.batch_size, length + 1 - self.key_size - self.value_size
        pairs = room // (least + 1)
        key_sizes = torch.randint(least, self.key_size + 1, (pairs, size), generator=generator)
        value_sizes = torch.randint(1, self.value_size + 1, (pairs, size), generator=generator)
        # topk of random numbers is a sample without replacement, in random order
        keys = torch.rand(pairs, size, self.keys, generator=generator).topk(self.key_size).indices
        values = torch.rand(pairs, size, self.output_size, generator=generator).topk(self.value_size).indices

        first, before = _occurrences(keys, key_sizes, self.keys)
        values = values.gather(0, first[:, :, None].expand_as(values))
        value_sizes = value_sizes.gather(0, first)
        # The last pairs that leave room for one more, which repeats one of them
        kept = _from_here_on(key_sizes + value_sizes) <= room
        count = kept.sum(0)
        chosen = pairs - 1 - (torch.rand(size, generator=generator) * count).long()[None]
        seen = torch.cat([before >= pairs - count, torch.ones(1, size, dtype=torch.bool)])
        kept = torch.cat([kept, seen[-1:]])
        key_sizes, value_sizes = (torch.cat([s, s.gather(0, chosen)]) for s in (key_sizes, value_sizes))
        keys, values = (torch.cat([t, t.gather(0, chosen[:, :, None].expand_as(t[:1]))]) for t in (keys, values))

        starts = length + 1 - _from_here_on(key_sizes + value_sizes)
        inputs = torch.full((length + 2, size), self.vocab - 1)  # the last row collects what is not in the sequence
        targets = torch.full_like(inputs, IGNORE)
        for place in range(self.key_size):
            steps = torch.where(kept & (place < key_sizes), starts + place, length + 1)
            inputs.scatter_(0, steps, self.output_size + keys[:, :, place])
        for place in range(self.value_size):
            steps = torch.where(kept & (place < value_sizes), starts + key_sizes + place, length + 1)
            inputs.scatter_(0, steps, values[:, :, place])
            targets.scatter_(0, torch.where(seen, steps - 1, length + 1), values[:, :, place])
        return Batch(inputs[:length], targets[:length])


def _from_here_on(sizes: Tensor) -> Tensor:
    """The number of tokens from each pair to the end: sums over the pair and all later ones."""
    return sizes.flip(0).cumsum(0).flip(0)


def _occurrences(keys: Tensor, sizes: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """The first pair with the same key, and the previous one, or -1; both int64 ``[P, B]``.

    Args:
        keys: tokens of the keys, ``[P, B, K]``.
        sizes: number of tokens of each key, ``[P, B]``.
        tokens: number of different tokens.
    """
    places = torch.arange(keys.shape[2])
    digits = (keys + 1).masked_fill(places >= sizes[:, :, None], 0)  # 0: no token
    ordered, order = (digits * (tokens + 1) ** places).sum(2).sort(dim=0, stable=True)
    same = torch.zeros_like(ordered, dtype=torch.bool)
    same[1:] = ordered[1:] == ordered[:-1]
    pairs = torch.arange(len(keys))[:, None].expand_as(order)
    first = order.gather(0, pairs.masked_fill(same, 0).cummax(0).values)
    before = torch.where(same, order.roll(1, 0), -1)
    first, before = (torch.empty_like(order).scatter_(0, order, found) for found in (first, before))
    return first, before
