"""Handwritten digits that are generated: curves with random slant, size and jitter."""

from __future__ import annotations

import numpy as np

SPACING = 0.14
"""Distance between the points of a stroke, in heights of a digit."""

# The strokes of the digits 0 to 9: points x y of a smooth curve in a square of side 100, x to the right and y down. A
# point that is given twice is a corner.
_STROKES = (
    ("55 0  20 15  10 50  25 90  50 100  80 85  90 50  80 12  50 0",),
    ("25 25  55 0  55 0  55 50  55 100",),
    ("10 25  30 2  70 3  85 30  60 60  10 100  10 100  50 100  95 100",),
    ("10 10  50 0  80 20  65 42  40 48  40 48  80 60  85 85  50 100  8 90",),
    ("55 0  30 35  5 68  5 68  50 68  95 68", "70 35  68 70  65 100"),
    ("25 5  20 45  20 45  55 38  88 65  65 97  10 93", "25 5  55 4  85 3"),
    ("75 0  35 25  12 70  35 99  75 92  80 65  50 52  18 70",),
    ("10 5  50 4  90 3  90 3  60 50  40 100", "30 52  55 50  80 48"),
    ("80 15  50 0  20 20  50 48  85 78  50 100  15 78  50 48  80 15",),
    ("82 20  50 0  18 20  30 50  65 48  82 20  82 20  80 60  70 100",),
)
_SHAPES = [[np.array(stroke.split(), float).reshape(-1, 2) / 100 for stroke in strokes] for strokes in _STROKES]


def digits(count: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Drawings of random digits.

    Args:
        count: number of drawings.
        generator: the only source of randomness.

    Returns:
        int32 ``[N, 3]`` each: offset to the right, offset down, and 1 if the pen is lifted after the point. The first
        row is the start, (0, 0, 0). A digit is 80 to 150 units high.
    """
    return [_digit(_SHAPES[generator.integers(10)], generator) for _ in range(count)]


def _digit(shape: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    height, slant = generator.uniform(80, 150), generator.normal(0, 0.2)
    width, turn = height * generator.uniform(0.55, 0.9), generator.normal(0, 0.06)
    # A point (x, y) of the square is at x (width, 0) + y (-slant height, height), turned.
    axes = np.array([[width, 0], [-slant * height, height]])
    axes = axes @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points, lifted = [], []
    for corners in shape:
        moved = corners + generator.normal(0, 0.025, corners.shape)
        same = (corners[1:] == corners[:-1]).all(1)
        moved[1:][same] = moved[:-1][same]  # a corner stays one point
        curve = spaced(_smooth(moved), SPACING * generator.uniform(0.8, 1.2))
        points.append(curve @ axes)
        lifted += [0] * (len(curve) - 1) + [1]
    places = np.rint(np.concatenate(points)).astype(np.int32)
    offsets = np.diff(places, axis=0, prepend=places[:1])
    return np.column_stack([offsets, np.array(lifted, np.int32)])


def _smooth(points: np.ndarray, parts: int = 8) -> np.ndarray:
    """The Catmull-Rom spline through ``points [N, 2]``, with ``parts`` pieces between two points."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    before, start, end, after = (padded[k : len(padded) - 3 + k, None] for k in range(4))
    t = np.arange(parts)[:, None] / parts
    curve = start + 0.5 * t * (
        end - before + t * (2 * before - 5 * start + 4 * end - after + t * (3 * (start - end) + after - before))
    )
    return np.concatenate([curve.reshape(-1, 2), points[-1:]])


def spaced(curve: np.ndarray, spacing: float) -> np.ndarray:
    """Points ``[M, 2]`` on a polyline, both ends included, at equal distances along it of about ``spacing``."""
    lengths = np.concatenate([[0.0], np.hypot(*np.diff(curve, axis=0).T).cumsum()])
    wanted = np.linspace(0, lengths[-1], max(2, round(lengths[-1] / spacing) + 1))
    return np.column_stack([np.interp(wanted, lengths, axis) for axis in curve.T])
