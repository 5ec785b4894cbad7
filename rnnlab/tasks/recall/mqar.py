"""Multi-query associative recall: pairs of keys and values first, then every key again; what was its value?"""

from __future__ import annotations

from functools import partialmethod
from math import log
from typing import Any

import torch

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.tasks.base import Generated, Labelling, check_least


class MQAR(Generated, Labelling):
    """Name the value of every key that comes again (Arora et al., 2023, arXiv:2312.04927).

    First come the pairs, no key and no value twice. Of every two steps after them the first may be a query: a key,
    each once, the n-th of these places with a weight of n ** (power - 1), drawn without replacement: most queries come
    soon. All else is blank. With a vocabulary of 8 and two pairs:

        inputs   a 3 c 0 . . c . a . . .        values 0 to 3, keys a, b, c = 4, 5, 6, blank . = 7
        targets  - - - - - - 0 - 3 - - -        - is not scored

    The paper has a vocabulary of 8192, 4 pairs in 64 steps, 8 in 128, 16 in 256 and 64 in 512. There outputs are all
    tokens; here values only. Chance is 2 / vocab.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps.
        vocab: how many tokens there are: half of them values, one the blank, the others keys.
        pairs: how many pairs, and queries, a sequence has.
        power: the smaller, the sooner queries come; 1 makes all places equally probable.
        random_filler: any token instead of each blank.
    """

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        vocab: int = 512,
        pairs: int = 4,
        power: float = 0.01,
        random_filler: bool = False,
        **shared: Any,
    ) -> None:
        check_least(1, pairs=pairs)
        if vocab % 2 or vocab // 2 - 1 < pairs:
            raise InputError(f"task.vocab is {vocab}; it must be even, and {2 * pairs + 2} or more for {pairs} pairs")
        if not 0 < power <= 1:
            raise InputError(f"task.power is {power}; it must be above 0, 0.01 say, up to 1, equally probable places")
        self.vocab, self.pairs, self.power, self.random_filler = vocab, pairs, power, random_filler
        self.input = Tokens(vocab)
        self.output_size = vocab // 2
        super().__init__(seed, data_root, **shared)

    __init__ = partialmethod(__init__, lengths=(64, 64), test_lengths=(64, 64), eval_batches=10)

    @property
    def shortest(self) -> int:
        """Two steps for every pair and two for every query."""
        return 4 * self.pairs

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Pairs, then queries among blanks."""
        half, size, start = self.vocab // 2, self.batch_size, 2 * self.pairs
        # the largest of random numbers: a sample without replacement, in random order
        keys = half + torch.rand(size, half - 1, generator=generator).topk(self.pairs).indices.t()
        values = torch.rand(size, half, generator=generator).topk(self.pairs).indices.t()
        weights = torch.arange(1, (length - start) // 2 + 1, dtype=torch.float64) ** (self.power - 1)
        places = start + 2 * torch.multinomial(weights.expand(size, -1), self.pairs, generator=generator).t()

        inputs = torch.full((length, size), self.vocab - 1)
        if self.random_filler:
            inputs.random_(self.vocab, generator=generator)
        inputs[:start:2], inputs[1:start:2] = keys, values
        inputs.scatter_(0, places, keys)
        targets = torch.full_like(inputs, IGNORE).scatter_(0, places, values)
        return Batch(inputs, targets)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, any value; ``value seen``, any of the sequence's own."""
        seen = {"loss": log(self.pairs), "accuracy": 1 / self.pairs}
        return {**super().baselines(split), "value seen": seen}
