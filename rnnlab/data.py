"""Find public data sets under ``data.root``, and download missing files."""

from __future__ import annotations

import gzip
import hashlib
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from rnnlab import files
from rnnlab.interface import InputError

if TYPE_CHECKING:
    import tarfile


@dataclass(frozen=True)
class PublicFile:
    """A file of a public data set.

    path: path relative to the data root, starting with the folder of the data set.
    url: public address.
    sha256: SHA-256 digest in hexadecimal.
    """

    path: str
    url: str
    sha256: str


def locate(file: PublicFile, root: str) -> Path:
    """The path of ``file`` under ``root``. A missing file is downloaded; the digest is checked on each call.

    Raises:
        InputError: the file is missing and cannot be downloaded, or its digest is not the expected one.
    """
    path = Path(root).expanduser() / file.path
    if not path.exists():
        _download(file, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != file.sha256:
        raise InputError(f"{path} has SHA-256 {found}, expected {file.sha256}; delete it and download {file.url}")
    return path


def read_public(file: PublicFile, root: str) -> bytes:
    """The content of ``file`` under ``root``, or of the file with the suffix ``.gz``, decompressed; see `locate`.

    Raises:
        InputError: there is no such file and it cannot be downloaded, it cannot be decompressed, or the digest of its
            content is not the expected one.
    """
    packed = Path(root).expanduser() / f"{file.path}.gz"
    if not packed.is_file():
        return locate(file, root).read_bytes()
    try:
        content = gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{packed} cannot be decompressed ({error}); delete it and download {file.url}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise InputError(
            f"the content of {packed} has SHA-256 {found}, expected {file.sha256}; delete it and download {file.url}"
        )
    return content


def files_in(archive: tarfile.TarFile, name: str, advice: str) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The path and the content of each file in an archive, read in memory.

    Args:
        archive: the opened archive.
        name: name of the archive for errors.
        advice: how to get an intact archive, for errors.

    Raises:
        InputError: a member is outside the folder of the archive.
    """
    for member in archive:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{name} has a member outside its folder, {member.name!r}; {advice}")
        if member.isfile():
            yield path, archive.extractfile(member).read()


BYTE_ORDER_MARK = "\ufeff"
"""Some editors write this mark at the start of a file; in a concatenation of files it also occurs within the text."""


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with its byte order marks and line ends.

    Raises:
        InputError: the file does not exist, is empty, or is not text.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file; give the path of a UTF-8 text file")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); convert it to UTF-8 first") from None
    if "\0" in text:
        raise InputError(f"{path} is not text: it contains NUL bytes; give a UTF-8 text file")
    if not text.strip(BYTE_ORDER_MARK):
        raise InputError(f"{path} is empty; give a UTF-8 text file")
    return text


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file with any line ends, without byte order marks; see `read_text`."""
    text = read_text(path).replace(BYTE_ORDER_MARK, "").replace("\r\n", "\n").replace("\r", "\n")
    return text.removesuffix("\n").split("\n")


def _download(file: PublicFile, path: Path) -> None:
    try:
        with urllib.request.urlopen(file.url, timeout=20) as response:
            content = response.read()
        if hashlib.sha256(content).hexdigest() == file.sha256:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(path, content)
            return
        reason = "the downloaded file has another SHA-256"
    except OSError as error:  # urllib's own errors are OSErrors too
        reason = str(error)
    raise InputError(
        f"{path} does not exist and the download failed ({reason}); download {file.url} (SHA-256 {file.sha256}) into "
        f"{path.parent}, or set data.root to the folder that contains {path.parent.name}/"
    )
