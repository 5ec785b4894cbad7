"""Write PNG files of grey images."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def encode(picture: np.ndarray) -> bytes:
    """The PNG file of a grey image, uint8 ``[height, width]`` (ISO/IEC 15948, colour type 0, no filter).

    Pillow and matplotlib are not needed, so that samples of images never depend on an optional package.
    """
    height, width = picture.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = np.pad(picture, ((0, 0), (1, 0)))  # each row begins with its filter: 0, none
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
