"""The contract of a head: the distribution of a target given the outputs of a model."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.interface import InputError, Mean


class Head:
    """The distribution of a target given a model's outputs.

    A head has no trainable parameters: the readout of the model computes the parameters of the distribution.

    features: output size of the readout.
    """

    features: int

    def loss(
        self, outputs: Tensor, targets: Tensor, lengths: Tensor | None = None, target_lengths: Tensor | None = None
    ) -> Mean:
        """The negative log-likelihood of the targets in nats, summed, and the number of scored positions.

        Args:
            outputs: ``[T, B, features]`` in any precision; the loss is computed in at least float32.
            targets: ``[T, B, ...]``; each head defines how to mark a position that is not scored.
            lengths: number of outputs of each sequence, int64 ``[B]``; None if all are T.
            target_lengths: number of targets of each sequence, int64 ``[B]``; None if all have the full length.
        """
        raise NotImplementedError

    def draw(self, outputs: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
        """Draw a sample for each row of ``outputs``; sampling runs on the CPU, for outputs on any device.

        Args:
            outputs: ``[B, features]``.
            temperature: 1 samples from the distribution, lower values sample closer to its mode, 0 takes the mode.
            top_k: number of most probable classes to sample from; 0: all classes.
            generator: random number generator on the CPU.

        Returns:
            the model's inputs at the next step: tokens ``[B]`` or vectors ``[B, F]``.

        Raises:
            InputError: an output is not finite, or the head has no classes and ``top_k`` is not 0.
        """
        raise NotImplementedError


class Density(Head):
    """A head whose targets are vectors ``[T, B, size]``; a step whose target contains a NaN is not scored.

    size: number of values per target.
    """

    size: int

    def log_density(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The log-density, or log-probability, of the target of each step.

        Args:
            outputs: ``[..., features]``.
            targets: ``[..., size]``, without NaN.

        Returns:
            log-density ``[...]`` in nats.
        """
        raise NotImplementedError

    def loss(  # noqa: D102
        self, outputs: Tensor, targets: Tensor, lengths: Tensor | None = None, target_lengths: Tensor | None = None
    ) -> Mean:
        outputs = precise(outputs)
        scored = ~targets.isnan().any(-1)
        # Replace NaN before computing the density: masking it afterwards would still give NaN gradients.
        nats = self.log_density(outputs, targets.nan_to_num(0.0).to(outputs.dtype))
        return Mean(-torch.where(scored, nats, 0.0).sum(), scored.sum())


def precise(outputs: Tensor) -> Tensor:
    """``outputs`` in float32, or in float64 if they have that dtype."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def check_size(head: str, **sizes: int) -> None:
    """Raise an InputError if a size of a head is not an integer of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise InputError(f"{head}: {name}={size} must be an integer of at least 1")


def drawable(outputs: Tensor) -> Tensor:
    """``outputs`` on the CPU in float32, checked for sampling.

    Raises:
        InputError: an output is not finite.
    """
    outputs = outputs.float().cpu()
    if not outputs.isfinite().all():
        raise InputError(NOT_FINITE)
    return outputs


def no_top_k(head: str, top_k: int) -> None:
    """Raise an InputError if ``top_k`` is not 0 for a head without classes."""
    if top_k:
        raise InputError(f"top_k={top_k} requires a categorical head; a {head} head has no classes, give top_k=0")


NOT_FINITE = "the outputs of the model are not finite; it is not possible to sample from them"
