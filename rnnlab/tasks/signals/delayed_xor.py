"""Delayed XOR: the exclusive or of two earlier bits."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import torch

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, Tokens
from rnnlab.tasks.base import Generated, Labelling, check_least


class DelayedXOR(Generated, Labelling):
    """Predict the XOR of two random bits u(t - delay) and u(t - delay - 1), at each step t.

    This is the delayed parity task of Bertschinger and Natschläger (2004, Neural Computation 16, p. 1413), who use
    three bits (bits=3). The target is not a linear function of the bits, and the model must remember ``delay`` steps.
    With delay=2:

        inputs   1 0 0 1 1 0 1
        targets  - - - 1 0 1 0        - is not scored: too few bits have been read

    Chance is 1/2.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps.
        delay: number of steps since the latest of the bits was read; 0 is the current step.
        bits: number of consecutive bits: 2 for XOR, more for parity.
    """

    input = Tokens(2)
    output_size = 2

    def __init__(self, seed: int = 0, data_root: str = "data", *, delay: int = 5, bits: int = 2, **shared: Any) -> None:
        check_least(0, delay=delay)
        check_least(1, bits=bits)
        self.delay, self.bits = delay, bits
        super().__init__(seed, data_root, **shared)

    __init__ = partialmethod(__init__, lengths=(100, 100), test_lengths=(100, 100), eval_batches=10)

    @property
    def shortest(self) -> int:
        """The length at which exactly one step is scored."""
        return self.delay + self.bits

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Random bits, and the parity of the delayed bits."""
        inputs = torch.randint(2, (length, self.batch_size), generator=generator)
        targets = torch.full_like(inputs, IGNORE)
        targets[self.shortest - 1 :] = inputs[: length - self.delay].unfold(0, self.bits, 1).sum(-1) % 2
        return Batch(inputs, targets)
