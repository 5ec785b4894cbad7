"""Sound files: every encoding against its definition in bytes, resampling against sines, and files that are damaged."""

import io
import struct
import wave

import numpy as np
import pytest
import soundfile

from rnnlab.formats.audio import encode, read, resample
from rnnlab.interface import InputError

VALUES = np.array([0, 1, -1, 1000, -32768, 32767, 12345, -54], np.int64)


def pcm(width, values, rate=8000, channels=1):
    """A WAV file with integers of ``width`` bytes; those of one byte are unsigned."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        scaled = [int(v) << (8 * width - 16) if width > 1 else (int(v) >> 8) + 128 for v in values]
        file.writeframes(b"".join(v.to_bytes(width, "little", signed=width > 1) for v in scaled))
    return buffer.getvalue()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_integers_of_any_size(width):
    samples, rate = read(pcm(width, VALUES))
    expected = (VALUES >> 8) / 128 if width == 1 else VALUES / 32768
    assert rate == 8000
    assert samples.dtype == np.float32
    assert samples.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", [("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("FLAC", "PCM_16"), ("WAV", "PCM_24")])
def test_other_encodings(kind, tmp_path):
    path = tmp_path / "sound"
    wanted = np.sin(np.arange(300) / 9) / 2
    soundfile.write(path, wanted, 44100, format=kind[0], subtype=kind[1])
    samples, rate = read(path)
    assert rate == 44100
    np.testing.assert_allclose(samples, wanted, atol=2**-15)


def test_channels_are_averaged():
    samples, _ = read(pcm(2, [100, 300, -50, 50, 7, 9], channels=2))
    assert (samples * 32768).tolist() == [200, 0, 8]


def test_a_loud_float_file_is_scaled_down(tmp_path):
    soundfile.write(tmp_path / "loud.wav", np.array([0.5, -4.0, 2.0]), 8000, subtype="FLOAT")
    assert read(tmp_path / "loud.wav")[0].tolist() == [0.125, -1.0, 0.5]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"not a sound at all", "cannot be read as a sound"),
        (pcm(2, VALUES)[:20], "cannot be read as a sound"),
        (pcm(2, VALUES)[:-6], "truncated: 6 bytes"),
        (pcm(2, []), "has no samples"),
        (pcm(2, VALUES, rate=100), "rate of 100 Hz"),
        (pcm(2, VALUES, rate=2_000_000_000), "rate of 2,000,000,000 Hz"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(content, says):
    with pytest.raises(InputError, match=f"^digit.wav .*{says}") as raised:
        read(content, "digit.wav")
    assert "object at" not in str(raised.value)


def test_nan_and_missing_files_are_refused(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.array([0.5, np.nan]), 8000, subtype="FLOAT")
    with pytest.raises(InputError, match="not finite"):
        read(tmp_path / "nan.wav")
    with pytest.raises(InputError, match=r"missing\.wav is not a file"):
        read(tmp_path / "missing.wav")


@pytest.mark.parametrize("shape", [(200,), (64, 1), (50, 2)])
def test_encoding_is_16_bit_pcm(shape):
    samples = np.random.default_rng(0).uniform(-1, 1, shape)
    content = encode(samples, 22050)
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnframes()) == (22050, 2, shape[0])
        channels = file.getnchannels()
    values = struct.unpack(f"<{samples.size}h", content[44:])
    np.testing.assert_allclose(
        np.array(values).reshape(shape[0], channels), samples.reshape(shape[0], -1) * 32768, atol=1
    )
    np.testing.assert_allclose(read(content)[0], samples.reshape(shape[0], -1).mean(1), atol=2**-15)


def test_encoding_clips():
    assert struct.unpack("<3h", encode(np.array([2.0, -2.0, 1.0]), 8000)[44:]) == (32767, -32768, 32767)


@pytest.mark.parametrize(("rate", "new"), [(44100, 8000), (8000, 16000), (11025, 8000), (48000, 8000)])
def test_resampling_keeps_a_tone_and_removes_what_does_not_fit(rate, new):
    time = np.arange(rate // 8) / rate
    kept = resample(np.sin(2 * np.pi * 440 * time).astype(np.float32), rate, new)
    assert len(kept) == -(-len(time) * new // rate)
    expected = np.sin(2 * np.pi * 440 * np.arange(len(kept)) / new)
    np.testing.assert_allclose(kept[100:-100], expected[100:-100], atol=5e-3)
    if rate > 20000:
        gone = resample(np.sin(2 * np.pi * 7000 * time).astype(np.float32), rate, new)
        assert np.abs(gone[100:-100]).max() < 0.01


def test_the_same_rate_changes_nothing():
    samples = np.ones(5, np.float32)
    assert resample(samples, 8000, 8000) is samples
