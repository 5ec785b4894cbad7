"""Read IDX files, the format of MNIST: big-endian sizes, then the bytes of an array."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rnnlab.interface import InputError


def read(path: Path, axes: int) -> Tensor:
    """The array of unsigned bytes in an IDX file: uint8, with the given number of ``axes``.

    The format is documented at http://yann.lecun.com/exdb/mnist: two zero bytes, the type 8, the number of axes, one
    big-endian 32-bit size per axis, then the array in row-major order. A file with the suffix ``.gz`` is decompressed
    in memory.

    Raises:
        InputError: the file cannot be read, is truncated, or has another type or number of axes.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *sizes = struct.unpack_from(f">{axes + 1}I", content)
        array = np.frombuffer(content, np.uint8, offset=4 * (axes + 1)).reshape(sizes)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); delete it and download it again") from error
    if magic != 0x800 + axes:
        raise InputError(f"{path} is not an IDX file of bytes with {axes} axes; delete it and download it again")
    return torch.from_numpy(array.copy())
