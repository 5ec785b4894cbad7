"""Piano rolls as files, and MIDI files as piano rolls."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rnnlab.formats import audio, midi, synth
from rnnlab.interface import InputError, Sample
from rnnlab.report.piano_roll import piano_roll

RATE = 16_000
"""Sampling rate of sound in Hz."""


class Grid(NamedTuple):
    """The length of a frame: ``frames_per_quarter`` frames in a quarter note, ``tempo`` quarter notes per minute."""

    frames_per_quarter: int
    tempo: float

    @property
    def frame_seconds(self) -> float:
        """Duration of a frame in seconds."""
        return 60 / self.tempo / self.frames_per_quarter


def samples(roll: Tensor, given: int, grid: Grid, *, complete: bool) -> list[Sample]:
    """A piano roll as MIDI, WAV and PNG.

    Args:
        roll: bool ``[T, 88]``.
        given: number of frames from a prompt, which MIDI and PNG mark.
        grid: length of a frame.
        complete: whether a missing package is an error; otherwise, the file that needs it is left out.

    Raises:
        InputError: a package is not installed, and ``complete`` is true.
    """
    frames = roll.numpy()
    makers = {
        ".mid": lambda: midi.encode(frames, given=given, **grid._asdict()),
        ".wav": lambda: audio.encode(synth.render(frames, grid.frame_seconds, RATE), RATE),
        ".png": lambda: piano_roll(frames, given),
    }
    found = []
    for suffix, make in makers.items():
        try:
            found.append(Sample(make(), suffix))
        except InputError:
            if complete:
                raise
    return found


def read_midi(path: str, grid: Grid) -> Tensor:
    """The frames of a MIDI file, bool ``[T, 88]``.

    Raises:
        InputError: there is no such file, or it cannot be read; see `rnnlab.formats.midi.decode`.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"prompt={path!r} is not a file; give a MIDI file, or a piece such as test:3")
    return torch.from_numpy(midi.decode(file.read_bytes(), str(file), frames_per_quarter=grid.frames_per_quarter))
