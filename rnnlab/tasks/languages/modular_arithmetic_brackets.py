"""Modular arithmetic with brackets. A deterministic context-free language."""

from __future__ import annotations

from operator import add, mul, sub

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language

PLUS, MINUS, TIMES, OPEN, CLOSE = 5, 6, 7, 8, 9
RESULTS = torch.tensor([f(a, b) % 5 for f in (add, sub, mul) for a in range(5) for b in range(5)])
"""The values of a + b, a - b and a * b modulo 5, in this order."""


class ModularArithmeticBrackets(Language):
    """Evaluate an expression with brackets modulo 5 (Delétang et al., 2023, "Modular Arithmetic").

        inputs   ( ( 2 * 4 ) - ( - 1 ) ) |        + = 5, - = 6, * = 7, ( = 8, ) = 9, the marker | = 10
        targets  - - - - - - - - - - - - 4        8 + 1 = 9; - is not scored

    As in the authors' code, an expression shorter than five symbols is d, -d, (d) or (-d); a longer one is
    (left+right), (left-right) or (left*right), with a uniformly random length of left. Chance is 1/5. Always predicting
    0 is correct for three tenths of the expressions, since a factor of 0 makes a product 0.
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

    The subexpressions of the whole batch are split level by level; then the digits and operators are drawn at once.
    """
    first = torch.arange(0, batch_size * length, length)
    last = first + length - 1
    firsts, lasts, compounds, places = [], [], [], []
    while len(first):
        firsts.append(first)
        lasts.append(last)
        compound = (last - first >= 4).nonzero().flatten()
        first, last = first[compound], last[compound]
        place = first + 2 + (torch.rand(first.shape, generator=generator) * (last - first - 3)).long()
        compounds.append(compound)
        places.append(place)
        first, last = torch.cat([first + 1, place + 1]), torch.cat([place - 1, last - 1])

    first, last, place = map(torch.cat, (firsts, lasts, places))
    word = torch.empty(batch_size * length, dtype=torch.int64)
    word[first], word[last] = OPEN, CLOSE  # overwritten below for d and -d
    digit = torch.randint(5, first.shape, generator=generator)
    simple = (last - first < 4).nonzero().flatten()
    before, after = first[simple], last[simple]
    word[(before + after) // 2] = MINUS  # overwritten by the digit if there is no minus
    word[(before + after + 1) // 2] = digit[simple]
    operator = torch.randint(operators, place.shape, generator=generator)
    word[place] = operator + PLUS

    negative = (last - first) % 2 == 1
    values = torch.where(negative, -digit % 5, digit).split([len(part) for part in firsts])
    rows = (25 * operator).split([len(compound) for compound in compounds])
    result = first[:0]
    for value, compound, row in reversed(list(zip(values, compounds, rows, strict=True))):
        a, b = result[: len(compound)], result[len(compound) :]
        result = value.scatter(0, compound, RESULTS[row + 5 * a + b])
    return word.view(batch_size, length).t().contiguous(), result


def _zeros(longest: int) -> Tensor:
    """The probability of the value 0 for expressions of every length up to ``longest``.

    The other values are equally probable.
    """
    zero = torch.full((longest + 1,), 0.2, dtype=torch.float64)
    for length in range(5, longest + 1):
        a = zero[1 : length - 3]
        b = a.flip(0)
        added = a * b + (1 - a) * (1 - b) / 4
        zero[length] = (2 * added + a + b - a * b).mean() / 3
    return zero
