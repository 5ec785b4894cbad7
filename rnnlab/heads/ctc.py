"""The CTC head: a sequence of labels with unknown alignment to the steps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import ctc_loss

from rnnlab.heads.base import Head, check_size, precise
from rnnlab.interface import InputError, Mean


class CTC(Head):
    """Connectionist temporal classification (Graves et al., 2006, doi:10.1145/1143844.1143891).

    The outputs are the logits of ``labels`` labels, followed by the logit of the blank. Targets are int64 ``[L, B]``;
    only the first ``target_lengths`` targets of each sequence are used. The loss is in nats, and its count is the
    number of labels.

    Args:
        labels: number of labels, excluding the blank.
    """

    def __init__(self, labels: int) -> None:
        check_size("CTC", labels=labels)
        self.blank, self.features = labels, labels + 1

    def loss(
        self, outputs: Tensor, targets: Tensor, lengths: Tensor | None = None, target_lengths: Tensor | None = None
    ) -> Mean:
        """The negative log-likelihood, summed over all alignments, and the number of labels.

        The loss is infinite if a sequence has fewer steps than its labels require.
        """
        steps, batch_size = outputs.shape[:2]
        lengths = targets.new_full((batch_size,), steps) if lengths is None else lengths
        if target_lengths is None:
            target_lengths = targets.new_full((batch_size,), len(targets))
        log_probabilities = precise(outputs).log_softmax(-1)
        total = ctc_loss(log_probabilities, targets.t(), lengths, target_lengths, blank=self.blank, reduction="sum")
        return Mean(total, target_lengths.sum())

    def draw(self, outputs: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
        """Raise an InputError: `decode` computes the labels from all outputs of a sequence."""
        raise InputError("a CTC head cannot generate step by step; use CTC.decode for the labels of a whole sequence")

    def decode(self, outputs: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """The labels of the most probable path of each sequence: repeated labels are merged, then blanks removed.

        Args:
            outputs: ``[T, B, features]``.
            lengths: number of outputs of each sequence, int64 ``[B]``; None if all are T.

        Returns:
            one tensor of labels for each sequence, int64 ``[number of labels]``.
        """
        paths = outputs.argmax(-1).t()
        steps = [len(outputs)] * len(paths) if lengths is None else lengths.tolist()
        merged = (path[:count].unique_consecutive() for path, count in zip(paths, steps, strict=True))
        return [labels[labels != self.blank] for labels in merged]
