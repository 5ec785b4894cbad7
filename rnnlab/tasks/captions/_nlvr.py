"""Pictures of the corpus NLVR with a sentence that is true of them (Suhr, Lewis, Yeh and Artzi, 2017, ACL)."""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from rnnlab.formats.picture import opened, rgb
from rnnlab.interface import InputError
from rnnlab.tasks.captions._drawing import split_of
from rnnlab.tasks.captions.base import Example
from rnnlab.vocabulary import tidy

HEIGHT, WIDTH = 25, 100
"""A quarter of the size of the original pictures."""
ARCHIVE = "nlvr-dev-test-hidden-perm0-png.tar.gz"
PARTS = ("dev", "test", "hidden")


def read(root: str) -> dict[str, list[Example]]:
    """The pictures for which a sentence is true, in splits that share no sentence and no picture.

    Args:
        root: directory of the public data sets.

    Raises:
        InputError: the corpus is missing or damaged.
    """
    folder = Path(root).expanduser() / "nlvr"
    load = _loader(folder)
    found: dict[str, list[Example]] = {"train": [], "valid": [], "test": []}
    split_by_picture: dict[bytes, str] = {}
    for part in PARTS:
        for row in _rows(load(f"{part}.json"), part):
            if str(row["label"]).lower() != "true":
                continue
            name = f"{part}-{row['identifier']}-0.png"
            picture = rgb(opened(load(name), name), HEIGHT, WIDTH).unsqueeze(0)
            caption = tidy(row["sentence"]).lower().rstrip(" .")
            split = split_of(caption)
            if split_by_picture.setdefault(picture.numpy().tobytes(), split) == split:
                found[split].append(Example(picture, caption))
    return found


def _rows(content: bytes, part: str) -> list[dict[str, str]]:
    try:
        rows = [json.loads(line) for line in content.decode().splitlines()]
        return [row for row in rows if row["label"] and row["sentence"] and row["identifier"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{part}.json of NLVR is damaged ({error!r}); get it again from https://github.com/lil-lab/nlvr"
        ) from error


def _loader(folder: Path) -> Callable[[str], bytes]:
    """A function that reads a file of the repository ``lil-lab/nlvr`` by its name, from the archive or from a clone."""
    archive = folder / ARCHIVE
    if archive.is_file():
        contents = _unpacked(archive)
    else:
        found = [path for part in PARTS for path in (folder / "nlvr" / part).rglob("*") if path.is_file()]
        contents = {path.name: path for path in found}
    if not contents:
        raise InputError(
            f"{folder} has neither {ARCHIVE} nor nlvr/dev; run git clone https://github.com/lil-lab/nlvr {folder}, or "
            "set data.root to the folder that contains nlvr/"
        )

    def load(name: str) -> bytes:
        if name not in contents:
            raise InputError(f"{folder} has no file {name}; get it again from https://github.com/lil-lab/nlvr")
        found = contents[name]
        return found if isinstance(found, bytes) else found.read_bytes()

    return load


def _unpacked(archive: Path) -> dict[str, bytes]:
    """The files in the archive, by their names."""
    try:
        with tarfile.open(archive) as files:
            return {Path(one.name).name: files.extractfile(one).read() for one in files if one.isfile()}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{archive} is damaged ({error}); delete it, and get the files again from https://github.com/lil-lab/nlvr"
        ) from error
