"""The copying problem: remember symbols over a long delay."""

from __future__ import annotations

from functools import partialmethod
from math import log
from typing import Any

import torch
from torch import Tensor

from rnnlab.heads import IGNORE
from rnnlab.heads.categorical import categorical_accuracy
from rnnlab.interface import Batch, Mean, Metric, Tokens
from rnnlab.tasks.base import Generated, Labelling, check_least


class Copying(Generated, Labelling):
    """Write down the symbols seen a long time ago (Hochreiter and Schmidhuber, 1997; as Arjovsky et al., 2016,
    arXiv:1511.06464).

    First come the symbols, then blanks, the last of which but ``memorize`` is a marker; the answer is blank until the
    symbols are due. With two symbols of an alphabet of 3 (blank 3, marker 4) and a delay of 3:

        inputs   0 2 3 3 4 3 3
        targets  3 3 3 3 3 0 2

    Every one of the delay + 2 memorize steps counts for the loss. Who remembers nothing writes blanks and then guesses:
    memorize ln(alphabet) / (delay + 2 memorize) nats a step. The accuracy is that of the symbols alone; chance is
    1 / alphabet.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is the
            delay: the steps from the last symbol to the marker, which counts.
        alphabet: how many different symbols there are.
        memorize: how many of them a sequence has.
    """

    metrics = {
        "loss": Metric("nats per step"),
        "accuracy": Metric("of the symbols of a sequence recalled", "higher"),
    }

    def __init__(
        self, seed: int = 0, data_root: str = "data", *, alphabet: int = 8, memorize: int = 10, **shared: Any
    ) -> None:
        super().__init__(seed, data_root, **shared)
        check_least(2, alphabet=alphabet)
        check_least(1, memorize=memorize)
        self.alphabet, self.memorize = alphabet, memorize
        self.input = Tokens(alphabet + 2)
        self.output_size = alphabet + 1

    __init__ = partialmethod(__init__, lengths=(100, 100), test_lengths=(100, 100), batch_size=32, eval_batches=20)

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Symbols, blanks and marker; blanks and symbols."""
        symbols = torch.randint(self.alphabet, (self.memorize, self.batch_size), generator=generator)
        inputs = torch.full((length + 2 * self.memorize, self.batch_size), self.alphabet)
        targets = inputs.clone()
        inputs[: self.memorize] = symbols
        inputs[self.memorize + length - 1] = self.alphabet + 1
        targets[-self.memorize :] = symbols
        return Batch(inputs, targets)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The share of a sequence's symbols that are recalled."""
        recalled = batch.targets.clone()
        recalled[: -self.memorize] = IGNORE
        return {"accuracy": categorical_accuracy(outputs, recalled)}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, every output as probable as any other; ``memoryless``, blanks and then a guess at the symbols."""
        steps = self.ranges[split]
        guess = self.memorize * log(self.alphabet) * len(steps) / sum(t + 2 * self.memorize for t in steps)
        return {
            "chance": {"loss": log(self.output_size), "accuracy": 1 / self.output_size},
            "memoryless": {"loss": guess, "accuracy": 1 / self.alphabet},
        }
