"""The categoricals head: several independent classes per step, such as the pixels of a row of an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from rnnlab.heads.base import Head, check_size
from rnnlab.heads.categorical import categorical_loss, draw_categorical
from rnnlab.interface import Mean


class Categoricals(Head):
    """``size`` independent variables of ``classes`` classes each per step.

    The outputs are the logits of the first variable, then those of the second, and so on. Targets are class indices,
    int64 ``[T, B, size]``, with `rnnlab.heads.IGNORE` for variables that are not scored. The loss is in nats, and its
    count is the number of scored variables.

    Args:
        size: number of variables per step.
        classes: number of classes of each variable.
    """

    def __init__(self, size: int, classes: int) -> None:
        check_size("Categoricals", size=size, classes=classes)
        self.size, self.classes, self.features = size, classes, size * classes

    def loss(  # noqa: D102
        self, outputs: Tensor, targets: Tensor, lengths: Tensor | None = None, target_lengths: Tensor | None = None
    ) -> Mean:
        return categorical_loss(outputs.unflatten(-1, (self.size, self.classes)), targets)

    def draw(self, outputs: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
        """Draw the classes of a step as one-hot vectors, one after the other: float ``[B, features]``."""
        logits = outputs.unflatten(-1, (self.size, self.classes))
        return one_hot(draw_categorical(logits, temperature, top_k, generator), self.classes).flatten(1).float()
