"""Temporal order: the order of two or three symbols that are far apart in a sequence."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import torch

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.tasks.base import Generated, Labelling

PLACES = {2: ((10, 20), (50, 60)), 3: ((10, 20), (33, 43), (66, 76))}
"""The range of steps of each X or Y, in percent of the length."""


class TemporalOrder(Generated, Labelling):
    """Classify the order of the X's and Y's (Hochreiter and Schmidhuber, 1997, experiments 6a and 6b).

    A sequence starts with E and ends with B, the step at which the class is predicted. The symbols in between are
    random a, b, c and d, except at two or three random positions with an X or Y. In the paper, sequences have 100 to
    110 steps; two positions are drawn from steps 10 to 20 and 50 to 60, three from 10 to 20, 33 to 43 and 66 to 76.
    Here, these ranges are percentages of the length.

        inputs   E Y a c d X b a d B        a to d = 0 to 3, X = 4, Y = 5, E = 6, B = 7
        targets  - - - - - - - - - 2        XX = 0, XY = 1, YX = 2, YY = 3

    Chance is 1/4 with two positions, 1/8 with three.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps.
        relevant: number of X and Y symbols: 2 (experiment 6a) or 3 (experiment 6b).
    """

    input = Tokens(8)
    shortest = 10

    def __init__(self, seed: int = 0, data_root: str = "data", *, relevant: int = 2, **shared: Any) -> None:
        super().__init__(seed, data_root, **shared)
        if relevant not in PLACES:
            raise InputError(f"task.relevant={relevant} must be 2 or 3")
        self.relevant = relevant
        self.output_size = 2**relevant

    __init__ = partialmethod(__init__, lengths=(100, 110), test_lengths=(100, 110), batch_size=32, eval_batches=2)

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """All classes are equally probable."""
        inputs = torch.randint(4, (length, self.batch_size), generator=generator)
        inputs[0], inputs[-1] = 6, 7
        targets = torch.full_like(inputs, IGNORE)
        targets[-1] = 0
        for first, last in PLACES[self.relevant]:
            steps = (length * first // 100, length * last // 100 + 1)
            place = torch.randint(*steps, (1, self.batch_size), generator=generator)
            symbol = torch.randint(2, (1, self.batch_size), generator=generator)
            inputs.scatter_(0, place, 4 + symbol)
            targets[-1] = 2 * targets[-1] + symbol[0]
        return Batch(inputs, targets)
