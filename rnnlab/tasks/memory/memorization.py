"""Memorization: the values of keys by a mapping that is the same in all sequences."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import torch

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.tasks._repeated import Repeated
from rnnlab.tasks.base import Labelling


class Memorization(Repeated, Labelling):
    """Learn a fixed mapping from keys to values (memorization task of MAD, Poli et al., 2024, arXiv:2403.17844).

    Each random key is followed by a marker, at which the key's value is due. The values are never inputs, so a model
    must store the mapping in its weights. Different keys have different values. With a vocabulary of 8, where the
    values of the keys a, b, c are 3, 1 and 0:

        inputs   b | a | b | c |        a, b, c = 0, 1, 2, the marker | = 3
        targets  - 1 - 3 - 1 - 0        - is not scored

    The defaults are those of the paper, which trains on 256 sequences: ``task.examples=256``. The mapping is the same
    for all seeds and splits. The inputs and outputs of the paper's code are over all tokens; here, the inputs are keys
    and the marker, and the outputs are over values only. Chance is one over the number of values.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps.
        examples: see `Repeated`.
        vocab: number of tokens: one is the marker, and of the others one half, rounded down, are keys.
    """

    shortest = 2

    def __init__(self, seed: int = 0, data_root: str = "data", *, vocab: int = 256, **shared: Any) -> None:
        super().__init__(seed, data_root, **shared)
        if vocab < 5:
            raise InputError(f"task.vocab={vocab} must be at least 5: the marker, two keys and two values")
        self.keys = (vocab - 1) // 2
        self.input = Tokens(self.keys + 1)
        self.output_size = vocab - 1 - self.keys
        self.mapping = torch.randperm(self.output_size, generator=self.generator("mapping", 0))[: self.keys]

    __init__ = partialmethod(__init__, lengths=(32, 32), test_lengths=(32, 32), batch_size=128, eval_batches=10)

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Keys at even steps, markers at odd steps."""
        keys = torch.randint(self.keys, ((length + 1) // 2, self.batch_size), generator=generator)
        inputs = torch.stack([keys, torch.full_like(keys, self.keys)], 1)
        targets = torch.stack([torch.full_like(keys, IGNORE), self.mapping[keys]], 1)
        return Batch(inputs.flatten(0, 1)[:length], targets.flatten(0, 1)[:length])
