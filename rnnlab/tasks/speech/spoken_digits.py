"""Spoken digits: say which digit a recording contains."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch
from rnnlab.tasks.base import Finite, Labelling
from rnnlab.tasks.speech.base import SHOWN, WORDS, Speech


class SpokenDigits(Speech, Finite, Labelling):
    """Classify a recording of one digit after its last frame; see `Speech` for data and options.

    A recording of "seven", with two bands:

        inputs   -0.9  0.7  1.2  0.1
                 -1.1  0.3  0.2 -0.8
        targets    -    -    -    7        - is not scored

    Chance is 1/10.
    """

    metrics = Labelling.metrics
    monitor = "accuracy"
    length_metric = None
    output_size = 10
    longest = 5.0

    @cached_property
    def digits(self) -> dict[str, Tensor]:
        """The digit of each recording, int64 ``[N]``."""
        return {split: torch.tensor([one.digit for one in part]) for split, part in self.recordings.items()}

    def count(self, split: str) -> int:  # noqa: D102
        return len(self.recordings[split])

    def batch(self, split: str, step: int) -> Batch:
        """Features padded to the longest recording of the batch, with the digit as the target of each last frame."""
        chosen = self.chosen(split, step)
        inputs, lengths = self.padded([self.features[split][row] for row in chosen.tolist()], split, step)
        targets = torch.full(inputs.shape[:2], IGNORE)
        targets[lengths - 1, torch.arange(len(chosen))] = self.digits[split][chosen]
        return Batch(inputs, targets, lengths=lengths)

    def texts(self, outputs: Tensor, lengths: Tensor, beam_size: int) -> list[str]:
        """The most probable digit after the last frame of each recording."""
        last = outputs[lengths - 1, torch.arange(len(lengths))]
        return [WORDS[digit] for digit in last.argmax(-1).tolist()]

    def examples(self) -> list[tuple[str, Tensor]]:  # noqa: D102
        found = self.recordings["valid"]
        shown = found[:: -(-len(found) // SHOWN)]
        return [(WORDS[one.digit], torch.from_numpy(one.samples)) for one in shown]
