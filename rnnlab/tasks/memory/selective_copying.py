"""Selective copying: remember the symbols, wherever they stand, and nothing else."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import torch

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, Tokens
from rnnlab.tasks.base import Generated, Labelling, check_least


class SelectiveCopying(Generated, Labelling):
    """Write down the symbols that stood somewhere among noise, in their order (Gu and Dao, 2023, arXiv:2312.00752,
    sections 3.1 and 4.1.1; the denoising task of Jing et al., 2019, arXiv:1706.02761).

    Unlike in copying, the time that has passed does not tell what to write. Every set of places is as probable as any
    other. With an alphabet of three symbols, three of which are to be remembered:

        inputs   . b . a b . | | |        a, b, c = 0, 1, 2, noise . = 3, the marker | = 4
        targets  - - - - - - b a b        - is not scored

    The Mamba paper has 16 symbols in 4096 steps and 16 tokens in all, noise and marker among them:
    ``task.lengths=[4096,4096]``, the rest as by default. Chance is 1 / alphabet.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps before the first marker.
        alphabet: how many different symbols there are.
        memorize: how many symbols a sequence has.
    """

    def __init__(
        self, seed: int = 0, data_root: str = "data", *, alphabet: int = 14, memorize: int = 16, **shared: Any
    ) -> None:
        check_least(2, alphabet=alphabet)
        check_least(1, memorize=memorize)
        self.alphabet, self.memorize = alphabet, memorize
        self.input = Tokens(alphabet + 2)
        self.output_size = alphabet
        super().__init__(seed, data_root, **shared)

    __init__ = partialmethod(__init__, lengths=(64, 64), test_lengths=(64, 64), eval_batches=10)

    @property
    def shortest(self) -> int:
        """As many steps as symbols: no noise."""
        return self.memorize

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Symbols among noise, then markers."""
        symbols = torch.randint(self.alphabet, (self.memorize, self.batch_size), generator=generator)
        scores = torch.rand(self.batch_size, length, generator=generator)
        places = scores.topk(self.memorize, sorted=False).indices.sort().values.t()
        inputs = torch.full((length + self.memorize, self.batch_size), self.alphabet)
        inputs.scatter_(0, places, symbols)
        inputs[length:] = self.alphabet + 1
        targets = torch.full_like(inputs, IGNORE)
        targets[length:] = symbols
        return Batch(inputs, targets)
