"""Reverse string: write a word backwards. A deterministic context-free language; a stack is sufficient."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language


class ReverseString(Language):
    """Write a word backwards (Delétang et al., 2023, "Reverse String").

        inputs   a b b | | |        a = 0, b = 1, the marker | = 2
        targets  - - - b b a        - is not scored

    Chance is 1/2.
    """

    symbols = 2
    output_size = 2

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """All words are equally probable."""
        word = torch.randint(2, (length, self.batch_size), generator=generator)
        return word, word.flip(0)
