"""Write drawings as SVG: polylines on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BLACK, GREY = "#1b1f24", "#9aa4ae"


class Line(NamedTuple):
    """A polyline: its points ``[N, 2]``, x to the right and y down, and its colour. One point is a dot."""

    points: np.ndarray
    colour: str = BLACK


def grid(drawings: Sequence[Sequence[Line]], columns: int, side: float = 100) -> list[Line]:
    """Move drawings to the cells of a grid, row by row.

    A drawing is centred in its cell and fits into it. A drawing that is smaller than the median keeps its size relative
    to the median drawing.

    Args:
        drawings: the lines of each drawing, in any unit.
        columns: number of cells per row.
        side: side of a cell.

    Returns:
        the lines of all drawings, in units of the picture.
    """
    boxes = [np.concatenate([line.points for line in lines]) if lines else np.zeros((1, 2)) for lines in drawings]
    extents = np.array([np.ptp(box, axis=0).max() for box in boxes])
    factors = 0.8 * side / np.maximum(np.maximum(extents, np.median(extents)), 1e-9)
    placed = []
    for number, (lines, box, factor) in enumerate(zip(drawings, boxes, factors, strict=True)):
        row, column = divmod(number, columns)
        cell = np.array([column + 0.5, row + 0.5]) * side
        middle = (box.min(0) + box.max(0)) / 2
        placed += [Line((line.points - middle) * factor + cell, line.colour) for line in lines]
    return placed


def svg(lines: Sequence[Line], width: float, height: float, thickness: float = 2.5) -> str:
    """An SVG file of lines on white.

    Args:
        lines: lines in units of the picture.
        width: width of the picture.
        height: height of the picture.
        thickness: thickness of the lines.
    """
    paths = [f'<path stroke="{line.colour}" d="{_path(line.points)}"/>' for line in lines]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<g fill="none" stroke-width="{thickness:g}" stroke-linecap="round" stroke-linejoin="round">',
            *paths,
            "</g>",
            "</svg>",
        ]
    )


def _path(points: np.ndarray) -> str:
    """The path of a polyline; the round ends of a line of no length make a dot."""
    texts = [f"{x:.1f} {y:.1f}" for x, y in points.tolist()]
    return f"M{texts[0]}L{' '.join(texts[1:] or texts)}"
