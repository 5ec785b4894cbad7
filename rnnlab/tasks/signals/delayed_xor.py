"""Delayed XOR: were two bits, some steps ago, different?"""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import torch

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, Tokens
from rnnlab.tasks.base import Generated, Labelling, check_least


class DelayedXOR(Generated, Labelling):
    """At every step t of random bits u, name the XOR of u(t - delay) and of the bit before it.

    The delayed parity task of Bertschinger and Natschläger (2004, Neural Computation 16, p. 1413), who take three bits
    (bits=3): no linear readout of the bits can do it, and memory must reach back ``delay`` steps. With delay=2:

        inputs   1 0 0 1 1 0 1
        targets  - - - 1 0 1 0        - is not scored: the bits asked for were not yet there

    Chance is 1/2.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps.
        delay: how many steps ago the latest of the bits was read; 0 is the present step.
        bits: how many bits, one after another, are taken together: 2 is XOR, more is parity.
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
        """One step is scored."""
        return self.delay + self.bits

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Bits, and the parity of those that lie back."""
        inputs = torch.randint(2, (length, self.batch_size), generator=generator)
        targets = torch.full_like(inputs, IGNORE)
        targets[self.shortest - 1 :] = inputs[: length - self.delay].unfold(0, self.bits, 1).sum(-1) % 2
        return Batch(inputs, targets)
