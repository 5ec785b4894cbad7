"""Pictures of drawings: SVG and PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rnnlab.formats.svg import BLACK, GREY, Line, grid, svg
from rnnlab.interface import Sample

_SIDE = 100
"""Side of the cell of a drawing, in pixels."""
_FINE = 3
"""Factor by which a PNG is drawn larger, then reduced."""


def pictures(drawings: Sequence[np.ndarray], given: int = 0) -> list[Sample]:
    """Pictures of some drawings: an SVG, and a PNG if Pillow is installed.

    Args:
        drawings: ``[N, 3]`` each: offsets and states of the pen.
        given: number of points at the start of each drawing that are grey, since the model did not draw them.
    """
    columns = min(8, len(drawings))
    size = _SIDE * columns, _SIDE * -(-len(drawings) // columns)
    placed = grid([lines(drawing, given) for drawing in drawings], columns, _SIDE)
    found = {".svg": svg(placed, *size), ".png": _png(placed, *size)}
    return [Sample(content, suffix) for suffix, content in found.items() if content is not None]


def lines(drawing: np.ndarray, given: int = 0) -> list[Line]:
    """The strokes of a drawing ``[N, 3]``, of which the first ``given`` points are grey; the start is at the origin."""
    places = np.concatenate([np.zeros((1, 2)), drawing[:, :2].cumsum(0)])
    ends = np.flatnonzero(np.concatenate([[0], drawing[:, 2]])).tolist()
    bounds = sorted({0, *(end + 1 for end in ends), len(places)})
    found = []
    for start, stop in pairwise(bounds):
        if start < given + 1 < stop and given:  # part of this stroke is given
            found += [Line(places[start : given + 1], GREY), Line(places[given:stop])]
        else:
            found.append(Line(places[start:stop], GREY if given and stop <= given + 1 else BLACK))
    return found


def _png(placed: Sequence[Line], width: int, height: int) -> bytes | None:
    try:
        from PIL import Image, ImageDraw
    except ModuleNotFoundError:
        return None
    picture = Image.new("RGB", (_FINE * width, _FINE * height), "white")
    canvas, radius = ImageDraw.Draw(picture), 1.25 * _FINE
    for line in placed:
        points = line.points * _FINE
        canvas.line([tuple(point) for point in points.tolist()], line.colour, round(2 * radius), joint="curve")
        for x, y in points[[0, -1]].tolist():
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), line.colour)
    buffer = io.BytesIO()
    picture.resize((width, height), Image.Resampling.BOX).convert("L").quantize(16).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
