"""Even pairs: whether the number of ab and ba is even. A regular language; depends on the first and last letter."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language


class EvenPairs(Language):
    """Predict 0 if the number of ab and ba in a word is even, else 1 (Delétang et al., 2023, "Even Pairs").

        inputs   a b b a b |        a = 0, b = 1, the marker | = 2
        targets  - - - - - 1        ab, ba and ab are three; - is not scored

    The number is even if and only if the first and the last letter are the same. Chance is 1/2.
    """

    symbols = 2
    output_size = 2

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """All words are equally probable."""
        word = torch.randint(2, (length, self.batch_size), generator=generator)
        return word, (word[:1] != word[-1:]).long()
