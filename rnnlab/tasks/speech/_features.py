"""Log-mel features of a recording, and SpecAugment."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rnnlab.interface import InputError

RATE = 8000
"""Samples per second."""
WINDOW, HOP = 256, 128
"""Length of a frame and distance between frames: 32 ms and 16 ms. A frame has exactly two hops, see `DigitStrings`."""
MELS = 40
FLOOR = 1e-3
"""Energy that is added to each mel band before the logarithm: 66 dB below a sine of amplitude 1."""
SHARE = 0.2
"""Largest part of a sequence that a mask of times covers."""


@cache
def mel_filters() -> Tensor:
    """The weights of the triangular mel filters, ``[WINDOW / 2 + 1, MELS]``.

    The corners of the triangles are equally spaced from 0 Hz to half the rate on the mel scale of O'Shaughnessy, which
    HTK uses too: mel(f) = 2595 log10(1 + f / 700). The height of each triangle is 1.
    """
    highest = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, MELS + 2) / 2595) - 1)
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (frequencies - left) / (centre - left), (right - frequencies) / (right - centre)
    return torch.from_numpy(np.minimum(rising, falling).clip(0)).float()


def log_mel(samples: Tensor) -> Tensor:
    """The logarithm of the energies in `MELS` mel bands of each frame.

    Frame k is the power spectrum of the samples ``[k HOP, k HOP + WINDOW)`` under a periodic Hann window; samples after
    the last full frame are not used.

    Args:
        samples: float ``[..., N]`` at `RATE`, N at least `WINDOW`.

    Returns:
        float ``[..., N // HOP - 1, MELS]``.
    """
    spectrum = torch.stft(samples, WINDOW, HOP, window=torch.hann_window(WINDOW), center=False, return_complex=True)
    return (spectrum.abs().square().transpose(-1, -2) @ mel_filters() + FLOOR).log()


class SpecAugment(NamedTuple):
    """Random masks over features (Park et al., 2019, arXiv:1904.08779, section 2), without time warping.

    A mask of frequencies covers f bands from band f0, with f uniform in [0, frequency_width] and f0 uniform among the
    possible ones; a mask of times likewise covers at most ``time_width`` frames, and at most `SHARE` of a sequence.
    """

    frequency_masks: int
    frequency_width: int
    time_masks: int
    time_width: int

    def check(self) -> None:
        """Raise an InputError if an option is not possible."""
        for name, value in self._asdict().items():
            if value < 0:
                raise InputError(f"task.{name}={value} must be at least 0")
        if self.frequency_width > MELS:
            raise InputError(f"task.frequency_width={self.frequency_width} must be at most {MELS}, the number of bands")

    def __call__(self, features: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
        """Replace the features under the masks by 0, the mean of normalised features.

        Args:
            features: ``[T, B, MELS]``.
            lengths: number of frames of each sequence, int64 ``[B]``.
            generator: random number generator.
        """
        bands = torch.full_like(lengths, features.shape[-1])
        longest = (lengths * SHARE).long().clamp_max(self.time_width)
        rows = _masks(self.time_masks, longest, lengths, len(features), generator)
        width = torch.full_like(lengths, self.frequency_width)
        columns = _masks(self.frequency_masks, width, bands, features.shape[-1], generator)
        return features.masked_fill(rows.T.unsqueeze(-1) | columns, 0.0)


def _masks(count: int, widths: Tensor, sizes: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The union of ``count`` random intervals for each sequence, bool ``[B, size]``.

    Args:
        count: number of intervals.
        widths: largest width of an interval, int64 ``[B]``.
        sizes: end of the range of each sequence, int64 ``[B]``.
        size: number of places.
        generator: random number generator.
    """
    drawn, where = torch.rand(2, count, len(sizes), 1, generator=generator)
    width = (drawn * (widths + 1).unsqueeze(-1)).long()
    start = (where * (sizes.unsqueeze(-1) - width + 1)).long()
    places = torch.arange(size)
    return ((places >= start) & (places < start + width)).any(0)
