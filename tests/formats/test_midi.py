"""MIDI, sound and pictures of piano rolls: round trips, a reader of MIDI by hand, and damaged files."""

import io
import struct
import sys

import mido
import numpy as np
import pytest

from rnnlab.formats import midi, synth
from rnnlab.interface import InputError
from rnnlab.report.piano_roll import piano_roll


def roll_of(notes, frames):
    roll = np.zeros((frames, 88), bool)
    for start, end, key in notes:
        roll[start:end, key] = True
    return roll


def random_roll(seed, frames, share=0.1):
    roll = np.random.default_rng(seed).random((frames, 88)) < share
    roll[0, 5] = True
    return roll


def written(*tracks, kind=1, division=480):
    """A MIDI file from the bytes of the events of its tracks."""
    chunks = [struct.pack(">4sIHHH", b"MThd", 6, kind, len(tracks), division & 0xFFFF)]
    return b"".join(chunks + [struct.pack(">4sI", b"MTrk", len(track)) + track for track in tracks])


END = b"\x00\xff\x2f\x00"
HALF = b"\x81\x70"  # 240 ticks as a number of variable length


@pytest.mark.parametrize(("frames", "share"), [(1, 0.5), (2, 0.5), (17, 0.1), (200, 0.6), (200, 0)])
def test_the_notes_are_those_of_a_walk_along_each_key(frames, share):
    roll = random_roll(frames, frames, share)
    expected = []
    for key in range(88):
        held = None
        for time in range(frames + 1):
            sounds = time < frames and roll[time, key]
            if sounds and held is None:
                held = time
            if not sounds and held is not None:
                expected.append((held, time, key))
                held = None
    assert midi.notes(roll) == sorted(expected)


@pytest.mark.parametrize(("frames", "frames_per_quarter"), [(1, 1), (9, 3), (9, 64), (200, 4)])
def test_a_piano_roll_survives_a_file(frames, frames_per_quarter):
    roll = random_roll(frames, frames)
    content = midi.encode(roll, frames_per_quarter=frames_per_quarter, tempo=90, given=frames // 2)
    assert np.array_equal(midi.decode(content, "x.mid", frames_per_quarter=frames_per_quarter), roll)


def test_a_file_says_when_each_note_sounds_and_what_was_given():
    """Times in seconds and the marker, as mido plays them."""
    roll = roll_of([(0, 3, 39), (3, 4, 40), (1, 4, 51), (5, 6, 39)], 7)
    file = mido.MidiFile(file=io.BytesIO(midi.encode(roll, frames_per_quarter=4, tempo=75, given=3)))
    now, heard, marks = 0.0, [], []
    for message in file:
        now += message.time
        if message.type in ("note_on", "note_off"):
            heard.append((round(now, 4), message.type, message.note))
        elif message.type == "marker":
            marks.append((round(now, 4), message.text))
    frame = 60 / 75 / 4
    expected = [(0, "on", 60), (1, "on", 72), (3, "off", 60), (3, "on", 61), (4, "off", 72), (4, "off", 61)]
    expected += [(5, "on", 60), (6, "off", 60)]
    assert heard == [(round(time * frame, 4), f"note_{kind}", note) for time, kind, note in expected]
    assert marks == [(round(3 * frame, 4), "continuation")]
    assert now == pytest.approx(7 * frame)
    assert "continuation" not in str(mido.MidiFile(file=io.BytesIO(midi.encode(roll, frames_per_quarter=4, tempo=75))))


def test_a_file_written_by_hand_is_read():
    """Running status, velocity 0, two tracks, percussion, a note that is never released, times between frames."""
    one = b"\x00\x90\x3c\x40" + HALF + b"\x3c\x00" + b"\x0a\x3e\x40" + HALF + b"\x3e\x00" + END
    two = b"\x00\x99\x24\x40" + b"\x14\x91\x48\x40" + b"\x83\x60\xff\x2f\x00"  # 480 ticks to the end of the track
    roll = midi.decode(written(one, two), "x.mid", frames_per_quarter=2)
    assert np.array_equal(roll, roll_of([(0, 1, 60 - 21), (1, 2, 62 - 21), (0, 2, 72 - 21)], 2))


def test_a_short_note_lasts_a_frame_and_a_repeated_one_is_held():
    short = b"\x00\x90\x3c\x40\x01\x80\x3c\x00" + END
    assert np.array_equal(midi.decode(written(short), "x", frames_per_quarter=1), roll_of([(0, 1, 39)], 1))
    again = b"\x00\x90\x3c\x40\x83\x60\x3c\x40\x83\x60\x3c\x00" + END
    assert np.array_equal(midi.decode(written(again), "x", frames_per_quarter=1), roll_of([(0, 2, 39)], 2))


NOTE = b"\x00\x90\x3c\x40\x83\x60\x80\x3c\x00"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an intact MIDI file"),
        (b"RIFF and so on, no MIDI at all", "not an intact MIDI file"),
        (b"\x89PNG\r\n\x1a\n" * 20, "not an intact MIDI file"),
        (written(END), "no notes"),
        (written(b"\x00\x99\x24\x40\x83\x60\x24\x00" + END), "no notes"),
        (written(b"\x00\x90\x14\x40\x83\x60\x14\x00" + END), "note 20; .* 21 to 108"),
        (written(b"\x00\x90\x6d\x40\x83\x60\x6d\x00" + END), "note 109; .* 21 to 108"),
        (written(NOTE + b"\xff\xff\xff\x7f\xff\x2f\x00"), "559242 frames; at most 100000"),
        (written(NOTE + END, kind=2), "independent tracks"),
        (written(NOTE + END, division=-25 << 8 | 40), "no beats"),
        (written(NOTE + END, division=0), "no beats"),
        (written(b"\x00\x90\xbc\x40" + END), "not an intact MIDI file"),
    ],
)
def test_a_file_that_is_no_music_is_refused_in_a_sentence(content, says):
    with pytest.raises(InputError, match=says) as error:
        midi.decode(content, "song.mid", frames_per_quarter=1)
    assert str(error.value).startswith("song.mid ")
    assert "\n" not in str(error.value)


