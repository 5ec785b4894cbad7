"""Duplicate string: write a word twice. Context-sensitive; requires a memory that can be read more than once."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language


class DuplicateString(Language):
    """Write a word of a's and b's twice (Delétang et al., 2023, arXiv:2207.02098, section A.3).

        inputs   a b b | | | | | |        a = 0, b = 1, the marker | = 2
        targets  - - - a b b a b b        - is not scored

    Chance is 1/2.
    """

    symbols = 2
    output_size = 2

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """All words are equally probable."""
        word = torch.randint(2, (length, self.batch_size), generator=generator)
        return word, word.repeat(2, 1)
