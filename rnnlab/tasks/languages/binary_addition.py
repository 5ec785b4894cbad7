"""Binary addition: the sum of two numbers, one after the other. Context-sensitive."""

from __future__ import annotations

from torch import Tensor

from rnnlab.tasks.languages._binary import Arithmetic


class BinaryAddition(Arithmetic):
    """Add two binary numbers, the lowest digit first (Delétang et al., 2023, arXiv:2207.02098, section A.3).

        inputs   1 1 + 1 | | | | |        3 + 1; the operator + = 2, the marker | = 3
        targets  - - - - 0 0 1 . 0        4, the end . = 2, then zeros that do not count; - is not scored

    The sum has no leading zeros. Chance is 1/3; always predicting the same digit is correct at about half of the steps.
    """

    spare = 1

    def columns(self, a: Tensor, b: Tensor) -> Tensor:  # noqa: D102
        return a + b
