"""Missing duplicate: a word stands there twice, which symbol is hidden? Context-sensitive."""

from __future__ import annotations

from functools import partialmethod

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language


class MissingDuplicate(Language):
    """Name the one symbol that is hidden in a word written twice (Delétang et al., 2023, arXiv:2207.02098, A.3).

        inputs   a b _ a b a |        a = 0, b = 1, the hidden symbol _ = 2, the marker | = 4
        targets  - - - - - - a        - is not scored

    An odd length ends with a symbol that means nothing, 3. A guess is right half of the time.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            that of both copies together, at least 2.
    """

    symbols = 4
    output_size = 2
    shortest = 2

    __init__ = partialmethod(Language.__init__, lengths=(2, 40))

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """Any word is as probable as any other, and so is any place to hide."""
        word = torch.randint(2, (length // 2, self.batch_size), generator=generator).repeat(2, 1)
        hidden = torch.randint(len(word), (1, self.batch_size), generator=generator)
        answer = word.gather(0, hidden)
        word.scatter_(0, hidden, 2)
        return torch.cat([word, torch.full((length % 2, self.batch_size), 3)]), answer
