"""Picture of a piano roll."""

from __future__ import annotations

import numpy as np

from rnnlab.interface import InputError
from rnnlab.report.attention import png
from rnnlab.report.figures import GRID, MUTED, SERIES

_OCTAVE = 12
_FIRST_C = 3
"""Key of the lowest C of a piano, C1."""


def piano_roll(roll: np.ndarray, given: int = 0) -> bytes:
    """A PNG of a piano roll: time to the right, pitch upwards, one rectangle per held note.

    Args:
        roll: bool ``[T, 88]``.
        given: number of frames from a prompt; their notes have another colour, and a line separates them.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.colors import ListedColormap
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise InputError("pictures need matplotlib, which is not installed; pip install 'rnnlab[plots]'") from None
    used = np.flatnonzero(roll.any(0))
    low, high = (int(used[0]), int(used[-1])) if len(used) else (_FIRST_C, _FIRST_C + _OCTAVE)
    colours = roll * np.where(np.arange(len(roll)) < given, 1, 2)[:, None]
    figure = Figure(figsize=(min(12.0, max(4.0, len(roll) / 10)), 2.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(
        colours.T,
        ListedColormap(["white", SERIES[0], SERIES[1]]),
        vmin=0,
        vmax=2,
        aspect="auto",
        interpolation="nearest",
        origin="lower",
        extent=(0, len(roll), -0.5, roll.shape[1] - 0.5),
    )
    octaves = range(_FIRST_C, roll.shape[1], _OCTAVE)
    axes.set_yticks(octaves, [f"C{number + 1}" for number in range(len(octaves))])
    axes.set(xlabel="frame", ylim=(low - 2, high + 2))
    axes.grid(axis="x", color=GRID, linewidth=0.5)
    for key in octaves:
        axes.axhline(key - 0.5, color=GRID, linewidth=0.5)  # between B and C, where it crosses no note
    if given:
        axes.axvline(given, color=MUTED)
        axes.set_title("blue: given, orange: continuation", fontsize=8, color=MUTED)
    return png(figure)
