"""Base class of the formal-language tasks: read a word, then write the answer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, Mean, Metric, Tokens
from rnnlab.tasks.base import Generated, Labelling


class Language(Generated, Labelling):
    """Read a word, then write the answer, one symbol per step, as in Delétang et al., 2023 (arXiv:2207.02098).

    The word is followed by one marker for each symbol of the answer; the marker is the last input symbol. Training
    uses lengths 1 to 40, the test set lengths 41 to 500. The accuracy of a length is the fraction of scored symbols
    that are correct; the test accuracy is the mean over lengths, as in the paper. The paper uses one-hot inputs
    (``model.encoder=one_hot``) and reports the best of its seeds.

    Words of the same length have answers of the same length: an answer of variable length is followed by ``end`` and
    padded with zeros, which count for the loss but not for the accuracy. Lengths that are too short for a task, for
    which the authors' code invents an answer, are not allowed.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the length of the word.

    symbols: number of different symbols in words.
    output_size: number of different symbols in answers.
    end: symbol after an answer; None if all answers of a length have the same length.
    """

    metrics = Labelling.metrics | {"accuracy": Metric("of the symbols right", "higher")}
    symbols: ClassVar[int]
    output_size: ClassVar[int]
    end: ClassVar[int | None] = None

    @property
    def input(self) -> Tokens:  # noqa: D102
        return Tokens(self.symbols + 1)

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """Random words ``[length, B]`` and their answers ``[M, B]``, int64."""
        raise NotImplementedError

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Inputs are the word and the markers; the answer is the target of the markers."""
        word, answer = self.word(generator, length)
        markers = torch.full_like(answer, self.symbols)
        return Batch(torch.cat([word, markers]), torch.cat([torch.full_like(word, IGNORE), answer]))

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The fraction of the batch's scored symbols that are correct.

        The value of a sequence is its number of correct symbols, divided by the mean number of scored symbols of the
        batch's sequences.
        """
        scored = self.scored(batch.targets)
        share = (scored & (outputs.argmax(-1) == batch.targets)).sum(0) / scored.sum(0).double().mean()
        return {"accuracy": Mean(share, torch.ones_like(share))}

    def scored(self, targets: Tensor) -> Tensor:
        """Mask ``[T, B]`` of the ``targets`` that count for the accuracy: the answer, including its end symbol."""
        answer = targets != IGNORE
        if self.end is None:
            return answer
        ends = targets == self.end
        return answer & (ends.cumsum(0) <= ends)
