"""The categorical head: one class a step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rnnlab.heads.base import NOT_FINITE, Head, check_size, precise
from rnnlab.interface import InputError, Mean

IGNORE = -100
"""The target of a position that is not scored."""


class Categorical(Head):
    """One of ``classes`` classes a step; the outputs are logits.

    Targets are class indices, int64 ``[T, B]``, `IGNORE` where a step is not scored.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        check_size("Categorical", classes=classes)
        self.features = classes

    def loss(  # noqa: D102
        self, outputs: Tensor, targets: Tensor, lengths: Tensor | None = None, target_lengths: Tensor | None = None
    ) -> Mean:
        return categorical_loss(outputs, targets)

    def draw(self, outputs: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        return draw_categorical(outputs, temperature, top_k, generator)


def categorical_loss(logits: Tensor, targets: Tensor) -> Mean:
    """Cross-entropy in nats over all scored positions.

    Args:
        logits: ``[..., C]``, in any precision; the loss is computed in at least float32.
        targets: class indices ``[...]``; `IGNORE` where a position is not scored.

    Returns:
        the summed loss and the number of scored positions.
    """
    total = cross_entropy(precise(logits).flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    return Mean(total, (targets != IGNORE).sum())


def categorical_accuracy(logits: Tensor, targets: Tensor) -> Mean:
    """For each sequence the share of its scored positions at which the most probable class is the target.

    Args:
        logits: ``[T, B, C]``.
        targets: class indices ``[T, B]``; `IGNORE` where a position is not scored.

    Returns:
        the shares ``[B]``, and as count 1 for a sequence with a scored position, 0 for others.
    """
    scored = (targets != IGNORE).sum(0)
    right = (logits.argmax(-1) == targets).sum(0)
    return Mean(right / scored.clamp_min(1), (scored > 0).to(right.dtype))


def draw_categorical(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
    """Draw class indices ``[...]`` from ``logits`` ``[..., C]``, on the CPU whatever the device of the logits.

    Args:
        logits: unnormalised log-probabilities.
        temperature: divides the logits; 0 takes the most probable class.
        top_k: only the k most probable classes can be drawn, of equally probable ones the first; 0 means all.
        generator: the source of randomness, on the CPU.

    Raises:
        InputError: the largest of the logits is not finite.
    """
    logits = logits.float().cpu()
    highest = logits.amax(-1, keepdim=True)
    if not highest.isfinite().all():
        raise InputError(NOT_FINITE)
    if temperature == 0:
        return logits.argmax(-1)
    if 0 < top_k < logits.shape[-1]:
        beyond = torch.sort(logits, dim=-1, descending=True, stable=True).indices[..., top_k:]
        logits = logits.scatter(-1, beyond, -torch.inf)
    # The difference comes first: divided by a tiny temperature, two logits may both be infinite.
    probabilities = ((logits - highest).double() / temperature).softmax(-1).float()
    return torch.multinomial(probabilities.reshape(-1, logits.shape[-1]), 1, generator=generator).reshape(
        logits.shape[:-1]
    )
