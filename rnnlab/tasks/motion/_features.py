"""Frames of motion as vectors: what a model reads, what it predicts, and how a figure moves on.

A model reads a *pose* and the last *step*, which do not depend on where the figure stands and which way it faces:

- pose: six numbers for the rotation of each joint except the root, the upward direction in the frame of the root, and
  the height of the root;
- step: a rotation vector for each joint, root included, in radians, and the movement of the root in its own frame.

It predicts the next step, so that a rotation stays a rotation: R_t+1 = R_t exp(step).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from rnnlab.formats.skeleton import Motion
from rnnlab.tasks.motion._rotations import exponential, from_six_numbers, logarithm, six_numbers


class Frame(NamedTuple):
    """The pose and the last step of figures with J joints.

    rotations: of the joints except the root, ``[..., J - 1, 3, 3]``.
    up: upward direction in the frame of the root, ``[..., 3]``.
    height: ``[..., 1]``.
    turns: last rotation vector of each joint, ``[..., J, 3]``.
    move: last movement of the root, in its frame before the step, ``[..., 3]``.
    """

    rotations: Tensor
    up: Tensor
    height: Tensor
    turns: Tensor
    move: Tensor

    def vector(self) -> Tensor:
        """The frame as a vector ``[..., features]``: the pose, then the step."""
        six = six_numbers(self.rotations).flatten(-2)
        return torch.cat([six, self.up, self.height, self.turns.flatten(-2), self.move], -1)

    def stepped(self, step: Tensor) -> Frame:
        """The next frame after a step ``[..., 3 J + 3]``; the rotations are orthonormal."""
        turns, move = step[..., :-3].unflatten(-1, (-1, 3)), step[..., -3:]
        rotations = self.rotations @ exponential(turns[..., 1:, :])
        up = (exponential(-turns[..., 0, :]) @ self.up.unsqueeze(-1)).squeeze(-1)
        height = self.height + (self.up * move).sum(-1, keepdim=True)
        return Frame(rotations, normalize(up, dim=-1), height, turns, move)


def frame_of(vector: Tensor, joints: int) -> Frame:
    """The frame of a vector ``[..., features]``, with orthonormal rotations."""
    six, up, height, turns, move = vector.split([6 * (joints - 1), 3, 1, 3 * joints, 3], -1)
    rotations = from_six_numbers(six.unflatten(-1, (-1, 6)))
    return Frame(rotations, normalize(up, dim=-1), height, turns.unflatten(-1, (-1, 3)), move)


def frames_of(rotations: Tensor, positions: Tensor, noise: Tensor | None = None) -> tuple[Frame, Tensor]:
    """The frames of motions and the step after each of them.

    Args:
        rotations: ``[N + 1, ..., J, 3, 3]``, the root first.
        positions: of the root, ``[N + 1, ..., 3]``.
        noise: rotation vectors ``[N, ..., J, 3]`` that disturb the pose of each frame. The step after a disturbed frame
            leads to the true next frame.

    Returns:
        N frames, the first with a last step of 0, and N steps ``[N, ..., 3 J + 3]``.
    """
    here = rotations[:-1] if noise is None else rotations[:-1] @ exponential(noise)
    move = (here[..., 0, :, :].transpose(-1, -2) @ (positions[1:] - positions[:-1]).unsqueeze(-1)).squeeze(-1)
    true_turns = logarithm(rotations[:-1].transpose(-1, -2) @ rotations[1:])
    turns = true_turns if noise is None else logarithm(here.transpose(-1, -2) @ rotations[1:])
    last_turns = torch.cat([torch.zeros_like(turns[:1]), true_turns[:-1]])
    last_move = torch.cat([torch.zeros_like(move[:1]), move[:-1]])
    frame = Frame(here[..., 1:, :, :], here[..., 0, 1, :], positions[:-1, ..., 1:2], last_turns, last_move)
    return frame, torch.cat([turns.flatten(-2), move], -1)


def walked(frame: Frame, start: Motion) -> tuple[Tensor, Tensor]:
    """The rotations ``[N, J, 3, 3]`` and root positions ``[N, 3]`` of N frames that follow each other.

    Args:
        frame: the frames.
        start: motion that ends one frame earlier; the root moves on from its last frame.
    """
    turn, place = torch.from_numpy(start.rotations[-1, 0]).double(), torch.from_numpy(start.positions[-1]).double()
    roots, places = [], []
    for turned, moved in zip(exponential(frame.turns[:, 0].double()), frame.move.double(), strict=True):
        place = place + turn @ moved
        turn = turn @ turned
        roots.append(turn)
        places.append(place)
    positions = torch.stack(places)
    positions[:, 1] = frame.height[:, 0]  # a sum of movements would drift
    return torch.cat([torch.stack(roots).unsqueeze(1), frame.rotations.double()], 1), positions
