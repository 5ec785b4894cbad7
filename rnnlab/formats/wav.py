"""WAV files."""

from __future__ import annotations

import io
import wave

import numpy as np


def encode(samples: np.ndarray, rate: int) -> bytes:
    """A WAV file with one channel of 16 bits.

    Args:
        samples: float ``[N]`` from -1 to 1; values outside are clipped.
        rate: sampling rate in Hz.
    """
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    return buffer.getvalue()
