"""MIDI files of piano rolls, written and read with mido."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rnnlab.interface import InputError

LOWEST, KEYS = 21, 88
"""MIDI number of the lowest key of a piano, A0, and the number of keys."""
LONGEST = 100_000
"""Largest number of frames of a file that `decode` reads."""
_FRAME = 120
"""Ticks of a frame in a written file."""
_DRUMS = 9
"""Channel of percussion, counted from 0; its notes are not pitches."""


class Note(NamedTuple):
    """A key that is held from frame ``start`` to frame ``end``, which is not included; keys count from 0."""

    start: int
    end: int
    key: int


def notes(roll: np.ndarray) -> list[Note]:
    """The notes of a piano roll, sorted. A key that sounds in consecutive frames is one held note.

    Args:
        roll: bool ``[T, keys]``.
    """
    edges = np.diff(np.pad(roll.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    found = []
    for key in range(roll.shape[1]):
        starts, ends = (np.flatnonzero(edges[:, key] == sign).tolist() for sign in (1, -1))
        found += [Note(start, end, key) for start, end in zip(starts, ends, strict=True)]
    return sorted(found)


def encode(roll: np.ndarray, *, frames_per_quarter: int, tempo: float, given: int = 0) -> bytes:
    """A MIDI file of a piano roll; see `notes`.

    Args:
        roll: bool ``[T, 88]``.
        frames_per_quarter: number of frames of a quarter note.
        tempo: quarter notes per minute.
        given: number of frames from a prompt; a marker named "continuation" follows them. 0: no marker.

    Raises:
        InputError: mido is not installed.
    """
    mido = _mido()
    events = [(0, -1, mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo)))]
    if given:
        events.append((given * _FRAME, 0, mido.MetaMessage("marker", text="continuation")))
    for start, end, key in notes(roll):
        events.append((start * _FRAME, 2, mido.Message("note_on", note=LOWEST + key, velocity=80)))
        events.append((end * _FRAME, 1, mido.Message("note_off", note=LOWEST + key)))  # before a new note of this key
    events.append((len(roll) * _FRAME, 3, mido.MetaMessage("end_of_track")))
    track, now = mido.MidiTrack(), 0
    for time, _, message in sorted(events, key=lambda one: one[:2]):
        track.append(message.copy(time=time - now))
        now = time
    buffer = io.BytesIO()
    mido.MidiFile(type=0, ticks_per_beat=_FRAME * frames_per_quarter, tracks=[track]).save(file=buffer)
    return buffer.getvalue()


def decode(content: bytes, name: str, *, frames_per_quarter: int) -> np.ndarray:
    """The piano roll of all tracks of a MIDI file, bool ``[T, 88]``, without percussion.

    Notes begin and end at the nearest frame, and last at least one frame. The tempo does not matter: a frame is a
    fraction of a quarter note. A file does not end before its last event, so it may end with silence.

    Args:
        content: content of the file.
        name: name of the file, for errors.
        frames_per_quarter: number of frames of a quarter note.

    Raises:
        InputError: mido is not installed, or the content is not a MIDI file, is damaged, has no notes, has notes
            outside the 88 keys, or has more than `LONGEST` frames.
    """
    mido = _mido()
    try:
        file = mido.MidiFile(file=io.BytesIO(content))
    except Exception as error:  # mido raises errors of many types on damaged files
        raise InputError(f"{name} is not an intact MIDI file ({error!r}); give a .mid file") from error
    if file.type == 2 or not 0 < file.ticks_per_beat < 0x8000:
        raise InputError(f"{name} has independent tracks or no beats; give a MIDI file of type 0 or 1 with beats")
    frame = file.ticks_per_beat / frames_per_quarter
    ticks = max((sum(message.time for message in track) for track in file.tracks), default=0)
    if ticks / frame > LONGEST:
        raise InputError(f"{name} has {ticks / frame:.0f} frames; at most {LONGEST} are possible, give a shorter file")
    found = [note for track in file.tracks for note in _sounding(track, frame)]
    if not found:
        raise InputError(f"{name} has no notes other than percussion; give a MIDI file with notes")
    outside = [note.key for note in found if not LOWEST <= note.key < LOWEST + KEYS]
    if outside:
        raise InputError(
            f"{name} has the note {outside[0]}; the keys of a piano are the notes {LOWEST} to {LOWEST + KEYS - 1}, "
            "transpose the file"
        )
    roll = np.zeros((max(int(ticks / frame + 0.5), *(note.end for note in found)), KEYS), bool)
    for start, end, key in found:
        roll[start:end, key - LOWEST] = True
    return roll


def _sounding(track: Any, frame: float) -> Iterator[Note]:
    """The notes of a track, with MIDI numbers as keys; a note that is never released ends with the track."""
    begun: dict[tuple[int, int], int] = {}
    now = 0

    def ended(channel: int, key: int) -> Note:
        start = int(begun.pop((channel, key)) / frame + 0.5)
        return Note(start, max(start + 1, int(now / frame + 0.5)), key)

    for message in track:
        now += message.time
        if message.type not in ("note_on", "note_off") or message.channel == _DRUMS:
            continue
        if (message.channel, message.note) in begun:
            yield ended(message.channel, message.note)
        if message.type == "note_on" and message.velocity:
            begun[message.channel, message.note] = now
    for channel, key in list(begun):
        yield ended(channel, key)


def _mido() -> Any:
    try:
        import mido
    except ModuleNotFoundError:
        raise InputError("MIDI files need mido, which is not installed; pip install 'rnnlab[media]'") from None
    return mido
