"""The contract of a head: the distribution of a target given the outputs of a model."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.interface import InputError, Mean


class Head:
    """The distribution of a target given a model's outputs.

    A head has no parameters: the model's readout, which is ``features`` wide, gives those of the distribution.

    features: width of the readout.
    """

    features: int

    def loss(
        self, outputs: Tensor, targets: Tensor, lengths: Tensor | None = None, target_lengths: Tensor | None = None
    ) -> Mean:
        """The negative log-likelihood of the targets in nats, summed, and the number of scored positions.

        Args:
            outputs: ``[T, B, features]`` in any precision; the loss is computed in at least float32.
            targets: ``[T, B, ...]``; each head says how a position that is not scored is marked.
            lengths: int64 ``[B]``, the number of outputs of each sequence; None where all are T.
            target_lengths: int64 ``[B]``, the number of targets of each sequence; None where all are full.
        """
        raise NotImplementedError

    def draw(self, outputs: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:
        """Draw one value for each row of ``outputs``, on the CPU whatever the device of the outputs.

        Args:
            outputs: ``[B, features]``.
            temperature: 1 draws from the distribution itself, lower values are closer to its mode, 0 takes the mode.
            top_k: only the k most probable classes can be drawn; 0 means all.
            generator: the source of randomness, on the CPU.

        Returns:
            what a model reads at the next step: tokens ``[B]`` or vectors ``[B, F]``.

        Raises:
            InputError: an output is not finite, or the head has no classes and ``top_k`` is not 0.
        """
        raise NotImplementedError


class Density(Head):
    """A head whose targets are vectors ``[T, B, size]``; a step with a NaN among its targets is not scored.

    size: numbers of a target.
    """

    size: int

    def log_density(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The logarithm of the density, or of the probability, of each step's target.

        Args:
            outputs: ``[..., features]``.
            targets: ``[..., size]``, without NaN.

        Returns:
            nats ``[...]``.
        """
        raise NotImplementedError

    def loss(  # noqa: D102
        self, outputs: Tensor, targets: Tensor, lengths: Tensor | None = None, target_lengths: Tensor | None = None
    ) -> Mean:
        outputs = precise(outputs)
        scored = ~targets.isnan().any(-1)
        # Replaced before the density is computed: the gradient of a NaN that is masked afterwards is NaN all the same.
        nats = self.log_density(outputs, targets.nan_to_num(0.0).to(outputs.dtype))
        return Mean(-torch.where(scored, nats, 0.0).sum(), scored.sum())


def precise(outputs: Tensor) -> Tensor:
    """``outputs`` in float64 if they are, otherwise in float32."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def check_size(head: str, **sizes: int) -> None:
    """Raise an InputError if a size of a head is not a whole number of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise InputError(f"{head}: {name}={size} must be a whole number, at least 1")


def drawable(outputs: Tensor) -> Tensor:
    """``outputs`` on the CPU in float32, from which something is about to be drawn.

    Raises:
        InputError: one of them is not finite.
    """
    outputs = outputs.float().cpu()
    if not outputs.isfinite().all():
        raise InputError(NOT_FINITE)
    return outputs


def no_top_k(head: str, top_k: int) -> None:
    """Raise an InputError if ``top_k`` is given to a head without classes."""
    if top_k:
        raise InputError(f"top_k={top_k} needs a categorical output; a {head} output has no classes, give top_k=0")


NOT_FINITE = "the outputs of the model are not finite, so nothing can be drawn from them"
