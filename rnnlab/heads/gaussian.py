"""The Gaussian head: independent normal distributions with learned means and standard deviations."""

from __future__ import annotations

from math import log, pi, sqrt

import torch
from torch import Tensor

from rnnlab.heads.base import Density, check_size, drawable, no_top_k


class Gaussian(Density):
    """``size`` independent normal distributions per step.

    The first ``size`` outputs are the means, the others are the logarithms of the standard deviations. Targets are
    float ``[T, B, size]``. The loss is the sum over the values of a step, in nats.

    Args:
        size: number of values per step.
    """

    def __init__(self, size: int) -> None:
        check_size("Gaussian", size=size)
        self.size, self.features = size, 2 * size

    def log_density(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: D102
        mean, log_deviation = outputs.chunk(2, -1)
        scaled = (targets - mean) * (-log_deviation).exp()
        return -(0.5 * scaled.square() + log_deviation + 0.5 * log(2 * pi)).sum(-1)

    def draw(self, outputs: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
        """Draw vectors ``[B, size]``; ``temperature`` multiplies the variances."""
        no_top_k("Gaussian", top_k)
        mean, log_deviation = drawable(outputs).chunk(2, -1)
        if temperature == 0:
            return mean
        return mean + sqrt(temperature) * log_deviation.exp() * torch.randn(mean.shape, generator=generator)
