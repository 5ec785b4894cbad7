"""The Bernoulli head: independent bits, such as the notes of a chord or the pixels of a binary image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rnnlab.heads.base import Density, check_size, drawable, no_top_k


class Bernoulli(Density):
    """``size`` independent bits per step; the outputs are their logits.

    Targets are float ``[T, B, size]``, 0 or 1. The loss is the sum over the bits of a step, in nats.

    Args:
        size: number of bits per step.
    """

    def __init__(self, size: int) -> None:
        check_size("Bernoulli", size=size)
        self.size = self.features = size

    def log_density(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: D102
        return -binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(-1)

    def draw(self, outputs: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
        """Draw bits ``[B, size]`` as 0.0 and 1.0; ``temperature`` divides the logits."""
        no_top_k("Bernoulli", top_k)
        logits = drawable(outputs)
        if temperature == 0:
            return (logits > 0).float()
        return torch.bernoulli((logits.double() / temperature).sigmoid().float(), generator=generator)
