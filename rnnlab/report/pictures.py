"""Pictures and videos with captions, and the attention weights of each word on top of them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rnnlab.report.attention import png
from rnnlab.report.figures import INK, MUTED

if TYPE_CHECKING:
    import numpy as np

_TILE, _TEXT, _GAP = 0.8, 0.42, 0.06
"""Sides of a picture, height of two lines of text, and distances, in inches."""
_SCALE = 4
"""Size of a pixel in an animation."""


def overlays(
    pictures: list[np.ndarray], weights: list[np.ndarray | None], words: list[list[str]], titles: list[str]
) -> bytes | None:
    """A PNG with a row for each picture: the picture, then the attention weights at each word on top of it.

    Args:
        pictures: uint8 ``[H, W, 3]`` each.
        weights: the weights ``[T, h, w]`` over a grid of each picture; None without attention.
        words: the T words of each caption.
        titles: the text above each row.

    Returns:
        None if matplotlib is not installed.
    """
    ratio = pictures[0].shape[1] / pictures[0].shape[0]
    width, columns = _TILE * max(1.0, ratio) + _GAP, 1 + max(map(len, words))
    tall = width / ratio if ratio > 1 else _TILE
    row = tall + 0.18 + _TEXT + _GAP
    made = _figure(max(3.0, columns * width + _GAP), len(pictures) * row + _GAP)
    if made is None:
        return None
    for number, (picture, looked, said, title) in enumerate(zip(pictures, weights, words, titles, strict=True)):
        bottom = (len(pictures) - 1 - number) * row + 0.18 + _GAP
        made.write(_GAP, bottom + tall + _GAP, title, INK, "bottom")
        made.axes(_GAP, bottom, width - _GAP, tall).imshow(picture)
        for place, word in enumerate(said if looked is not None else []):
            left = _GAP + (1 + place) * width
            axes = made.axes(left, bottom, width - _GAP, tall)
            extent = (0, picture.shape[1], picture.shape[0], 0)
            axes.imshow(picture, extent=extent)
            axes.imshow(looked[place], extent=extent, cmap="inferno", alpha=0.65, vmin=0, interpolation="bilinear")
            made.write(left, bottom - 0.03, word, MUTED, "top")
    return png(made.figure)


def filmstrip(frames: np.ndarray, weights: np.ndarray | None, words: list[str], title: str) -> bytes | None:
    """A PNG with the frames of a video in a row, and below them the attention weight of each frame at each word.

    Args:
        frames: uint8 ``[S, H, W, 3]``.
        weights: ``[T, S]``; None without attention.
        words: the T words of the caption.
        title: the text above the frames.

    Returns:
        None if matplotlib is not installed.
    """
    left, side = 0.9, 0.55
    below = 0.0 if weights is None else 0.2 * len(words)
    made = _figure(left + side * len(frames) + _GAP, below + side + _TEXT + 4 * _GAP)
    if made is None:
        return None
    made.write(_GAP, below + side + 3 * _GAP, title, INK, "bottom")
    for place, frame in enumerate(frames):
        made.axes(left + place * side + 0.02, below + 2 * _GAP, side - 0.04, side).imshow(frame)
    if weights is not None:
        made.axes(left, _GAP, side * len(frames), below).imshow(weights, cmap="Greys", vmin=0, aspect="auto")
        for place, word in enumerate(words):
            made.write(_GAP, _GAP + below * (1 - (place + 0.5) / len(words)), word, MUTED, "center")
    return png(made.figure)


def animation(videos: list[np.ndarray], titles: list[str]) -> bytes | None:
    """An animated GIF with one video per row, and its title to the right; None if Pillow is not installed.

    Args:
        videos: uint8 ``[S, H, W, 3]`` each; a shorter one stays at its last frame.
        titles: the text of each video.
    """
    try:
        from PIL import Image, ImageDraw
    except ModuleNotFoundError:
        return None
    height, width = (_SCALE * size for size in videos[0].shape[1:3])
    beside = 20 + 7 * max(len(line) for title in titles for line in title.split("\n"))
    frames = []
    for time in range(max(map(len, videos))):
        canvas = Image.new("RGB", (width + beside, len(videos) * (height + 4)), "white")
        for row, (video, title) in enumerate(zip(videos, titles, strict=True)):
            frame = Image.fromarray(video[min(time, len(video) - 1)])
            canvas.paste(frame.resize((width, height), Image.Resampling.NEAREST), (0, row * (height + 4)))
            ImageDraw.Draw(canvas).text((width + 8, row * (height + 4) + height // 3), title, fill=INK)
        frames.append(canvas)
    buffer = io.BytesIO()
    times = [200] * (len(frames) - 1) + [1000]  # in milliseconds
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return buffer.getvalue()


class _Sheet:
    """A figure on white, with axes and text at positions in inches from the lower left corner."""

    def __init__(self, figure: object, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def axes(self, x: float, y: float, width: float, height: float) -> object:
        """Axes without ticks."""
        across, up = self.width, self.height
        made = self.figure.add_axes((x / across, y / up, width / across, height / up))
        made.set_axis_off()
        return made

    def write(self, x: float, y: float, text: str, colour: str, aligned: str) -> None:
        """Text whose left end is at ``x``."""
        self.figure.text(x / self.width, y / self.height, text, color=colour, fontsize=7, va=aligned)


def _figure(width: float, height: float) -> _Sheet | None:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    return _Sheet(Figure(figsize=(width, height)), width, height)
