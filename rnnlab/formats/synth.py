"""A simple synthesiser: piano rolls as sound."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from rnnlab.formats.midi import notes

_LOWEST = 27.5
"""Frequency of the lowest key of a piano, A0, in Hz."""
_HARMONICS = 8
_ATTACK, _RELEASE = 0.005, 0.15
"""Duration in seconds in which a note reaches its full volume, and in which it fades after its end."""


def render(roll: np.ndarray, frame_seconds: float, rate: int) -> np.ndarray:
    """The sound of a piano roll: float32 ``[N]`` from -1 to 1, with `_RELEASE` after the last frame.

    A note is a sum of harmonics in equal temperament, with A4 at 440 Hz. The h-th harmonic has the amplitude 1/h² and
    decays as exp(-h t), for t in seconds; harmonics above half the sampling rate are left out. If notes together exceed
    the range, the whole sound is quieter.

    Args:
        roll: bool ``[T, keys]``; the first key is A0.
        frame_seconds: duration of a frame.
        rate: sampling rate in Hz.
    """
    sound = np.zeros(round((len(roll) * frame_seconds + _RELEASE) * rate), np.float32)
    for key, played in groupby(sorted(notes(roll), key=lambda note: note.key), key=lambda note: note.key):
        spans = [(round(note.start * frame_seconds * rate), note.end - note.start) for note in played]
        longest = max(frames for _, frames in spans) * frame_seconds + _RELEASE
        time = np.arange(round(longest * rate)) / rate
        tone = _tone(_LOWEST * 2 ** (key / 12), time, rate) * np.minimum(time / _ATTACK, 1)
        for first, frames in spans:
            held = frames * frame_seconds
            size = min(round((held + _RELEASE) * rate), len(sound) - first)
            sound[first : first + size] += tone[:size] * np.clip(1 - (time[:size] - held) / _RELEASE, 0, 1)
    return sound / max(1.0, float(np.abs(sound).max(initial=0)))


def _tone(frequency: float, time: np.ndarray, rate: int) -> np.ndarray:
    """A decaying note: the sum over h of ``0.2 exp(-h t) sin(2π h f t) / h²``, evaluated as a complex polynomial."""
    count = min(_HARMONICS, int(rate / 2 / frequency))
    coefficients = [1 / h**2 for h in range(count, 0, -1)]
    return 0.2 * np.polyval([*coefficients, 0], np.exp((2j * np.pi * frequency - 1) * time)).imag
