"""Solve equation: the unknown digit of an equation in modular arithmetic. A deterministic context-free language."""

from __future__ import annotations

from functools import partialmethod

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language
from rnnlab.tasks.languages.modular_arithmetic_brackets import expressions

UNKNOWN, EQUALS = 10, 11


class SolveEquation(Language):
    """Predict the digit x of an equation modulo 5 (Delétang et al., 2023, "Solve Equation").

        inputs   ( ( x + 4 ) - 1 ) = 0 |        x = 10, = is 11, the marker | = 12, others as with brackets
        targets  - - - - - - - - - - - 2        - is not scored

    The expressions are those of `ModularArithmeticBrackets`, but without products, as in the authors' code, so that
    the solution is unique. The unknown x is the first digit at or after a random position, with wrap-around. Chance is
    1/5.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the length of the equation.
    """

    symbols = 12
    output_size = 5
    shortest = 3

    __init__ = partialmethod(Language.__init__, lengths=(3, 40))

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """See `expressions`."""
        expression, value = expressions(generator, length - 2, self.batch_size, operators=2)
        drawn = torch.randint(length - 2, (self.batch_size,), generator=generator)
        distance = (torch.arange(length - 2).unsqueeze(1) - drawn) % (length - 2)
        place = distance.masked_fill(expression >= 5, length).argmin(0, keepdim=True)
        answer = expression.gather(0, place)
        equals = torch.full((1, self.batch_size), EQUALS)
        return torch.cat([expression.scatter(0, place, UNKNOWN), equals, value.unsqueeze(0)]), answer
