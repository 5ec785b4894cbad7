"""Selective copying: repeat the symbols that are scattered among noise."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import torch

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, Tokens
from rnnlab.tasks._repeated import Repeated
from rnnlab.tasks.base import Labelling, check_least


class SelectiveCopying(Repeated, Labelling):
    """Repeat, in order, the symbols that are scattered among noise (Gu and Dao, 2023, arXiv:2312.00752, sections 3.1
    and 4.1.1; the denoising task of Jing et al., 2019, arXiv:1706.02761).

    Unlike in the copying problem, the positions of the symbols are random, so a fixed delay does not solve the task.
    All sets of positions are equally probable. With an alphabet of three symbols and three symbols per sequence:

        inputs   . b . a b . | | |        a, b, c = 0, 1, 2, noise . = 3, the marker | = 4
        targets  - - - - - - b a b        - is not scored

    The Mamba paper uses 16 symbols in 4096 steps and a total of 16 tokens, including noise and marker:
    ``task.lengths=[4096,4096]`` with the other options at their defaults. MAD (Poli et al., 2024, arXiv:2403.17844) has
    16 symbols in 239 steps; its code has a single marker, followed by noise, and puts no noise after the last symbol.
    Chance is 1 / alphabet.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps before the first marker.
        examples: see `Repeated`.
        alphabet: number of different symbols.
        memorize: number of symbols per sequence.
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
        """The number of symbols, which leaves no steps for noise."""
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
