"""Induction heads: recall the token that followed the first special token."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import torch

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.tasks.base import Generated, Labelling


class InductionHeads(Generated, Labelling):
    """Predict the token that followed the first special token (Olsson et al., 2022, arXiv:2209.11895; as in Gu and Dao,
    2023, arXiv:2312.00752, section 4.1.2, and Dao, Fu, Saab et al., 2023, arXiv:2212.14052, section 3.1).

    The first special token is at a random position, the second at the end of the sequence, where the target is due.
    All other tokens are random. With a vocabulary of 4:

        inputs   b a * c b a b *        a, b, c = 0, 1, 2, the special token * = 3
        targets  - - - - - - - c        - is not scored

    As in the Mamba paper, training uses 256 steps and a vocabulary of 16, and the test set has other lengths too (in
    the paper 64 to 1048576). Chance is 1 / (vocab - 1).

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps.
        vocab: number of tokens, including the special one.
    """

    shortest = 3

    def __init__(self, seed: int = 0, data_root: str = "data", *, vocab: int = 16, **shared: Any) -> None:
        super().__init__(seed, data_root, **shared)
        if vocab < 3:
            raise InputError(f"task.vocab={vocab} must be at least 3: the special token and two others")
        self.vocab = vocab
        self.input = Tokens(vocab)
        self.output_size = vocab - 1

    __init__ = partialmethod(__init__, lengths=(256, 256), test_lengths=(64, 1024, 192), batch_size=32, eval_batches=5)

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Random tokens and the two special tokens, with at least one token between them."""
        inputs = torch.randint(self.vocab - 1, (length, self.batch_size), generator=generator)
        place = torch.randint(length - 2, (1, self.batch_size), generator=generator)
        targets = torch.full_like(inputs, IGNORE)
        targets[-1:] = inputs.gather(0, place + 1)
        inputs.scatter_(0, place, self.vocab - 1)
        inputs[-1] = self.vocab - 1
        return Batch(inputs, targets)
