"""Clips of motion at 25 frames per second, and the parts of them that are in each split."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rnnlab.formats.skeleton import Motion
from rnnlab.interface import InputError

FRAME_TIME = 0.04
"""Seconds of a frame."""


class Part(NamedTuple):
    """A part of a clip that belongs to one split.

    clip: name of the clip.
    split: ``train``, ``valid`` or ``test``; ``unseen`` for an action that is in no other split.
    action: what the figure does.
    start, end: the part, as fractions of the frames of the clip.
    """

    clip: str
    split: str
    action: str
    start: float = 0.0
    end: float = 1.0


class Corpus(NamedTuple):
    """Clips with one skeleton.

    clips: the motion of each clip by name, all with `FRAME_TIME`.
    parts: the parts of the clips in each split; at most one part of a clip is in a split.
    """

    clips: dict[str, Motion]
    parts: tuple[Part, ...]

    def frames(self, part: Part) -> range:
        """The frames of a part within its clip."""
        count = len(self.clips[part.clip].positions)
        return range(round(part.start * count), round(part.end * count))

    def with_mirror_images(self) -> Corpus:
        """The corpus with a mirror image of each training clip, for training; see `mirrored`."""
        trained = [part for part in self.parts if part.split == "train"]
        images = {f"{part.clip} mirrored": mirrored(self.clips[part.clip]) for part in trained}
        parts = (part._replace(clip=f"{part.clip} mirrored") for part in trained)
        return Corpus({**self.clips, **images}, (*self.parts, *parts))

    def tested_on(self, split: str) -> Corpus:
        """The corpus with ``split``, ``test`` or ``unseen``, as its test set, and without the other one.

        Raises:
            InputError: the split is empty.
        """
        if not any(part.split == split for part in self.parts):
            raise InputError("task.held_out=actions: this corpus has no actions for the test only; use held_out=clips")
        kept = [part for part in self.parts if part.split in ("train", "valid", split)]
        return Corpus(self.clips, tuple(part._replace(split=part.split.replace("unseen", "test")) for part in kept))


def mirrored(motion: Motion) -> Motion:
    """The mirror image: left and right are exchanged.

    The joints of a pair have names that differ in their start only, such as left_knee and right_knee, or lfoot and
    rfoot. The axis of reflection is the one along which pairs are farthest apart in the rest pose.

    Raises:
        InputError: no two joints have such names.
    """
    skeleton = motion.skeleton
    partner = [_partner(name, skeleton.names) for name in skeleton.names]
    apart = np.abs(skeleton.offsets - skeleton.offsets[partner]).sum(0)
    if not apart.any():
        raise InputError("task.mirror=true: no joints have names such as left_knee and right_knee; use mirror=false")
    sign = np.ones(3)
    sign[apart.argmax()] = -1
    rotations = sign[:, None] * motion.rotations[:, partner] * sign
    return Motion(skeleton, rotations, motion.positions * sign, motion.frame_time)


def _partner(name: str, names: tuple[str, ...]) -> int:
    """The index of the joint on the other side; that of the joint itself if there is none."""
    for here, there in (("left", "right"), ("right", "left"), ("l", "r"), ("r", "l")):
        if name.lower().startswith(here):
            for other, candidate in enumerate(names):
                if candidate.lower() == there + name.lower().removeprefix(here):
                    return other
    return names.index(name)
