"""The squared-error head: the outputs are the numbers themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.heads.base import Head, check_size, drawable, no_top_k, precise
from rnnlab.interface import Mean


class SquaredError(Head):
    """``size`` numbers a step, which the outputs name; the loss is their squared error, not a likelihood.

    Targets are float ``[T, B, size]``, NaN where a number is not scored.

    Args:
        size: numbers of a step.
    """

    def __init__(self, size: int) -> None:
        check_size("SquaredError", size=size)
        self.features = size

    def loss(
        self, outputs: Tensor, targets: Tensor, lengths: Tensor | None = None, target_lengths: Tensor | None = None
    ) -> Mean:
        """The sum of squared differences over all scored numbers, in at least float32, and how many there are."""
        return squared_error(outputs, targets)

    def draw(self, outputs: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
        """The outputs ``[B, size]``, whatever the temperature."""
        no_top_k("SquaredError", top_k)
        return drawable(outputs)


def squared_error(outputs: Tensor, targets: Tensor) -> Mean:
    """The sum of squared differences over all scored numbers, in at least float32, and how many there are.

    Args:
        outputs: ``[T, B, F]``.
        targets: ``[T, B, F]``; NaN where a number is not scored.
    """
    scored = ~targets.isnan()
    return Mean(_difference(outputs, targets).square().sum(), scored.sum())


def absolute_error(outputs: Tensor, targets: Tensor) -> Mean:
    """For each sequence the sum of absolute differences over its scored numbers, and how many there are, ``[B]``."""
    scored = ~targets.isnan()
    return Mean(_difference(outputs, targets).abs().sum((0, 2)), scored.sum((0, 2)))


def _difference(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.where(targets.isnan(), 0, precise(outputs) - targets)
