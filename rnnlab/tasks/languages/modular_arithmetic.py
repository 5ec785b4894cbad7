"""Modular arithmetic without brackets. A regular language: the state is three numbers below five."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language

PLUS, MINUS, TIMES = 5, 6, 7


class ModularArithmetic(Language):
    """Evaluate an expression of digits and +, -, * modulo 5 (Delétang et al., 2023, "Modular Arithmetic (Simple)").

        inputs   2 + 3 * 4 - 1 |        + = 5, - = 6, * = 7, the marker | = 8
        targets  - - - - - - - 3        2 + 12 - 1 = 13; - is not scored

    Expressions have an odd number of symbols; an even length is reduced by 1, as in the authors' code. Chance is 1/5.
    In short expressions the value 0 is slightly more frequent, since a factor of 0 makes a product 0.
    """

    symbols = 8
    output_size = 5

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """Uniformly random digits and operators."""
        length -= length % 2 == 0
        word = torch.empty(length, self.batch_size, dtype=torch.int64)
        word[::2] = torch.randint(5, word[::2].shape, generator=generator)
        word[1::2] = torch.randint(PLUS, TIMES + 1, word[1::2].shape, generator=generator)
        total, term = torch.zeros_like(word[0]), word[0]  # the value before and after the last + or -
        for operator, digit in zip(word[1::2], word[2::2], strict=True):
            times = operator == TIMES
            total = torch.where(times, total, total + term)
            term = torch.where(times, term * digit % 5, torch.where(operator == PLUS, digit, -digit))
        return word, ((total + term) % 5).unsqueeze(0)
