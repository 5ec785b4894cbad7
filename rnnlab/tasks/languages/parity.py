"""Parity: whether the number of b's is odd. A regular language; requires a state that flips."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language


class Parity(Language):
    """Predict 1 if the number of b's in a word of a's and b's is odd, else 0 (Delétang et al., 2023, "Parity Check").

        inputs   a b b a b |        a = 0, b = 1, the marker | = 2
        targets  - - - - - 1        - is not scored

    Chance is 1/2. A linear recurrence with only positive eigenvalues cannot do better (arXiv:2411.12537).
    """

    symbols = 2
    output_size = 2

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """All words are equally probable."""
        word = torch.randint(2, (length, self.batch_size), generator=generator)
        return word, word.sum(0, keepdim=True) % 2
