"""Pictures of attention weights."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rnnlab.interface import InputError
from rnnlab.report.figures import figure

if TYPE_CHECKING:
    import numpy as np


def attention_map(weights: np.ndarray, read: list[str], written: list[str]) -> bytes | None:
    """A PNG of attention weights; None if matplotlib is not installed.

    Args:
        weights: weight of each position of the source at each step, ``[T, S]``.
        read: label of each position of the source.
        written: label of each step.
    """
    try:
        made, axes = figure(1.2 + 0.32 * len(read), 1.0 + 0.28 * len(written))
    except InputError:
        return None
    axes.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    axes.set_xticks(range(len(read)), read, rotation=90)
    axes.set_yticks(range(len(written)), written)
    axes.xaxis.tick_top()
    return png(made)


def png(made: object, dpi: int = 110) -> bytes:
    """A matplotlib figure as PNG."""
    import warnings

    buffer = io.BytesIO()
    with warnings.catch_warnings():  # the font may lack characters, such as Korean; they are drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing")
        made.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
