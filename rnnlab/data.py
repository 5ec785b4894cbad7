"""Find data sets under ``data.root``, in the layout of their public download, and download them."""

from __future__ import annotations

import hashlib
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from rnnlab import files
from rnnlab.interface import InputError


@dataclass(frozen=True)
class PublicFile:
    """A file of a public data set.

    path: where it lies under the data root, the set's own folder first.
    url: its public address.
    sha256: its digest, in hexadecimal.
    """

    path: str
    url: str
    sha256: str


def locate(file: PublicFile, root: str) -> Path:
    """The path of ``file`` under ``root``, downloaded if it is not there; its digest is checked every time.

    Raises:
        InputError: the file is absent and cannot be downloaded, or its content is not the expected one.
    """
    path = Path(root).expanduser() / file.path
    if not path.exists():
        _download(file, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != file.sha256:
        raise InputError(f"{path} has SHA-256 {found}, expected {file.sha256}; delete it and get it from {file.url}")
    return path


def _download(file: PublicFile, path: Path) -> None:
    try:
        with urllib.request.urlopen(file.url, timeout=20) as response:
            content = response.read()
        if hashlib.sha256(content).hexdigest() == file.sha256:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(path, content)
            return
        reason = "what came has another SHA-256"
    except OSError as error:  # urllib's own errors are OSErrors too
        reason = str(error)
    raise InputError(
        f"{path} is not there and could not be downloaded ({reason}); get {file.url} (SHA-256 {file.sha256}) and "
        f"put it into {path.parent}, or set data.root to the folder that holds {path.parent.name}/"
    )
