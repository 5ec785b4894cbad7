"""Pictures and videos with captions, and the attention weights of each word on top of them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from rnnlab.report.attention import png
from rnnlab.report.figures import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TILE, _LINE, _GAP = 0.8, 0.16, 0.06
"""Height of a picture, height of a line of text, and distances, in inches."""
_SCALE = 4
"""Size of a pixel in an animation."""
_LINES, _BETWEEN = 2, 96
"""Width in pixels, and shade of grey, of the lines of a grid."""


def overlays(
    pictures: list[np.ndarray], weights: list[np.ndarray | None], words: list[list[str]], titles: list[str]
) -> bytes | None:
    """A PNG with a row for each picture: the picture, then the attention weights at each word on top of it.

    A region is yellow where the weight is the largest of the word, and dark where it is 0.

    Args:
        pictures: uint8 ``[H, W, 3]`` each, all of one size.
        weights: the weights ``[T, h, w]`` over a grid of each picture; None without attention.
        words: the T words of each caption.
        titles: the text above each row, of one or two lines.

    Returns:
        None if matplotlib is not installed.
    """
    high, wide = pictures[0].shape[:2]
    width = _TILE * wide / high
    row = _TILE + 3 * _LINE + 2 * _GAP
    columns = 1 + max(len(one) for one in words)
    sheet = _Sheet.create(max(4.0, _GAP + columns * (width + _GAP)), _GAP + len(pictures) * row)
    if sheet is None:
        return None
    for number, (picture, looked, said, title) in enumerate(zip(pictures, weights, words, titles, strict=True)):
        top = sheet.height - number * row - 2 * _LINE - 2 * _GAP
        sheet.write(_GAP, top + _GAP / 2, title, INK, "bottom")
        sheet.show(_GAP, top - _TILE, width, _TILE, picture)
        for place, word in enumerate(said if looked is not None else []):
            left = _GAP + (1 + place) * (width + _GAP)
            sheet.show(left, top - _TILE, width, _TILE, _lit(picture, looked[place]))
            sheet.write(left, top - _TILE - _GAP / 2, word, MUTED, "top")
    return sheet.png()


def filmstrip(frames: np.ndarray, weights: np.ndarray | None, words: list[str], title: str) -> bytes | None:
    """A PNG with the frames of a video in a row, and below them the attention weight of each frame at each word.

    Args:
        frames: uint8 ``[S, H, W, 3]``.
        weights: ``[T, S]``; black is the largest weight of the word. None without attention.
        words: the T words of the caption.
        title: the text above the frames, of one or two lines.

    Returns:
        None if matplotlib is not installed.
    """
    left, side = 0.9, 0.55
    below = 0.0 if weights is None else _LINE * len(words)
    sheet = _Sheet.create(left + side * len(frames) + _GAP, below + side + 2 * _LINE + 4 * _GAP)
    if sheet is None:
        return None
    sheet.write(_GAP, below + side + 3 * _GAP, title, INK, "bottom")
    for place, frame in enumerate(frames):
        sheet.show(left + place * side + 0.02, below + 2 * _GAP, side - 0.04, side, frame)
    if weights is not None:
        grey = 255 - 255 * weights / np.maximum(weights.max(1, keepdims=True), 1e-12)
        sheet.show(left, _GAP, side * len(frames), below, np.repeat(grey[..., None], 3, -1).astype(np.uint8))
        for place, word in enumerate(words):
            sheet.write(_GAP, _GAP + below - (place + 0.5) * _LINE, word, MUTED, "center")
    return sheet.png()


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


def _lit(picture: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A picture in shades of grey, under the weights ``[h, w]`` of its regions in colour: uint8 ``[H, W, 3]``."""
    from matplotlib import colormaps

    high, wide = picture.shape[:2]
    rows, columns = (np.arange(size) * cells // size for size, cells in zip((high, wide), weights.shape, strict=True))
    spread = weights[rows][:, columns] / max(float(weights.max()), 1e-12)
    return (0.5 * picture.mean(-1, keepdims=True) + 127 * colormaps["inferno"](spread)[..., :3]).astype(np.uint8)


def grid(pictures: np.ndarray, columns: int, scale: int) -> np.ndarray:
    """Grey images in a grid, row by row, with grey lines between them: uint8 ``[height, width]``.

    Args:
        pictures: uint8 ``[N, H, W]``.
        columns: number of images per row.
        scale: height and width of a pixel of an image.
    """
    count, high, wide = pictures.shape
    rows = -(-count // columns)
    tiles = np.full((rows * columns, high * scale + _LINES, wide * scale + _LINES), _BETWEEN, np.uint8)
    tiles[:count, _LINES:, _LINES:] = pictures.repeat(scale, 1).repeat(scale, 2)
    sheet = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2).reshape(-1, columns * tiles.shape[2])
    return np.pad(sheet, ((0, _LINES), (0, _LINES)), constant_values=_BETWEEN)


class _Sheet:
    """A figure on white, with pictures and text at positions in inches from the lower left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    @classmethod
    def create(cls, width: float, height: float, dots: int = 110) -> _Sheet | None:
        """An empty sheet; None if matplotlib is not installed."""
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            return None
        return cls(Figure(figsize=(width, height), dpi=dots), width, height)

    def show(self, x: float, y: float, width: float, height: float, picture: np.ndarray) -> None:
        """Place a picture ``[H, W, 3]``, without axes: they would take most of the time of drawing."""
        dots = self.figure.dpi
        size = max(1, round(height * dots)), max(1, round(width * dots))
        rows, columns = (np.arange(n) * cells // n for n, cells in zip(size, picture.shape, strict=False))
        self.figure.figimage(picture[rows][:, columns], round(x * dots), round(y * dots))

    def write(self, x: float, y: float, text: str, colour: str, aligned: str) -> None:
        """Text whose left end is at ``x``."""
        self.figure.text(x / self.width, y / self.height, text, color=colour, fontsize=7, va=aligned)

    def png(self) -> bytes:
        """The sheet as PNG."""
        return png(self.figure, dpi=self.figure.dpi)
