"""Multi-query associative recall: key-value pairs, followed by a query for each key."""

from __future__ import annotations

from functools import partialmethod
from math import log
from typing import Any

import torch

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.tasks.base import Generated, Labelling, check_least


class MQAR(Generated, Labelling):
    """Recall the value of each queried key (Arora et al., 2023, arXiv:2312.04927).

    A sequence starts with key-value pairs, in which no key and no value occurs twice. The queries follow: each key
    occurs once more, at a random position among every second step. Positions are drawn without replacement; the n-th
    has the weight n ** (power - 1), so most queries are early. All other steps are blank. With a vocabulary of 8 and
    two pairs:

        inputs   a 3 c 0 . . c . a . . .        values 0 to 3, keys a, b, c = 4, 5, 6, blank . = 7
        targets  - - - - - - 0 - 3 - - -        - is not scored

    The paper uses a vocabulary of 8192, with 4 pairs in 64 steps, 8 in 128, 16 in 256 and 64 in 512. Its outputs are
    over all tokens; here the outputs are over values only. Chance is 2 / vocab.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps.
        vocab: number of tokens: half are values, one is the blank, the others are keys.
        pairs: number of pairs, and of queries, per sequence.
        power: distribution of the query positions; smaller values place queries earlier, 1 is uniform.
        random_filler: whether to replace each blank by a random token.
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
            raise InputError(f"task.vocab={vocab} must be even, and at least {2 * pairs + 2} for task.pairs={pairs}")
        if not 0 < power <= 1:
            raise InputError(f"task.power={power} must be above 0 and at most 1, for example 0.01")
        self.vocab, self.pairs, self.power, self.random_filler = vocab, pairs, power, random_filler
        self.input = Tokens(vocab)
        self.output_size = vocab // 2
        super().__init__(seed, data_root, **shared)

    __init__ = partialmethod(__init__, lengths=(64, 64), test_lengths=(64, 64), eval_batches=10)

    @property
    def shortest(self) -> int:
        """Two steps for each pair and two for each query."""
        return 4 * self.pairs

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Key-value pairs, then queries among blanks."""
        half, size, start = self.vocab // 2, self.batch_size, 2 * self.pairs
        # topk of random numbers is a sample without replacement, in random order
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
        """``chance``: a random value; ``value seen``: a random value of the same sequence."""
        seen = {"loss": log(self.pairs), "accuracy": 1 / self.pairs}
        return {**super().baselines(split), "value seen": seen}
