"""The CTC head: a sequence of labels with unknown alignment to the steps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import ctc_loss

from rnnlab.heads.base import Head, check_size, drawable, precise
from rnnlab.interface import InputError, Mean, on_host


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
        # PyTorch reads the lengths on the CPU.
        lengths = torch.full((batch_size,), steps) if lengths is None else on_host(lengths)
        target_lengths = torch.full((batch_size,), len(targets)) if target_lengths is None else on_host(target_lengths)
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
            one tensor of labels for each sequence, int64 ``[number of labels]``, on the CPU.
        """
        paths = outputs.argmax(-1).t().cpu()
        steps = [len(outputs)] * len(paths) if lengths is None else on_host(lengths).tolist()
        merged = (path[:count].unique_consecutive() for path, count in zip(paths, steps, strict=True))
        return [labels[labels != self.blank] for labels in merged]

    def beam_search(self, outputs: Tensor, lengths: Tensor | None = None, beam_size: int = 8) -> list[Tensor]:
        """The most probable labels of each sequence, by prefix beam search.

        In contrast to `decode`, the probability of labels is summed over all their paths (Graves, 2012, section 7.5.3;
        Hannun et al., 2014, arXiv:1408.2873, algorithm 1, without a language model). After each step, the ``beam_size``
        most probable prefixes are kept. Labels below a probability of 1e-6 at a step do not extend a prefix.

        Args:
            outputs: ``[T, B, features]``.
            lengths: number of outputs of each sequence, int64 ``[B]``; None if all are T.
            beam_size: number of prefixes.

        Returns:
            one tensor of labels for each sequence, int64 ``[number of labels]``.

        Raises:
            InputError: the beam size is not valid, or the outputs are not finite.
        """
        if beam_size < 1:
            raise InputError(f"beam_size={beam_size} must be at least 1")
        probabilities = drawable(outputs).double().softmax(-1).transpose(0, 1)
        steps = [len(outputs)] * len(probabilities) if lengths is None else on_host(lengths).tolist()
        found = (self._search(one[:count].tolist(), beam_size) for one, count in zip(probabilities, steps, strict=True))
        return [torch.tensor(labels, dtype=torch.int64) for labels in found]

    def _search(self, steps: list[list[float]], beam_size: int) -> tuple[int, ...]:
        """The most probable labels given the probabilities ``[T][features]`` of one sequence."""
        # For each prefix, the probability of its paths that end in a blank, and of its paths that end in a label.
        beam: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}
        for probabilities in steps:
            blank = probabilities[self.blank]
            likely = [(label, p) for label, p in enumerate(probabilities[: self.blank]) if p > _NEGLIGIBLE]
            grown: dict[tuple[int, ...], list[float]] = {}
            for prefix, (ends_blank, ends_label) in beam.items():
                same = grown.setdefault(prefix, [0.0, 0.0])
                same[0] += blank * (ends_blank + ends_label)
                if prefix:
                    same[1] += probabilities[prefix[-1]] * ends_label
                for label, p in likely:
                    # A label that follows itself is a new one only after a blank.
                    before = ends_blank if prefix and label == prefix[-1] else ends_blank + ends_label
                    grown.setdefault((*prefix, label), [0.0, 0.0])[1] += p * before
            best = sorted(grown.items(), key=lambda one: -sum(one[1]))[:beam_size]
            scale = sum(best[0][1])  # without scaling, the probabilities would underflow
            beam = {prefix: (ends[0] / scale, ends[1] / scale) for prefix, ends in best}
        return next(iter(beam))


_NEGLIGIBLE = 1e-6
"""Beam search does not extend prefixes by labels below this probability, which saves most of its time."""