def test_no_damage_leads_to_another_error():
    content = midi.encode(random_roll(0, 6), frames_per_quarter=2, tempo=100)
    random = np.random.default_rng(1)
    damaged = [content[:size] for size in range(0, len(content), 7)]
    for _ in range(100):
        copy = bytearray(content)
        copy[random.integers(len(copy))] = random.integers(256)
        damaged.append(bytes(copy))
    refused = 0
    for one in damaged:
        try:
            midi.decode(one, "x", frames_per_quarter=2)
        except InputError:
            refused += 1
    assert refused > len(content) // 7


def test_without_mido_an_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mido", None)
    with pytest.raises(InputError, match=r"mido, which is not installed; pip install 'rnnlab\[media\]'"):
        midi.encode(random_roll(0, 2), frames_per_quarter=1, tempo=60)


def test_the_sound_is_the_sum_of_the_documented_harmonics():
    """Sample by sample; the highest key has one harmonic below half the rate."""
    roll, seconds, rate = roll_of([(0, 2, 39), (1, 2, 48), (3, 4, 39), (2, 4, 87)], 4), 0.11, 8000
    expected = np.zeros(round((4 * seconds + 0.15) * rate))
    for start, end, key in [(0, 2, 39), (1, 2, 48), (3, 4, 39), (2, 4, 87)]:
        held, frequency = (end - start) * seconds, 440 * 2 ** ((key - 48) / 12)
        for sample in range(round((held + 0.15) * rate)):
            t = sample / rate
            volume = min(t / 0.005, 1) * min(max(1 - (t - held) / 0.15, 0), 1)
            place = round(start * seconds * rate) + sample
            if place < len(expected):
                expected[place] += (
                    0.2
                    * volume
                    * sum(
                        np.exp(-h * t) * np.sin(2 * np.pi * h * frequency * t) / h**2
                        for h in range(1, 9)
                        if h * frequency <= rate / 2
                    )
                )
    sound = synth.render(roll, seconds, rate)
    assert sound.dtype == np.float32
    assert np.abs(expected).max() < 1
    np.testing.assert_allclose(sound, expected, atol=2e-6)


@pytest.mark.parametrize("key", [0, 27, 48, 87])
def test_a_note_sounds_at_its_pitch(key):
    """The strongest frequency of the spectrum is that of equal temperament, A4 = 440 Hz."""
    sound = synth.render(roll_of([(0, 4, key)], 4), 0.5, 16000)
    spectrum = np.abs(np.fft.rfft(sound, 1 << 17))
    assert spectrum.argmax() * 16000 / (1 << 17) == pytest.approx(440 * 2 ** ((key - 48) / 12), abs=0.4)


def test_sound_stays_in_range_and_silence_is_silent():
    assert np.abs(synth.render(np.ones((2, 88), bool), 0.1, 8000)).max() == 1
    silence = synth.render(np.zeros((200, 88), bool), 0.05, 8000)
    assert len(silence) == 8000 * 10.15
    assert not silence.any()


@pytest.mark.parametrize(("frames", "given"), [(3, 0), (200, 2)])
def test_a_picture_shows_given_and_generated_notes_in_two_colours(frames, given):
    from PIL import Image

    content = piano_roll(roll_of([(0, 2, 30), (2, 3, 40)], frames), given)
    colours = {pixel for _, pixel in Image.open(io.BytesIO(content)).convert("RGB").getcolors(1 << 20)}
    assert ((0, 0x72, 0xB2) in colours) == bool(given)
    assert (0xD5, 0x5E, 0) in colours


def test_a_picture_of_silence_and_a_missing_package(monkeypatch):
    assert piano_roll(np.zeros((5, 88), bool)).startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"rnnlab\[plots\]"):
        piano_roll(np.zeros((5, 88), bool))
