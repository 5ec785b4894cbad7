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
    """A context manager that yields a temporary file, which replaces ``path`` if the context ends without an error.

    After an error, the temporary file is deleted. After a crash, ``path`` is either the complete old file or the
    complete new file.
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
        ):  # the error for a full disk does not name the file
            error.filename = str(path)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # so that the new name survives a power failure
    finally:
        os.close(folder)


def new_folder(path: Path) -> Path:
    """Create a new folder: ``path``, or ``path-2``, ``path-3``, ... if the name is taken."""
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
        folder: folder to search; its subfolders are not searched.
        names: regular expression for the names of the finished files.
    """
    unfinished = re.compile(rf"\.(?:{names})\.[a-z0-9_]+{re.escape(_UNFINISHED)}")
    for entry in list(folder.iterdir()):
        if unfinished.fullmatch(entry.name) and entry.is_file():
            entry.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with replacing(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as JSON; infinities and NaN become null, because JSON has no such numbers."""
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

# mkstemp creates files that only their owner can read. Results have the usual permissions of new files instead.
_UMASK = os.umask(0)
os.umask(_UMASK)
