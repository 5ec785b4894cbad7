"""What a model's outputs mean: output distributions as plain functions, their losses and how to draw from them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rnnlab.interface import InputError, Mean

IGNORE = -100
"""The target of a position that is not scored."""


def categorical_loss(logits: Tensor, targets: Tensor) -> Mean:
    """Cross-entropy in nats over all scored positions.

    Args:
        logits: ``[..., C]``, in any precision; the loss is computed in at least float32.
        targets: class indices ``[...]``; `IGNORE` where a position is not scored.

    Returns:
        the summed loss and the number of scored positions.
    """
    precise = logits if logits.dtype == torch.float64 else logits.float()
    total = cross_entropy(precise.flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    return Mean(total, (targets != IGNORE).sum())


def categorical_accuracy(logits: Tensor, targets: Tensor) -> Mean:
    """For every sequence the share of its scored positions at which the most probable class is the target.

    Args:
        logits: ``[T, B, C]``.
        targets: class indices ``[T, B]``; `IGNORE` where a position is not scored.

    Returns:
        the shares ``[B]``, and as count 1 for a sequence with a scored position, 0 for others.
    """
    scored = (targets != IGNORE).sum(0)
    right = (logits.argmax(-1) == targets).sum(0)
    return Mean(right / scored.clamp_min(1), (scored > 0).to(right.dtype))


def squared_error(outputs: Tensor, targets: Tensor) -> Mean:
    """The sum of squared differences over all scored numbers, in at least float32, and how many there are.

    Args:
        outputs: ``[T, B, F]``.
        targets: ``[T, B, F]``; NaN where a number is not scored.
    """
    scored = ~targets.isnan()
    return Mean(_difference(outputs, targets).square().sum(), scored.sum())


def absolute_error(outputs: Tensor, targets: Tensor) -> Mean:
    """The same with absolute differences, ``[B]`` each: sums and counts of every sequence."""
    scored = ~targets.isnan()
    return Mean(_difference(outputs, targets).abs().sum((0, 2)), scored.sum((0, 2)))


def _difference(outputs: Tensor, targets: Tensor) -> Tensor:
    precise = outputs if outputs.dtype == torch.float64 else outputs.float()
    return torch.where(targets.isnan(), 0, precise - targets)


def draw_categorical(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
    """Draw class indices ``[...]`` from ``logits`` ``[..., C]``, on the CPU whatever the logits' device.

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
        raise InputError("the outputs of the model are not finite, so nothing can be drawn from them")
    if temperature == 0:
        return logits.argmax(-1)
    if 0 < top_k < logits.shape[-1]:
        beyond = torch.sort(logits, dim=-1, descending=True, stable=True).indices[..., top_k:]
        logits = logits.scatter(-1, beyond, -torch.inf)
    # The difference first: the quotient of a tiny temperature may be infinite, and of two infinities there is none.
    probabilities = ((logits - highest).double() / temperature).softmax(-1).float()
    return torch.multinomial(probabilities.reshape(-1, logits.shape[-1]), 1, generator=generator).reshape(
        logits.shape[:-1]
    )
