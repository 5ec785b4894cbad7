"""The squared-error head: the outputs are the predicted values."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.heads.base import Head, check_size, drawable, no_top_k, precise
from rnnlab.interface import Mean


class SquaredError(Head):
    """``size`` predicted values per step; the loss is the squared error, not a likelihood.

    Targets are float ``[T, B, size]``, with NaN for values that are not scored.

    Args:
        size: number of values per step.
    """

    def __init__(self, size: int) -> None:
        check_size("SquaredError", size=size)
        self.features = size

    def loss(
        self, outputs: Tensor, targets: Tensor, lengths: Tensor | None = None, target_lengths: Tensor | None = None
    ) -> Mean:
        """The sum of squared errors over all scored values, in at least float32, and the number of scored values."""
        return squared_error(outputs, targets)

    def draw(self, outputs: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
        """The outputs ``[B, size]``; the temperature has no effect."""
        no_top_k("SquaredError", top_k)
        return drawable(outputs)


def squared_error(outputs: Tensor, targets: Tensor) -> Mean:
    """The sum of squared errors over all scored values, in at least float32, and the number of scored values.

    Args:
        outputs: ``[T, B, F]``.
        targets: ``[T, B, F]``, with NaN for values that are not scored.
    """
    scored = ~targets.isnan()
    return Mean(_difference(outputs, targets).square().sum(), scored.sum())


def absolute_error(outputs: Tensor, targets: Tensor) -> Mean:
    """The sum of absolute errors over the scored values of each sequence, and the number of scored values, ``[B]``."""
    scored = ~targets.isnan()
    return Mean(_difference(outputs, targets).abs().sum((0, 2)), scored.sum((0, 2)))


def _difference(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.where(targets.isnan(), 0, precise(outputs) - targets)
