"""The skeleton and the scales of training data: what a trained model needs to know of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rnnlab.formats.skeleton import Skeleton
from rnnlab.interface import InputError
from rnnlab.tasks.motion._features import Frame, frame_of, frames_of

STILL = 1e-4
"""A coordinate whose standard deviation in training is smaller, in radians or units of length, does not move."""


class Layout(NamedTuple):
    """The standardisation of inputs ``[..., F]`` and of predicted steps ``[..., D]``.

    skeleton: the joints.
    mean, deviation: of the frames as vectors, ``[F]``.
    moving: indices of the coordinates of a step that are predicted, ``[D]``; the others do not move.
    scale: root mean square of these coordinates, ``[D]``.
    low, high: smallest and largest value in training of each coordinate of a step, then of the height:
        ``[3 J + 4]``. Generated steps and heights stay within this range.
    """

    skeleton: Skeleton
    mean: Tensor
    deviation: Tensor
    moving: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def measured(cls, skeleton: Skeleton, motions: Iterable[tuple[Tensor, Tensor]]) -> Layout:
        """The layout of training data.

        Args:
            skeleton: the joints.
            motions: rotations ``[N, J, 3, 3]`` and root positions ``[N, 3]``, N at least 2.

        Raises:
            InputError: there is no motion, or nothing moves.
        """
        found = [frames_of(rotations.double(), positions.double()) for rotations, positions in motions]
        if not found:
            raise InputError("no training clip has two or more frames at 25 per second; give longer clips")
        vectors, steps = torch.cat([frame.vector() for frame, _ in found]), torch.cat([step for _, step in found])
        heights = torch.cat([frame.height for frame, _ in found])
        deviation, scale = vectors.std(0, correction=0), steps.square().mean(0).sqrt()
        moving = (scale > STILL).nonzero().flatten()
        if not len(moving):
            raise InputError("nothing moves in the training clips; give clips of motion")
        return cls(
            skeleton,
            vectors.mean(0).float(),
            torch.where(deviation > STILL, deviation, 1.0).float(),
            moving,
            scale[moving].float(),
            torch.cat([steps.amin(0), heights.amin(0)]).float(),
            torch.cat([steps.amax(0), heights.amax(0)]).float(),
        )

    @property
    def joints(self) -> int:
        """Number of joints J."""
        return len(self.skeleton.names)

    @property
    def turning(self) -> Tensor:
        """Whether each coordinate of the rotation of each joint moves, bool ``[J, 3]``."""
        return torch.zeros(len(self.low) - 1).index_fill(0, self.moving, 1)[:-3].bool().reshape(-1, 3)

    def inputs(self, frame: Frame) -> Tensor:
        """The inputs of frames."""
        return (frame.vector() - self.mean) / self.deviation

    def frame(self, inputs: Tensor) -> Frame:
        """The frames of inputs, with orthonormal rotations."""
        return frame_of(inputs * self.deviation + self.mean, self.joints)

    def targets(self, steps: Tensor) -> Tensor:
        """The targets of steps ``[..., 3 J + 3]``."""
        return steps[..., self.moving] / self.scale

    def advance(self, inputs: Tensor, drawn: Tensor) -> Tensor:
        """The inputs of the next frames, ``[B, F]``, after predicted targets ``[B, D]``."""
        step = torch.zeros(len(drawn), len(self.low) - 1).index_copy(1, self.moving, drawn * self.scale)
        frame = self.frame(inputs).stepped(step.clamp(self.low[:-1], self.high[:-1]))
        return self.inputs(frame._replace(height=frame.height.clamp(self.low[-1:], self.high[-1:])))

    def memory(self) -> dict[str, Any]:
        """The layout in plain containers and tensors."""
        skeleton = self.skeleton
        joints = [list(skeleton.names), list(skeleton.parents), skeleton.offsets.tolist(), skeleton.ends]
        return {"joints": joints, "tensors": list(self[1:])}

    @classmethod
    def restored(cls, memory: dict[str, Any]) -> Layout:
        """The layout of a `memory`."""
        names, parents, offsets, ends = memory["joints"]
        skeleton = Skeleton(tuple(names), tuple(parents), np.array(offsets), {n: tuple(end) for n, end in ends.items()})
        return cls(skeleton, *memory["tensors"])
