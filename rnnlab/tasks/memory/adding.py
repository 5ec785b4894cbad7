"""The adding problem: the sum of two marked numbers in a sequence."""

from __future__ import annotations

from functools import partialmethod

import torch

from rnnlab.interface import Batch, Vectors
from rnnlab.tasks.base import Generated, Regression


class Adding(Generated, Regression):
    """Add two marked numbers (Hochreiter and Schmidhuber, 1997, experiment 4; in the variant of Le et al., 2015).

    Each step has a number, uniform in [0, 1], and a mark of 0 or 1. One step in the first half and one step in the
    second half are marked with 1. Only the last step is scored, by squared error.

        number   0.5  0.1  0.7  0.3  0.9  0.2
        mark      0    1    0    0    1    0
        target    -    -    -    -    -   1.0

    Always predicting 1 has an error of 1/6 = 0.167, the variance of the sum of two uniform numbers.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps.
    """

    input = Vectors(2)
    output_size = 1
    shortest = 2

    __init__ = partialmethod(
        Generated.__init__, lengths=(100, 100), test_lengths=(100, 100), batch_size=50, eval_batches=20
    )

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Inputs ``[T, B, 2]``: numbers and marks."""
        numbers = torch.rand(length, self.batch_size, generator=generator)
        marks = torch.zeros(length, self.batch_size)
        half = length // 2
        marks.scatter_(0, torch.randint(half, (1, self.batch_size), generator=generator), 1.0)
        marks.scatter_(0, torch.randint(half, length, (1, self.batch_size), generator=generator), 1.0)
        targets = torch.full((length, self.batch_size, 1), torch.nan)
        targets[-1, :, 0] = (numbers * marks).sum(0)
        return Batch(torch.stack([numbers, marks], -1), targets)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``always 1``: the expected sum."""
        return {"always 1": {"loss": 1 / 6, "mae": 1 / 3}}
