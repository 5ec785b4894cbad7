"""Checkpoints: written atomically, made of plain containers and tensors, safe to load from untrusted sources."""

from __future__ import annotations

import io
import random
import warnings
from errno import EINVAL
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rnnlab import files
from rnnlab.interface import InputError

FORMAT = 1


class Damaged(InputError):
    """The file is not a checkpoint, or it is incomplete."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically; after a crash, the previous checkpoint is still there."""
    # Serialise to memory first: on a full disk, torch.save raises an error that does not mention the disk.
    whole = io.BytesIO()
    torch.save({"rnnlab": FORMAT, **content}, whole)
    with files.replacing(path) as file:
        file.write(whole.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU without executing code from it.

    Raises:
        Damaged: the file is truncated, was written by another program, or contains code.
        InputError: the file does not exist, or memory is insufficient.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's warnings about pickle do not help here
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler may raise anything on arbitrary bytes
        if isinstance(error, OSError) and error.errno not in (None, EINVAL):  # EINVAL: truncated file
            raise
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise InputError(f"not enough memory to load {path}; free some, or use another machine") from error
        raise Damaged(
            f"{path} cannot be loaded as a checkpoint: it is damaged, is another kind of file, or contains code, which "
            "is never run"
        ) from error
    if not isinstance(content, dict) or content.get("rnnlab") != FORMAT:
        raise Damaged(f"{path} is not a checkpoint of this version of rnnlab")
    return content


def random_states() -> dict[str, Any]:
    """The states of all global random generators, as plain containers and tensors."""
    name, key, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": [name, key.tolist(), *rest],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Restore the global random generators to the states returned by `random_states`."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(states["numpy"]))
