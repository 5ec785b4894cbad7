"""Anti-aliased drawings of coloured shapes, and the random numbers that they are drawn from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 90, 230),
    "yellow": (235, 210, 50),
    "purple": (160, 60, 190),
    "white": (240, 240, 240),
}
KINDS = ("circle", "square", "triangle", "cross")
TINT = 15
"""Largest random difference of a colour's red, green and blue, out of 255."""
DARKEST, LIGHTEST = 0, 60
"""Grey levels of the background."""


class Dice:
    """Random choices from a row of random integers.

    Args:
        row: random integers below 2**31.
    """

    def __init__(self, row: list[int]) -> None:
        self._row = iter(row)

    def below(self, count: int) -> int:
        """A random integer in ``[0, count)``."""
        return next(self._row) % count

    def between(self, low: float, high: float) -> float:
        """A random multiple of 0.5 from ``low`` to ``high``."""
        return low + 0.5 * self.below(int(2 * (high - low) + 1e-6) + 1)


def throws(generator: torch.Generator, columns: int) -> Iterator[Dice]:
    """An endless sequence of independent `Dice`, each with ``columns`` random integers."""
    while True:
        for row in torch.randint(2**31, (64, columns), generator=generator).tolist():
            yield Dice(row)


def split_of(key: str) -> str:
    """The split of a text: a tenth of all texts are in ``valid``, a tenth in ``test``, as SHA-256 decides."""
    return {0: "test", 1: "valid"}.get(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 10, "train")


def coverage(kind: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
    """The part of each pixel that a shape covers, from 0 to 1.

    Args:
        kind: one of `KINDS`.
        x: position of the pixels relative to the centre of the shape, to the right.
        y: the same, down.
        radius: radius in pixels.
    """
    a, b = np.abs(x), np.abs(y)
    if kind == "circle":
        distance = np.hypot(x, y) - radius
    elif kind == "square":
        distance = np.maximum(a, b) - 0.85 * radius
    elif kind == "triangle":  # the corners are (0, -r), (0.95 r, 0.7 r) and (-0.95 r, 0.7 r)
        distance = np.maximum(y - 0.7 * radius, (1.7 * a - 0.95 * (y + radius)) / np.hypot(1.7, 0.95))
    else:
        bar, beam = np.maximum(a - radius, b - 0.33 * radius), np.maximum(b - radius, a - 0.33 * radius)
        distance = np.minimum(bar, beam)
    return np.clip(0.5 - distance, 0, 1)


def paint(
    canvas: np.ndarray,
    kind: str,
    colour: tuple[int, ...],
    x: np.ndarray | float,
    y: np.ndarray | float,
    radius: np.ndarray | float,
) -> None:
    """Paint a shape on each frame of a canvas.

    Args:
        canvas: float ``[S, 3, H, W]`` from 0 to 255.
        kind: one of `KINDS`.
        colour: red, green and blue.
        x: the centre in pixels from the left; a number, or ``[S]``.
        y: the centre in pixels from the top; a number, or ``[S]``.
        radius: the radius in pixels; a number, or ``[S]``.
    """
    frames, _, height, width = canvas.shape
    x, y, radius = (np.broadcast_to(np.asarray(one, float), frames).reshape(-1, 1, 1) for one in (x, y, radius))
    rows, columns = np.arange(height).reshape(1, -1, 1) + 0.5, np.arange(width).reshape(1, 1, -1) + 0.5
    part = coverage(kind, columns - x, rows - y, radius)[:, None]
    canvas += part * (np.array(colour, float).reshape(1, 3, 1, 1) - canvas)


def tinted(colour: str, dice: Dice) -> tuple[int, ...]:
    """A random variation of a colour."""
    return tuple(min(255, max(0, part + dice.below(2 * TINT + 1) - TINT)) for part in COLOURS[colour])


def blank(frames: int, side: int, dice: Dice) -> np.ndarray:
    """Frames with a random grey background, float ``[S, 3, side, side]``."""
    return np.full((frames, 3, side, side), DARKEST + dice.below(LIGHTEST - DARKEST + 1), float)


def finished(canvas: np.ndarray) -> torch.Tensor:
    """A canvas as uint8."""
    return torch.from_numpy(np.rint(canvas).astype(np.uint8))
