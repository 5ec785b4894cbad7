"""Sound files: read any format of libsndfile as mono, resample, and write 16-bit WAV."""

from __future__ import annotations

import io
import struct
import wave
from math import gcd
from pathlib import Path

import numpy as np

from rnnlab.interface import InputError

RATES = 1_000, 384_000
"""Lowest and highest rate of a sound that can be read, in Hz."""


def read(source: str | Path | bytes, name: str = "the sound") -> tuple[np.ndarray, int]:
    """Read a sound and average its channels.

    Args:
        source: path of a file, or the content of a file. WAV with integers of 8 to 32 bits or floats, FLAC, OGG and the
            other formats of libsndfile are possible.
        name: name of the sound in error messages if ``source`` is the content.

    Returns:
        the samples, float32 ``[N]`` in [-1, 1], and their rate in Hz. A sound with larger samples, which a float file
        may have, is scaled to a largest magnitude of 1.

    Raises:
        InputError: the file does not exist, is no sound, is truncated, has no samples, samples that are not finite
            or a rate outside `RATES`; or soundfile is not installed.
    """
    try:
        import soundfile
    except ModuleNotFoundError:
        raise InputError("sound files need soundfile, which is not installed; pip install 'rnnlab[media]'") from None
    if not isinstance(source, bytes):
        path = Path(source).expanduser()
        if not path.is_file():
            raise InputError(f"{path} is not a file; give the path of a sound file, such as recording.wav")
        name, source = str(path), path.read_bytes()
    if not source:
        raise InputError(f"{name} is empty; give a WAV or FLAC file")
    if missing := _missing(source):
        raise InputError(f"{name} is truncated: {missing:,} bytes of its samples are missing; give an intact file")
    try:
        samples, rate = soundfile.read(io.BytesIO(source), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, ValueError, TypeError) as error:
        reason = getattr(error, "error_string", error)  # the text of the error names the object in memory
        raise InputError(f"{name} cannot be read as a sound ({reason}); give a WAV or FLAC file") from error
    if not len(samples):
        raise InputError(f"{name} has no samples; give a sound that is not empty")
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(f"{name} has a rate of {rate:,} Hz; give a sound with {RATES[0]:,} to {RATES[1]:,} Hz")
    samples = samples.mean(1)
    if not np.isfinite(samples).all():
        raise InputError(f"{name} has samples that are not finite; replace them, or give another file")
    return samples / max(1.0, float(np.abs(samples).max())), rate


def _missing(content: bytes) -> int:
    """The number of bytes that a WAV file announces but does not have; libsndfile would read such a file silently."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return 0
    place = 12
    while place + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, place)
        if kind == b"data":
            return max(0, place + 8 + size - len(content))
        place += 8 + size + size % 2
    return 0


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Change the rate of samples ``[N]`` by polyphase filtering: float32 ``[ceil(N * new_rate / rate)]``."""
    if rate == new_rate:
        return samples
    from scipy.signal import resample_poly  # takes a second to import

    common = gcd(rate, new_rate)
    return resample_poly(samples, new_rate // common, rate // common).astype(np.float32)


def encode(samples: np.ndarray, rate: int) -> bytes:
    """A WAV file with integers of 16 bits.

    Args:
        samples: ``[N]``, or ``[N, channels]``, in [-1, 1]; larger values are clipped.
        rate: samples per second.
    """
    values = np.clip(np.rint(np.asarray(samples, np.float64) * 32768), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1 if values.ndim == 1 else values.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(values.tobytes())
    return buffer.getvalue()
