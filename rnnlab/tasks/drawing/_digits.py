"""Handwritten digits that are generated: curves with random slant, size and jitter."""

from __future__ import annotations

import numpy as np

SPACING = 0.14
"""Distance between the points of a stroke, in heights of a digit."""

# The strokes of each digit: points of a smooth curve in a square, x to the right and y down. A point that is given
# twice is a corner.
_SHAPES: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "0": (((0.55, 0.0), (0.2, 0.15), (0.1, 0.5), (0.25, 0.9), (0.5, 1.0), (0.8, 0.85), (0.9, 0.5), (0.8, 0.12), (0.5, 0.0)),),
    "1": (((0.25, 0.25), (0.55, 0.0), (0.55, 0.0), (0.55, 0.5), (0.55, 1.0)),),
    "2": (((0.1, 0.25), (0.3, 0.02), (0.7, 0.03), (0.85, 0.3), (0.6, 0.6), (0.1, 1.0), (0.1, 1.0), (0.5, 1.0), (0.95, 1.0)),),
    "3": (((0.1, 0.1), (0.5, 0.0), (0.8, 0.2), (0.65, 0.42), (0.4, 0.48), (0.4, 0.48), (0.8, 0.6), (0.85, 0.85), (0.5, 1.0), (0.08, 0.9)),),
    "4": (((0.55, 0.0), (0.3, 0.35), (0.05, 0.68), (0.05, 0.68), (0.5, 0.68), (0.95, 0.68)), ((0.7, 0.35), (0.68, 0.7), (0.65, 1.0))),
    "5": (((0.25, 0.05), (0.2, 0.45), (0.2, 0.45), (0.55, 0.38), (0.88, 0.65), (0.65, 0.97), (0.1, 0.93)), ((0.25, 0.05), (0.55, 0.04), (0.85, 0.03))),
    "6": (((0.75, 0.0), (0.35, 0.25), (0.12, 0.7), (0.35, 0.99), (0.75, 0.92), (0.8, 0.65), (0.5, 0.52), (0.18, 0.7)),),
    "7": (((0.1, 0.05), (0.5, 0.04), (0.9, 0.03), (0.9, 0.03), (0.6, 0.5), (0.4, 1.0)), ((0.3, 0.52), (0.55, 0.5), (0.8, 0.48))),
    "8": (((0.8, 0.15), (0.5, 0.0), (0.2, 0.2), (0.5, 0.48), (0.85, 0.78), (0.5, 1.0), (0.15, 0.78), (0.5, 0.48), (0.8, 0.15)),),
    "9": (((0.82, 0.2), (0.5, 0.0), (0.18, 0.2), (0.3, 0.5), (0.65, 0.48), (0.82, 0.2), (0.82, 0.2), (0.8, 0.6), (0.7, 1.0)),),
}  # fmt: skip


def digits(count: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Drawings of random digits.

    Args:
        count: number of drawings.
        generator: the only source of randomness.

    Returns:
        int32 ``[N, 3]`` each: offset to the right, offset down, and 1 if the pen is lifted after the point. The first
        row is the start, (0, 0, 0). A digit is 80 to 150 units high.
    """
    return [_digit(_SHAPES[str(generator.integers(10))], generator) for _ in range(count)]


def _digit(shape: tuple, generator: np.random.Generator) -> np.ndarray:
    height, slant = generator.uniform(80, 150), generator.normal(0, 0.2)
    width, turn = height * generator.uniform(0.55, 0.9), generator.normal(0, 0.06)
    # A point (x, y) of the square is at x (width, 0) + y (-slant height, height), turned.
    axes = np.array([[width, 0], [-slant * height, height]])
    axes = axes @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points, lifted = [], []
    for stroke in shape:
        corners = np.array(stroke)
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
