"""Generated videos of a coloured shape that moves, grows or shrinks, each with a caption that the video determines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from rnnlab.tasks.captions._drawing import COLOURS, KINDS, Dice, blank, finished, paint, split_of, throws, tinted
from rnnlab.tasks.captions.base import Example

SIDE = 24
"""Height and width of a frame."""
SHORTEST, LONGEST = 8, 16
"""Number of frames of a video."""
ACTIONS = {  # changes per frame of x, y and radius, in pixels
    "left": (-1.0, 0.0, 0.0),
    "right": (1.0, 0.0, 0.0),
    "up": (0.0, -1.0, 0.0),
    "down": (0.0, 1.0, 0.0),
    "grows": (0.0, 0.0, 0.4),
    "shrinks": (0.0, 0.0, -0.4),
}
MOST = 3
"""Largest number of actions of a video."""
FEWEST_FRAMES = 3
"""Smallest number of frames in which an action changes the shape."""
_COLUMNS = 40


class Video(NamedTuple):
    """A shape and what it does.

    actions: names of the actions in order; no action follows itself.
    frames: number of frames of each action; one more frame shows the start.
    start: x, y and radius in the first frame.
    """

    colour: str
    kind: str
    actions: tuple[str, ...]
    frames: tuple[int, ...]
    start: tuple[float, float, float]

    @property
    def caption(self) -> str:
        """The shape and its actions, such as "a red circle moves left then up then grows"."""
        words, moving = [], False
        for action in self.actions:
            moves = action not in ("grows", "shrinks")
            words.append(f"moves {action}" if moves and not moving else action)
            moving = moves
        return f"a {self.colour} {self.kind} {' then '.join(words)}"

    @property
    def path(self) -> np.ndarray:
        """x, y and radius in each frame, ``[S, 3]``."""
        changes = [
            ACTIONS[action] for action, count in zip(self.actions, self.frames, strict=True) for _ in range(count)
        ]
        return np.cumsum([self.start, *changes], 0)


def video(dice: Dice) -> Video:
    """A random video, in which the shape stays inside the frames."""
    count = 1 + dice.below(MOST)
    actions: list[str] = []
    while len(actions) < count:
        possible = [name for name in ACTIONS if name not in actions[-1:]]
        actions.append(possible[dice.below(len(possible))])
    frames = [FEWEST_FRAMES] * count
    for _ in range(max(0, SHORTEST - 1 - sum(frames)) + dice.below(LONGEST - max(SHORTEST, 1 + sum(frames)) + 1)):
        frames[dice.below(count)] += 1
    colour, kind = list(COLOURS)[dice.below(len(COLOURS))], KINDS[dice.below(len(KINDS))]
    path = Video(colour, kind, tuple(actions), tuple(frames), (0.0, 0.0, 0.0)).path
    low, high = path.min(0), path.max(0)
    radius = dice.between(3.5 - low[2], 4.5 - low[2])
    largest = radius + high[2]
    x, y = (dice.between(largest - low[axis], SIDE - largest - high[axis]) for axis in (0, 1))
    return Video(colour, kind, tuple(actions), tuple(frames), (float(x), float(y), float(radius)))


def draw(video: Video, dice: Dice) -> torch.Tensor:
    """The frames, uint8 ``[S, 3, 24, 24]``; the dice vary the colours."""
    path = video.path
    canvas = blank(len(path), SIDE, dice)
    paint(canvas, video.kind, tinted(video.colour, dice), *path.T)
    return finished(canvas)


def examples(split: str, held_out: str, generator: torch.Generator) -> Iterator[Example]:
    """An endless sequence of random videos of a split; see `rnnlab.tasks.captions.base.HELD_OUT`."""
    for dice in throws(generator, _COLUMNS):
        found = video(dice)
        if split_of(found.caption if held_out == "captions" else str(tuple(found))) == split:
            yield Example(draw(found, dice), found.caption)
