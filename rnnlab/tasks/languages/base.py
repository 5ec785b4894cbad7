"""What the tasks of formal languages have in common: read a word, then write the answer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, Mean, Metric, Tokens
from rnnlab.tasks.base import Generated, Labelling


class Language(Generated, Labelling):
    """Read a word, then write the answer, a symbol a step; the protocol of Delétang et al., 2023 (arXiv:2207.02098).

    After the word comes, once for every symbol of the answer, a marker (the last of the input's symbols). Training is
    on lengths 1 to 40, the test on lengths 41 to 500. The accuracy of a length is the share of all scored symbols that
    are right, that of the test the mean over lengths: the paper's score. The paper gives one-hot inputs
    (``model.encoder=one_hot``) and reports the best of its seeds.

    Answers of words of one length are equally long: where they would not be, an ``end`` follows them, then zeros, which
    are trained but do not count for the accuracy. Of lengths that are too short for a task, for which the authors' code
    makes up an answer, there are none.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            that of the word.

    symbols: how many symbols a word can have.
    output_size: how many symbols an answer can have.
    end: the symbol after an answer; None where all are equally long.
    """

    metrics = Labelling.metrics | {"accuracy": Metric("of the symbols right", "higher")}
    symbols: ClassVar[int]
    output_size: ClassVar[int]
    end: ClassVar[int | None] = None

    @property
    def input(self) -> Tokens:  # noqa: D102
        return Tokens(self.symbols + 1)

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """Words and answers, int64 ``[length, B]`` and ``[M, B]``."""
        raise NotImplementedError

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Word and markers; nothing and answer."""
        word, answer = self.word(generator, length)
        markers = torch.full_like(answer, self.symbols)
        return Batch(torch.cat([word, markers]), torch.cat([torch.full_like(word, IGNORE), answer]))

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The share of the batch's scored symbols that are right.

        By sequence: how many of its own are, over how many a sequence has in the mean.
        """
        scored = self.scored(batch.targets)
        share = (scored & (outputs.argmax(-1) == batch.targets)).sum(0) / scored.sum(0).double().mean()
        return {"accuracy": Mean(share, torch.ones_like(share))}

    def scored(self, targets: Tensor) -> Tensor:
        """Which of the ``targets`` ``[T, B]`` count for the accuracy: those of the answer, its end too."""
        answer = targets != IGNORE
        if self.end is None:
            return answer
        ends = targets == self.end
        return answer & (ends.cumsum(0) <= ends)
