"""Recordings of single digits: the Free Spoken Digit Dataset, and generated dial tones."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from rnnlab.data import files_in
from rnnlab.formats import audio
from rnnlab.interface import InputError
from rnnlab.tasks.base import EVALUATION_SEED
from rnnlab.tasks.speech._features import RATE, WINDOW

FOLDER = "free-spoken-digit-dataset"
ADDRESS = "https://github.com/Jakobovski/free-spoken-digit-dataset"
_NAME = re.compile(r"([0-9])_([^_/]+)_([0-9]+)\.wav")


class Recording(NamedTuple):
    """A recording of one digit.

    digit: 0 to 9.
    speaker: name of the speaker.
    index: number among the recordings of the digit by the speaker.
    samples: float32 ``[N]`` at `RATE`, see `levelled`.
    """

    digit: int
    speaker: str
    index: int
    samples: np.ndarray


def levelled(samples: np.ndarray, rate: int, name: str) -> np.ndarray:
    """Samples at `RATE` with a largest magnitude of 1.

    Args:
        samples: ``[N]``.
        rate: rate of the samples in Hz.
        name: name of the recording in error messages.

    Raises:
        InputError: the recording is shorter than one frame, or silent.
    """
    found = audio.resample(samples, rate, RATE)
    if len(found) < WINDOW:
        raise InputError(
            f"{name} lasts {1000 * len(found) / RATE:.0f} ms; give a recording of at least {1000 * WINDOW // RATE} ms"
        )
    peak = float(np.abs(found).max())
    if peak == 0:
        raise InputError(f"{name} is silent: all samples are 0; give a recording with speech")
    return found / peak


def fsdd(root: str) -> list[Recording]:
    """All recordings of the Free Spoken Digit Dataset, sorted by digit, speaker and index.

    Args:
        root: directory of the public data sets. It contains ``free-spoken-digit-dataset/`` with ``recordings/``, or
            with the archive ``free-spoken-digit-dataset.tar.gz``, which is read without unpacking.

    Raises:
        InputError: there are no recordings, or a file cannot be read.
    """
    home = Path(root).expanduser() / FOLDER
    archive = home / f"{FOLDER}.tar.gz"
    if (home / "recordings").is_dir():
        files: Iterator[tuple[str, bytes]] = ((str(path), path.read_bytes()) for path in home.glob("recordings/*.wav"))
    elif archive.is_file():
        files = _members(archive)
    else:
        raise InputError(
            f"{home} has neither recordings/ nor {archive.name}; run git clone {ADDRESS} {home}, or set data.root to "
            f"the folder that contains {FOLDER}/"
        )
    found = []
    for name, content in files:
        match = _NAME.fullmatch(PurePosixPath(name).name)
        if match is None:
            raise InputError(f"{name} is not named DIGIT_SPEAKER_INDEX.wav; rename or remove it")
        samples = levelled(*audio.read(content, name), name)
        found.append(Recording(int(match[1]), match[2], int(match[3]), samples))
    if not found:
        raise InputError(f"{home} has no file recordings/DIGIT_SPEAKER_INDEX.wav; run git clone {ADDRESS} {home}")
    return sorted(found, key=lambda one: one[:3])


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """The name and the content of each file ``recordings/*.wav`` of an archive."""
    try:
        content = gzip.decompress(archive.read_bytes())  # checks the whole archive, which tarfile does not
        with tarfile.open(fileobj=io.BytesIO(content)) as opened:
            for path, recording in files_in(opened, str(archive), "download it again"):
                if path.suffix == ".wav" and path.parent.name == "recordings":
                    yield f"{archive}: {path}", recording
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{archive} cannot be read ({error}); delete it and run git clone {ADDRESS}") from error


KEYS = ("0123456789", (941, 697, 697, 697, 770, 770, 770, 852, 852, 852), (1336, *3 * (1209, 1336, 1477)))
"""The digits, and the lower and higher frequency of each on a telephone, in Hz (ITU-T Q.23)."""
SPEAKERS = {"low": 0.98, "middle": 1.0, "high": 1.02}
"""Factors on the frequencies of the tones."""
PER_DIGIT = 30


@cache
def tones() -> list[Recording]:
    """Generated dial tones: two frequencies for each digit, of random length and level, in noise.

    Each of three lines, the ``speakers``, has `PER_DIGIT` recordings of each digit.
    """
    random = np.random.default_rng(EVALUATION_SEED)
    found = []
    for digit, low, high in zip(*KEYS, strict=True):
        for speaker, factor in SPEAKERS.items():
            for index in range(PER_DIGIT):
                time = np.arange(random.integers(800, 2400)) / RATE
                phases, levels = random.uniform(0, 2 * np.pi, 2), random.uniform(0.3, 1, 2)
                waves = [np.sin(2 * np.pi * factor * f * time + p) for f, p in zip((low, high), phases, strict=True)]
                noise = random.uniform(0.02, 0.3) * random.standard_normal(len(time))
                samples = (levels @ np.stack(waves) + noise).astype(np.float32)
                found.append(Recording(int(digit), speaker, index, levelled(samples, RATE, "a tone")))
    return sorted(found, key=lambda one: one[:3])
