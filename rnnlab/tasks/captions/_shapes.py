"""Generated pictures of two or three coloured shapes, each with a caption that the picture determines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from rnnlab.tasks.captions._drawing import COLOURS, KINDS, Dice, blank, finished, paint, split_of, throws, tinted
from rnnlab.tasks.captions.base import Example

SIDE = 32
"""Height and width of a picture."""
RADII = {"small": 2.8, "large": 4.4}
"""Radius of a shape in pixels."""
_MARGIN, _GAP, _SHIFT = 5.0, 10.0, 3.0
_COLUMNS = 40


class Shape(NamedTuple):
    """A shape; ``along`` and ``across`` are its position on the axis of the scene and perpendicular to it."""

    size: str
    colour: str
    kind: str
    along: float
    across: float

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.kind}"


class Scene(NamedTuple):
    """Shapes from left to right, or from top to bottom if ``upright``."""

    upright: bool
    shapes: tuple[Shape, ...]

    @property
    def caption(self) -> str:
        """The description of the shapes in order."""
        *others, last = map(str, self.shapes)
        if len(others) == 1:
            return f"{others[0]} {'above' if self.upright else 'left of'} {last}"
        return f"{', '.join(others)} and {last} from {'top to bottom' if self.upright else 'left to right'}"


def scene(dice: Dice) -> Scene:
    """A random scene.

    Neighbours are at least 10 pixels apart on the axis, and at most 6 across, so that the axis is clear.
    """
    upright, count = bool(dice.below(2)), 2 + dice.below(2)
    slack = SIDE - 2 * _MARGIN - _GAP * (count - 1)
    offsets = sorted(dice.between(0, slack) for _ in range(count))
    across = dice.between(_MARGIN + _SHIFT, SIDE - _MARGIN - _SHIFT)
    shapes = []
    for place, offset in enumerate(offsets):
        size, colour, kind = (list(names)[dice.below(len(names))] for names in (RADII, COLOURS, KINDS))
        shift = dice.between(-_SHIFT, _SHIFT)
        shapes.append(Shape(size, colour, kind, _MARGIN + _GAP * place + offset, across + shift))
    return Scene(upright, tuple(shapes))


def draw(scene: Scene, dice: Dice) -> torch.Tensor:
    """The picture of a scene, uint8 ``[1, 3, 32, 32]``; the dice vary the colours."""
    canvas = blank(1, SIDE, dice)
    for shape in scene.shapes:
        x, y = (shape.across, shape.along) if scene.upright else (shape.along, shape.across)
        paint(canvas, shape.kind, tinted(shape.colour, dice), x, y, RADII[shape.size])
    return finished(canvas)


def examples(split: str, held_out: str, generator: torch.Generator) -> Iterator[Example]:
    """An endless sequence of random pictures of a split; see `rnnlab.tasks.captions.base.HELD_OUT`."""
    for dice in throws(generator, _COLUMNS):
        found = scene(dice)
        if split_of(found.caption if held_out == "captions" else str(tuple(found))) == split:
            yield Example(draw(found, dice), found.caption)
