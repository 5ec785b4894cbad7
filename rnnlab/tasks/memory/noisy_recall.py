"""Noisy recall: the values of keys seen earlier, in a sequence of key-value pairs and noise."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import torch

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.tasks._repeated import Repeated
from rnnlab.tasks.base import Labelling, check_least


class NoisyRecall(Repeated, Labelling):
    """Recall the value of a key seen earlier (noisy in-context recall of MAD, Poli et al., 2024, arXiv:2403.17844).

    A sequence consists of pairs: a key and its value, or two noise tokens. A key has the same value throughout a
    sequence. The last key has occurred before. With three keys, three values and three noise tokens:

        inputs   a 1 x y b 0 a 1 z x b        values 0, 1, 2, keys a, b, c = 3, 4, 5, noise x, y, z = 6, 7, 8
        targets  - - - - - - 1 - - - 0        - is not scored

    The defaults are those of the paper; ``task.noise=0 task.noise_vocab=0`` is its in-context recall without noise. The
    paper's code trains on every next token and scores only recall in the test; here, training and test score only
    recall, and the outputs are over values only. Chance is one over the number of values.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps.
        examples: see `Repeated`.
        vocab: number of keys and values, half of them each.
        noise_vocab: number of different noise tokens.
        noise: probability that a pair is noise; at least one pair of a sequence is not.
    """

    shortest = 3

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        vocab: int = 16,
        noise_vocab: int = 16,
        noise: float = 0.2,
        **shared: Any,
    ) -> None:
        super().__init__(seed, data_root, **shared)
        if vocab < 4 or vocab % 2:
            raise InputError(f"task.vocab={vocab} must be even and at least 4: half keys, half values")
        if not 0 <= noise < 1:
            raise InputError(f"task.noise={noise} must be at least 0 and below 1, for example 0.2")
        check_least(1 if noise else 0, noise_vocab=noise_vocab)
        self.vocab, self.noise_vocab, self.noise = vocab, noise_vocab, noise
        self.input = Tokens(vocab + noise_vocab)
        self.output_size = vocab // 2

    __init__ = partialmethod(__init__, lengths=(128, 128), test_lengths=(128, 128), batch_size=128, eval_batches=10)

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Keys at even steps, values at odd steps; the last key is uniform over the earlier keys."""
        half, size, pairs = self.vocab // 2, self.batch_size, (length + 1) // 2
        steps = torch.arange(pairs)[:, None]
        keys = torch.randint(half, (pairs - 1, size), generator=generator)
        values = torch.randint(half, (half, size), generator=generator)
        noisy = torch.rand(pairs - 1, size, generator=generator) < self.noise
        noisy.scatter_(0, torch.randint(pairs - 1, (1, size), generator=generator), False)

        first = torch.full((half + 1, size), pairs)  # first occurrence of each key; the last row collects the noise
        first.scatter_reduce_(0, keys.masked_fill(noisy, half), steps[:-1].expand_as(keys), "amin")
        scores = torch.rand(half, size, generator=generator).masked_fill(first[:-1] == pairs, -1)
        keys = torch.cat([keys, scores.argmax(0, keepdim=True)])
        noisy = torch.cat([noisy, torch.zeros(1, size, dtype=torch.bool)])
        answers = values.gather(0, keys)

        inputs = self.vocab + torch.randint(max(self.noise_vocab, 1), (pairs, 2, size), generator=generator)
        inputs = torch.where(noisy[:, None], inputs, torch.stack([half + keys, answers], 1))
        targets = torch.full_like(inputs, IGNORE)
        targets[:, 0] = answers.masked_fill(noisy | (first.gather(0, keys) == steps), IGNORE)
        return Batch(inputs.flatten(0, 1)[:length], targets.flatten(0, 1)[:length])
