"""Modular arithmetic with brackets. A deterministic context-free language."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language

PLUS, MINUS, TIMES, OPEN, CLOSE = 5, 6, 7, 8, 9


class ModularArithmeticBrackets(Language):
    """Say what an expression with brackets is modulo 5 (Delétang et al., 2023, "Modular Arithmetic").

        inputs   ( ( 2 * 4 ) - ( - 1 ) ) |        + = 5, - = 6, * = 7, ( = 8, ) = 9, the marker | = 10
        targets  - - - - - - - - - - - - 4        8 + 1 = 9; - is not scored

    As in the authors' code, an expression is d, -d, (d) or (-d) if it is shorter than five symbols, else (left+right),
    (left-right) or (left*right), where each length of left is as probable as any other. A guess is right in a
    fifth of the cases, who always says 0 in three tenths, as zeros make products zero.
    """

    symbols = 10
    output_size = 5

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """See `expressions`."""
        word, value = expressions(generator, length, self.batch_size, operators=3)
        return word, value.unsqueeze(0)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, and ``always 0``."""
        lengths = self.ranges[split]
        zero = _zeros(max(lengths))
        return {**super().baselines(split), "always 0": {"accuracy": float(zero[list(lengths)].mean())}}


def expressions(generator: torch.Generator, length: int, batch_size: int, operators: int) -> tuple[Tensor, Tensor]:
    """Random expressions with the first ``operators`` of +, -, *: symbols ``[length, B]`` and values modulo 5 ``[B]``.

    All parts of one depth, of all the batch, are made at once.
    """
    word = torch.empty(batch_size * length, dtype=torch.int64)
    start = torch.arange(0, batch_size * length, length)
    size = torch.full_like(start, length)
    levels = []
    while len(start):
        word[start], word[start + size - 1] = OPEN, CLOSE  # in d and -d other symbols come over them
        simple = (size < 5).nonzero().flatten()
        at, width = start[simple], size[simple]
        digit = torch.randint(5, at.shape, generator=generator)
        word[at + (width - 1) // 2] = MINUS  # and the digit over that if there is no minus
        word[at + width // 2] = digit
        value = torch.empty_like(start).scatter_(0, simple, torch.where(width % 2 == 0, -digit, digit))
        compound = (size >= 5).nonzero().flatten()
        start, size = start[compound], size[compound]
        left = (torch.rand(start.shape, generator=generator) * (size - 4)).long() + 1
        operator = torch.randint(operators, start.shape, generator=generator) + PLUS
        word[start + left + 1] = operator
        levels.append((value, compound, operator))
        start, size = torch.cat([start + 1, start + left + 2]), torch.cat([left, size - left - 3])
    parts = start
    for value, compound, operator in reversed(levels):
        a, b = parts[: len(compound)], parts[len(compound) :]
        result = torch.where(operator == PLUS, a + b, torch.where(operator == MINUS, a - b, a * b))
        parts = value.scatter_(0, compound, result % 5)
    return word.view(batch_size, length).t().contiguous(), parts % 5


def _zeros(longest: int) -> Tensor:
    """The probability of the value 0 for expressions of every length up to ``longest``.

    The other values are as probable as each other.
    """
    zero = torch.full((longest + 1,), 0.2, dtype=torch.float64)
    for length in range(5, longest + 1):
        a = zero[1 : length - 3]
        b = a.flip(0)
        added = a * b + (1 - a) * (1 - b) / 4
        zero[length] = (2 * added + a + b - a * b).mean() / 3
    return zero
