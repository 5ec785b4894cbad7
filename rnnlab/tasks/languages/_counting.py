"""Base class of the counting languages, in which each letter occurs n times."""

from __future__ import annotations

from math import log
from typing import ClassVar

import torch
from torch import Tensor

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, Mean, Metric, Tokens
from rnnlab.tasks.base import Generated, Labelling


class Counting(Generated, Labelling):
    """Predict the next symbol of a word in which each letter occurs n times, at steps where it is determined.

    The value of n defines a word. Training draws n independently for each sequence; validation and test have one
    sequence for each n. Shorter words of a batch are padded with the boundary symbol, which is not scored.

    ``accepted`` is the fraction of words in which all scored steps are correct.

    Args:
        seed, data_root, lengths, test_lengths: see `Generated`; the length is n.
        batch_size: number of words per batch.

    letters: number of letters.
    """

    letters: ClassVar[int]
    metrics = Labelling.metrics | {"accepted": Metric("of words all right", "higher")}
    length_metric = "accepted"

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        lengths: list[int] = (1, 50),
        test_lengths: list[int] = (51, 500),
        batch_size: int = 64,
    ) -> None:
        super().__init__(seed, data_root, lengths=lengths, test_lengths=test_lengths, batch_size=batch_size)

    @property
    def input(self) -> Tokens:
        return Tokens(self.letters + 1)

    @property
    def output_size(self) -> int:
        return self.letters + 1

    def num_batches(self, split: str) -> int:
        return -(-len(self.ranges[split]) // self.batch_size)

    def batch(self, split: str, step: int) -> Batch:
        """Words of different n; evaluation takes the values of n in order."""
        n, boundary = self.lengths(split, step), self.letters
        lengths = boundary * n + 1
        steps = torch.arange(int(lengths.max()))[:, None]
        inputs = ((steps - 1) // n).clamp_max(boundary).masked_fill(steps == 0, boundary)
        undetermined = (steps > 0) & (steps <= n) | (steps >= lengths)
        return Batch(inputs, (steps // n).masked_fill(undetermined, IGNORE), lengths)

    def lengths(self, split: str, step: int) -> Tensor:
        """The n of each word of a batch."""
        numbers = self.ranges[split]
        if split == "train":
            generator = self.generator(split, step)
            return torch.randint(numbers[0], numbers[-1] + 1, (self.batch_size,), generator=generator)
        return torch.tensor(numbers[step * self.batch_size : (step + 1) * self.batch_size])

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The fraction of correct scored steps of each word, and whether all of its scored steps are correct."""
        accepted = ((outputs.argmax(-1) == batch.targets) | (batch.targets == IGNORE)).all(0).float()
        return {**super().measure(outputs, batch), "accepted": Mean(accepted, torch.ones_like(accepted))}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, and ``last letter``: the prediction is the letter that was just read."""
        n = torch.tensor(self.ranges[split], dtype=torch.float64)
        scored = 1 + (self.letters - 1) * n
        guess = 1 / self.output_size
        return {
            "chance": {"loss": log(self.output_size), "accuracy": guess, "accepted": float((guess**scored).mean())},
            "last letter": {"accuracy": float((1 - (self.letters - 1) / scored).mean()), "accepted": 0.0},
        }
