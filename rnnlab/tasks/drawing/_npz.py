"""Read drawings in the stroke-3 format from the NPZ files of sketch-rnn, without executing their pickles."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
import zlib
from typing import Any

import numpy as np

from rnnlab.interface import InputError

LARGEST = 32_767
"""Largest offset of a pen."""
_MOST_BYTES = 1 << 30
"""Largest size of an array in a file, in bytes; a small archive can expand to any size."""
_TYPES = {code: np.dtype(code) for code in ("i1", "i2", "i4", "i8", "u1", "u2", "f4", "f8")}


def read(content: bytes, name: str) -> dict[str, list[np.ndarray]]:
    """The drawings of the members ``train``, ``valid`` and ``test`` of an NPZ file.

    Args:
        content: content of the file.
        name: name of the file, for errors.

    Returns:
        for each split the drawings, int32 ``[N, 3]`` each: offset to the right, offset down, and 1 if the pen is lifted
        after the point. The start of a drawing, a first row of zeros, is left out.

    Raises:
        InputError: the file is damaged, its pickles hold anything but arrays of numbers, or a drawing is not valid.
    """
    parts = {}
    for split in ("train", "valid", "test"):
        arrays = _member(content, f"{split}.npy", name)
        if not arrays:
            raise InputError(f"{name}: {split} has no drawings; give at least one")
        parts[split] = checked(arrays, f"{name}: {split}")
    return parts


def checked(drawings: list[np.ndarray], name: str) -> list[np.ndarray]:
    """Drawings ``[N, 3]`` as int32, without their start.

    Raises:
        InputError: a drawing has another shape, has no points, or a number is not valid.
    """
    for number, drawing in enumerate(drawings):
        if drawing.ndim != 2 or drawing.shape[1] != 3:
            raise InputError(
                f"{name} drawing {number} has the shape {list(drawing.shape)}; "
                "it must have 3 columns: dx, dy, pen lifted"
            )
    lengths = np.array([len(drawing) for drawing in drawings])
    points = np.concatenate(drawings)  # checking all at once is much faster than one by one
    rules = (
        (np.isfinite(points), "has NaN or infinite values; remove it or give finite offsets"),
        (np.abs(points, dtype=float) <= LARGEST, f"has an offset above {LARGEST}; divide all offsets by one factor"),
        (points == np.rint(points), "has offsets that are not integers; multiply all by one factor and round them"),
        (np.isin(points[:, 2:], (0, 1)), "has other pen states than 0 (down) and 1 (lifted); correct its third column"),
    )
    for kept, sentence in rules:
        if not kept.all():
            number = np.repeat(np.arange(len(drawings)), lengths)[~kept.all(1)][0]
            raise InputError(f"{name} drawing {number} {sentence}")
    bounds = lengths.cumsum()
    whole = points.astype(np.int32)
    starts = bounds - lengths
    starts = starts + [bool(length) and not whole[start].any() for start, length in zip(starts, lengths, strict=True)]
    if (starts >= bounds).any():
        raise InputError(f"{name} drawing {(starts >= bounds).argmax()} has no points; remove it")
    return [whole[start:end] for start, end in zip(starts.tolist(), bounds.tolist(), strict=True)]


class _Array:
    """A stand-in for a pickled array: it only stores the state."""

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def value(self) -> Any:
        """The array, or the list of values of an array of objects."""
        _, shape, kind, fortran, raw = self.state
        if kind.code in ("O", "O8"):
            return list(raw)
        content = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)  # Python 2 wrote bytes as text
        array = np.frombuffer(content, _TYPES[kind.code].newbyteorder(kind.order))
        return array.reshape(shape, order="F" if fortran else "C")


class _Type:
    """A stand-in for a pickled ``numpy.dtype``."""

    order = "="

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1].replace("|", "=")


class _Arrays(pickle.Unpickler):
    """Reads pickles of arrays; it replaces the constructors that they name and refuses all others.

    An ordinary unpickler calls whatever function a file names, so a file could run any program.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda *_: _Array()
        if (module, name) == ("numpy", "ndarray"):
            return _Array
        if (module, name) == ("numpy", "dtype"):
            return _Type
        raise _Refused(f"{module}.{name}")


class _Refused(Exception):
    """A pickle names a constructor that is not one of an array."""


def _member(content: bytes, member: str, name: str) -> list[np.ndarray]:
    """The arrays in a member of an NPZ file, which is a pickled array of arrays."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if member not in archive.namelist():
                raise InputError(f"{name} has no member {member}; it must have train.npy, valid.npy and test.npy")
            if (size := archive.getinfo(member).file_size) > _MOST_BYTES:
                raise InputError(f"{name}: {member} has {size} bytes, at most {_MOST_BYTES} are possible; give a part")
            file = io.BytesIO(archive.read(member))
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, kind = header[np.lib.format.read_magic(file)](file)
        if kind.kind != "O":
            raise InputError(f"{name}: {member} is an array of {kind}; it must be an array of one array per drawing")
        arrays = [array.value() for array in _Arrays(file, encoding="latin1").load().value()]
        if len(arrays) != math.prod(shape) or not all(isinstance(array, np.ndarray) for array in arrays):
            raise ValueError(f"it has {len(arrays)} arrays instead of {math.prod(shape)}")
    except InputError:
        raise
    except _Refused as error:
        raise InputError(
            f"{name}: {member} would call {error}; only arrays of numbers are allowed, so do not trust this file"
        ) from None
    except (zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{name} is not an intact NPZ file ({error}); download it again") from error
    except Exception as error:  # a damaged pickle raises almost any exception
        raise InputError(f"{name}: {member} cannot be read ({error}); download it again") from error
    return arrays
