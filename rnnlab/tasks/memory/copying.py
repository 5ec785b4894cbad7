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
    """Repeat symbols after a long delay (Hochreiter and Schmidhuber, 1997; in the variant of Arjovsky et al., 2016,
    arXiv:1511.06464).

    The input consists of ``memorize`` symbols, blanks, a marker, and ``memorize`` further blanks. The targets are
    blanks until the marker, then the symbols. With two symbols of an alphabet of 3 (blank 3, marker 4) and a delay of
    3:

        inputs   0 2 3 3 4 3 3
        targets  3 3 3 3 3 0 2

    The loss is averaged over all delay + 2 memorize steps. The memoryless baseline predicts blanks and then guesses the
    symbols: its loss is memorize ln(alphabet) / (delay + 2 memorize) nats per step. The accuracy is that of the symbols
    only; chance is 1 / alphabet.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is the
            delay: the number of steps from the last symbol up to and including the marker.
        alphabet: number of different symbols.
        memorize: number of symbols per sequence.
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
        """Inputs are symbols, blanks and the marker; targets are blanks and the symbols."""
        symbols = torch.randint(self.alphabet, (self.memorize, self.batch_size), generator=generator)
        inputs = torch.full((length + 2 * self.memorize, self.batch_size), self.alphabet)
        targets = inputs.clone()
        inputs[: self.memorize] = symbols
        inputs[self.memorize + length - 1] = self.alphabet + 1
        targets[-self.memorize :] = symbols
        return Batch(inputs, targets)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The fraction of the symbols of each sequence that are recalled."""
        recalled = batch.targets.clone()
        recalled[: -self.memorize] = IGNORE
        return {"accuracy": categorical_accuracy(outputs, recalled)}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``: all outputs equally probable; ``memoryless``: blanks, followed by random symbols."""
        steps = self.ranges[split]
        guess = self.memorize * log(self.alphabet) * len(steps) / sum(t + 2 * self.memorize for t in steps)
        return {
            "chance": {"loss": log(self.output_size), "accuracy": 1 / self.output_size},
            "memoryless": {"loss": guess, "accuracy": 1 / self.alphabet},
        }
