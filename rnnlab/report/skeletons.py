"""Animations of a figure made of bones."""

from __future__ import annotations

import io

import numpy as np

from rnnlab.report.figures import INK, MUTED

_HEIGHT, _WIDEST, _BORDER = 200, 640, 12
"""Height of an animation, its largest width, and its border, in pixels."""
_COLOURS = ("white", "#d0d0d0", MUTED, INK)
_WHITE, _PATH, _GIVEN, _DRAWN = range(len(_COLOURS))
"""Places of the colours in the palette."""
_TURN, _TILT = np.radians(30), np.radians(12)
"""Direction of view: about the vertical axis, and from above."""


def figure_animation(points: np.ndarray, bones: list[tuple[int, int]], seed: int, frame_time: float) -> bytes | None:
    """An animated GIF of a figure and its path on the floor; the camera stands still. None if Pillow is not installed.

    Args:
        points: positions ``[N, P, 3]``, y up, in any unit; point 0 is the root.
        bones: pairs of indices of points.
        seed: number of frames at the start that are drawn in grey.
        frame_time: seconds of a frame, rounded to hundredths.
    """
    try:
        from PIL import Image, ImageColor, ImageDraw
    except ModuleNotFoundError:
        return None
    floor = points[:, 0] * [1, 0, 1] + [0, points[..., 1].min(), 0]
    flat = _projected(np.concatenate([points, floor[:, None]], 1))
    low, high = flat.min((0, 1)), flat.max((0, 1))
    inside = np.array([_WIDEST, _HEIGHT]) - 2 * _BORDER
    scale = (inside / np.maximum(high - low, 1e-9)).min()
    width = max(_HEIGHT, round(scale * (high - low)[0]) + 2 * _BORDER)
    flat = (flat - (low + high) / 2) * scale + [width / 2, _HEIGHT / 2]
    palette = [part for colour in _COLOURS for part in ImageColor.getrgb(colour)]
    frames = []
    for number, figure in enumerate(flat):
        canvas = Image.new("P", (width, _HEIGHT), _WHITE)
        canvas.putpalette(palette)
        pen = ImageDraw.Draw(canvas)
        pen.line([tuple(point) for point in flat[: number + 1, -1]], fill=_PATH, width=2)
        for start, end in bones:
            pen.line([tuple(figure[start]), tuple(figure[end])], fill=_GIVEN if number < seed else _DRAWN, width=3)
        frames.append(canvas)
    buffer = io.BytesIO()
    timing = {"duration": round(100 * frame_time) * 10, "loop": 0}
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], optimize=False, **timing)
    return buffer.getvalue()


def _projected(points: np.ndarray) -> np.ndarray:
    """Positions ``[..., 3]`` in parallel projection: right and down, ``[..., 2]``."""
    x, y, z = np.moveaxis(points, -1, 0)
    right, near = np.cos(_TURN) * x + np.sin(_TURN) * z, np.cos(_TURN) * z - np.sin(_TURN) * x
    return np.stack([right, np.sin(_TILT) * near - np.cos(_TILT) * y], -1)
