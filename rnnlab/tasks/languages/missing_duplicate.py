"""Missing duplicate: predict the hidden symbol of a word written twice. Context-sensitive."""

from __future__ import annotations

from functools import partialmethod

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language


class MissingDuplicate(Language):
    """Predict the hidden symbol of a word that is written twice (Delétang et al., 2023, arXiv:2207.02098, A.3).

        inputs   a b _ a b a |        a = 0, b = 1, the hidden symbol _ = 2, the marker | = 4
        targets  - - - - - - a        - is not scored

    A word of odd length ends with a padding symbol, 3. Chance is 1/2.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the length of both copies together, at least 2.
    """

    symbols = 4
    output_size = 2
    shortest = 2

    __init__ = partialmethod(Language.__init__, lengths=(2, 40))

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """All words and all positions of the hidden symbol are equally probable."""
        word = torch.randint(2, (length // 2, self.batch_size), generator=generator).repeat(2, 1)
        hidden = torch.randint(len(word), (1, self.batch_size), generator=generator)
        answer = word.gather(0, hidden)
        word.scatter_(0, hidden, 2)
        return torch.cat([word, torch.full((length % 2, self.batch_size), 3)]), answer
