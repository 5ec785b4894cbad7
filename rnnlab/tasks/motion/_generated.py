"""Generated clips of a figure that walks and dances: joint angles with two harmonics of a beat."""

from __future__ import annotations

from functools import cache
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor

from rnnlab.formats.skeleton import Motion, Skeleton, euler_matrices
from rnnlab.tasks.base import EVALUATION_SEED
from rnnlab.tasks.motion._clips import FRAME_TIME, Corpus, Part

_LIMB = ("hip", "knee", "shoulder", "elbow")
SKELETON = Skeleton(
    names=("root", "chest", "neck", *(f"{side}_{joint}" for side in ("right", "left") for joint in _LIMB)),
    parents=(-1, 0, 1, 0, 3, 1, 5, 0, 7, 1, 9),
    offsets=torch.tensor(
        [
            [0, 0, 0],
            [0, 0.24, 0],
            [0, 0.22, 0],
            *([0, 0, 0.09], [0, -0.42, 0], [0, 0.2, 0.18], [0, -0.28, 0]),
            *([0, 0, -0.09], [0, -0.42, 0], [0, 0.2, -0.18], [0, -0.28, 0]),
        ],
        dtype=torch.float64,
    ).numpy(),
    ends={2: (0.0, 0.3, 0.0), 4: (0.0, -0.42, 0.0), 6: (0.0, -0.26, 0.0), 8: (0.0, -0.42, 0.0), 10: (0.0, -0.26, 0.0)},
)
"""A figure of 1.6 metres that faces x; y points up."""
HIPS, KNEES, SHOULDERS, ELBOWS = [3, 7], [4, 8], [5, 9], [6, 10]
"""Indices of the right and the left joint."""
ACTIONS = ("walk", "dance 1", "dance 2", "dance 3", "dance 4", "dance 5")
UNSEEN = ("dance 6", "dance 7")
CLIPS = {"train": 8, "valid": 2, "test": 2}
"""Number of clips of each action in each split."""
SECONDS = 4


@cache
def corpus() -> Corpus:
    """Clips of `ACTIONS` in each split, and of `UNSEEN` actions; the tempo, size and phase of each clip are random."""
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    clips, parts = {}, []
    for action in (*ACTIONS, *UNSEEN):
        style = _style(action, generator)
        for split, count in CLIPS.items() if action in ACTIONS else [("unseen", CLIPS["test"])]:
            for number in range(1, count + 1):
                name = f"{action} {split} {number}".replace(" ", "_")
                clips[name] = _clip(style, generator)
                parts.append(Part(name, split, action))
    return Corpus(clips, tuple(parts))


class _Style(NamedTuple):
    """The periodic motion of an action: angle = mean + Σ_k size_k sin(2π k beat + phase_k), in degrees.

    mean: ``[J, 3]``, about z, x and y.
    size, phase: ``[2, J, 3]``, the phase in turns.
    tempo: beats per second.
    speed: forward velocity in metres per second.
    """

    mean: Tensor
    size: Tensor
    phase: Tensor
    tempo: float
    speed: float


def _style(action: str, generator: torch.Generator) -> _Style:
    joints = len(SKELETON.names)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    walks = action == "walk"
    mean, size, phase = torch.zeros(joints, 3), torch.zeros(2, joints, 3), draw(2, joints, 3)
    size[0], size[1] = 12, 5
    size[:, [*KNEES, *ELBOWS], 1:] = 0  # knees and elbows turn about one axis
    mean[SHOULDERS, 1] = torch.tensor([-30.0, 30.0])  # the arms hang away from the body
    size *= draw(2, joints, 3) * (0.3 if walks else 1.0)
    size[0, HIPS, 0], size[0, SHOULDERS, 0] = 25, 20 if walks else 40
    size[0, KNEES, 0], mean[KNEES, 0] = 25, -30
    size[0, ELBOWS, 0], mean[ELBOWS, 0] = 20, 35
    phase[0, [4, 5, 6], 0] = phase[0, 3, 0] + torch.tensor([0.3, 0.5, 0.5])
    phase[0, 7:11, 0] = phase[0, 3:7, 0] + 0.5  # left and right alternate
    tempo, speed = 0.7 + 0.6 * float(draw(1)), 1.1 if walks else 0.4 * float(draw(1))
    return _Style(mean, size, phase, tempo, speed)


def _clip(style: _Style, generator: torch.Generator) -> Motion:
    """A clip of `SECONDS` with its own tempo, size, phase, turn and small harmonics."""
    tempo, size, start, turn = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    time = torch.arange(round(SECONDS / FRAME_TIME), dtype=torch.float64) * FRAME_TIME
    beat = start + style.tempo * (0.8 + 0.4 * tempo) * time
    harmonics = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)
    waves = (2 * pi * (harmonics * beat[:, None, None] + style.phase.unsqueeze(1))).sin()
    angles = style.mean + (0.8 + 0.4 * size) * (style.size.unsqueeze(1) * waves).sum(0)
    angles[:, 0, 2] += 60 * (turn - 0.5) * time  # a slow turn about the vertical axis
    rotations = euler_matrices(angles[:, :, [2, 0, 1]].numpy(), "yzx")
    forward = rotations[:, 0, :, 0] * [1, 0, 1]
    path = style.speed * FRAME_TIME * forward.cumsum(0)
    path[:, 1] = 0.86 + 0.02 * (4 * pi * beat).sin().numpy()
    return Motion(SKELETON, rotations, path, FRAME_TIME)
