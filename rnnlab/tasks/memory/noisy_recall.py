"""Noisy recall: keys come with values, again and again, among noise; what is the value of a key seen before?"""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import torch

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.tasks.base import Generated, Labelling, check_least


class NoisyRecall(Generated, Labelling):
    """Name the value of a key seen before (noisy in-context recall of MAD, Poli et al., 2024, arXiv:2403.17844).

    A sequence consists of pairs: a key and its value, the same wherever the key stands, or two noise tokens. The last
    key is one of those before. With an alphabet of three keys, three values and three noise tokens:

        inputs   a 1 x y b 0 a 1 z x b        values 0, 1, 2, keys a, b, c = 3, 4, 5, noise x, y, z = 6, 7, 8
        targets  - - - - - - 1 - - - 0        - is not scored

    The defaults are the paper's. Its code takes every next token as a target in training and scores recall alone in
    the test; here recall alone is scored in both, and outputs are values only. Chance is one over the number of values.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps.
        vocab: keys and values, half of the number each.
        noise_vocab: how many different noise tokens there are.
        noise: the probability of a pair to be noise; at least one in a sequence is not.
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
            raise InputError(f"task.vocab is {vocab}; it must be even, as many keys as values, and at least 4")
        check_least(1, noise_vocab=noise_vocab)
        if not 0 <= noise < 1:
            raise InputError(f"task.noise is {noise}; it must be a probability below 1, 0.2 say")
        self.vocab, self.noise_vocab, self.noise = vocab, noise_vocab, noise
        self.input = Tokens(vocab + noise_vocab)
        self.output_size = vocab // 2

    __init__ = partialmethod(__init__, lengths=(128, 128), test_lengths=(128, 128), batch_size=128, eval_batches=10)

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Keys at even steps, values at odd ones; the last key is equally probably any of those before."""
        half, size, pairs = self.vocab // 2, self.batch_size, (length + 1) // 2
        steps = torch.arange(pairs)[:, None]
        keys = torch.randint(half, (pairs - 1, size), generator=generator)
        values = torch.randint(half, (half, size), generator=generator)
        noisy = torch.rand(pairs - 1, size, generator=generator) < self.noise
        noisy.scatter_(0, torch.randint(pairs - 1, (1, size), generator=generator), False)

        first = torch.full((half + 1, size), pairs)  # where each key is first seen; the last row takes the noise
        first.scatter_reduce_(0, keys.masked_fill(noisy, half), steps[:-1].expand_as(keys), "amin")
        scores = torch.rand(half, size, generator=generator).masked_fill(first[:-1] == pairs, -1)
        keys = torch.cat([keys, scores.argmax(0, keepdim=True)])
        noisy = torch.cat([noisy, torch.zeros(1, size, dtype=torch.bool)])
        answers = values.gather(0, keys)

        inputs = self.vocab + torch.randint(self.noise_vocab, (pairs, 2, size), generator=generator)
        inputs = torch.where(noisy[:, None], inputs, torch.stack([half + keys, answers], 1))
        targets = torch.full_like(inputs, IGNORE)
        targets[:, 0] = answers.masked_fill(noisy | (first.gather(0, keys) == steps), IGNORE)
        return Batch(inputs.flatten(0, 1)[:length], targets.flatten(0, 1)[:length])
