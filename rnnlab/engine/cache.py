"""What every compiler needs: the folder for compiled code, ``$RNNLAB_CACHE`` or ``~/.cache/rnnlab``, and an error."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from functools import lru_cache
from pathlib import Path


class NoCompiler(Exception):
    """Nothing can be compiled here; the message gives the reason and what to do."""


@lru_cache
def trusted_folder() -> Path | None:
    """Return the cache folder if only the user can write to it; None if others can, or if it cannot be created."""
    try:
        home = os.environ.get("RNNLAB_CACHE")
        folder = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rnnlab"
        folder = folder.absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        is_own = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return folder if is_own else None
    except (OSError, RuntimeError):  # RuntimeError: the user has no home directory
        return None


@lru_cache
def cache_folder() -> Path:
    """Return the trusted folder if it is writable; otherwise a temporary folder of this process."""
    folder = trusted_folder()
    if folder and os.access(folder, os.W_OK):
        return folder
    temporary = Path(tempfile.mkdtemp(prefix="rnnlab-"))
    atexit.register(_remove, temporary, os.getpid())
    return temporary


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in a forked process
        shutil.rmtree(folder, ignore_errors=True)
