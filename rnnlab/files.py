"""Atomic file operations: a file is either complete or absent."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of ``path`` when the context ends well, and vanishes otherwise.

    A crash at any moment leaves the old file or the new one, never a part.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if (
            isinstance(error, OSError) and error.errno and not error.filename
        ):  # of a full disk the system does not say which file
            error.filename = str(path)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself must outlive a power cut
    finally:
        os.close(folder)


def new_folder(path: Path) -> Path:
    """Make a folder that was not there: ``path``, or ``path-2`` and so on where something has that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder, number = path, 1
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = path.with_name(f"{path.name}-{number}")


def remove_leftovers(folder: Path, names: str) -> None:
    """Delete the unfinished files that `replacing` left in ``folder`` when its process was killed.

    Args:
        folder: the folder itself is searched, not those below it.
        names: a regular expression for the names of the finished files.
    """
    unfinished = re.compile(rf"\.(?:{names})\.[a-z0-9_]+{re.escape(_UNFINISHED)}")
    for entry in list(folder.iterdir()):
        if unfinished.fullmatch(entry.name) and entry.is_file():
            entry.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, whole or not at all."""
    with replacing(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Put ``value`` at ``path`` as JSON; infinities and NaN become null, as JSON has no such numbers."""
    write_bytes(path, (to_json(value, indent=2) + "\n").encode())


def to_json(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON text; infinities and NaN become null."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value


_UNFINISHED = ".unfinished"

# mkstemp makes files that only their owner can read; results are as readable as any file the user makes.
_UMASK = os.umask(0)
os.umask(_UMASK)
