"""Parity: is the number of b's even? A regular language that needs a state which flips."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language


class Parity(Language):
    """Say 1 if the number of b's in a word of a's and b's is odd, else 0 (Delétang et al., 2023, "Parity Check").

        inputs   a b b a b |        a = 0, b = 1, the marker | = 2
        targets  - - - - - 1        - is not scored

    A guess is right half of the time. A linear recurrence with positive eigenvalues can do no more (arXiv:2411.12537).
    """

    symbols = 2
    output_size = 2

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """Any word is as probable as any other."""
        word = torch.randint(2, (length, self.batch_size), generator=generator)
        return word, word.sum(0, keepdim=True) % 2
