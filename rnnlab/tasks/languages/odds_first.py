"""Odds first: write the symbols at odd positions, then the symbols at even positions. Context-sensitive."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language


class OddsFirst(Language):
    """Write the first, third, fifth ... symbol of a word, then the others (Delétang et al., 2023, arXiv:2207.02098).

        inputs   a b b a a | | | | |        a = 0, b = 1, the marker | = 2
        targets  - - - - - a b a b a        - is not scored

    Chance is 1/2. The answer starts with the first symbol, as in the paper (section A.3); the authors' code starts with
    the second.
    """

    symbols = 2
    output_size = 2

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """All words are equally probable."""
        word = torch.randint(2, (length, self.batch_size), generator=generator)
        return word, torch.cat([word[::2], word[1::2]])
