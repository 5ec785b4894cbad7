"""The categorical head: one class per step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rnnlab.heads.base import NOT_FINITE, Head, check_size, precise
from rnnlab.interface import InputError, Mean

IGNORE = -100
"""The target of a position that is not scored."""


class Categorical(Head):
    """One of ``classes`` classes per step; the outputs are logits.

    Targets are class indices, int64 ``[T, B]``, with `IGNORE` at steps that are not scored.

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
        logits: ``[..., C]`` in any precision; the loss is computed in at least float32.
        targets: class indices ``[...]``, with `IGNORE` at positions that are not scored.

    Returns:
        the summed loss and the number of scored positions.
    """
    total = cross_entropy(precise(logits).flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    return Mean(total, (targets != IGNORE).sum())


def categorical_accuracy(logits: Tensor, targets: Tensor) -> Mean:
    """The fraction of scored positions of each sequence at which the most probable class is the target.

    Args:
        logits: ``[T, B, C]``.
        targets: class indices ``[T, B]``, with `IGNORE` at positions that are not scored.

    Returns:
        the fractions ``[B]``, with a count of 1 for sequences with scored positions and 0 for others.
    """
    scored = (targets != IGNORE).sum(0)
    right = (logits.argmax(-1) == targets).sum(0)
    return Mean(right / scored.clamp_min(1), (scored > 0).to(right.dtype))


def draw_categorical(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
    """Draw class indices ``[...]`` from ``logits`` ``[..., C]``; sampling runs on the CPU, for logits on any device.

    Args:
        logits: unnormalised log-probabilities.
        temperature: divisor of the logits; 0 takes the most probable class.
        top_k: number of most probable classes to sample from, lower indices first among equal ones; 0: all classes.
        generator: random number generator on the CPU.

    Raises:
        InputError: the largest logit is not finite.
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
    # Subtract the maximum first: dividing by a very small temperature could make several logits infinite.
    probabilities = ((logits - highest).double() / temperature).softmax(-1).float()
    return torch.multinomial(probabilities.reshape(-1, logits.shape[-1]), 1, generator=generator).reshape(
        logits.shape[:-1]
    )
