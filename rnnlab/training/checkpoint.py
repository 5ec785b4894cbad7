"""Checkpoints: whole or absent, plain containers and tensors only, safe to load from a stranger."""

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
    """A file is no checkpoint, or not a whole one."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically; a crash leaves the one before."""
    # By way of memory: on a full disk torch's writer ends with an error of its own, which does not say that it is full.
    whole = io.BytesIO()
    torch.save({"rnnlab": FORMAT, **content}, whole)
    with files.replacing(path) as file:
        file.write(whole.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; code in it is never run.

    Raises:
        Damaged: it is truncated, of another program, or carries code.
        InputError: there is none, or no memory for it.
        OSError: it may not be read.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's advice on pickles is for those who wrote the file
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever an unpickler may trip over in bytes that were never meant for it
        if isinstance(error, OSError) and error.errno not in (None, EINVAL):  # the latter is of a file cut short
            raise
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise InputError(f"there is not enough memory to read {path}; free some, or use another machine") from error
        raise Damaged(
            f"{path} cannot be read as a checkpoint: it is damaged, of another kind, or carries code, which is not run"
        ) from error
    if not isinstance(content, dict) or content.get("rnnlab") != FORMAT:
        raise Damaged(f"{path} is not a checkpoint of this version of rnnlab")
    return content


def random_states() -> dict[str, Any]:
    """The state of every global random generator, in plain containers and tensors."""
    name, key, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": [name, key.tolist(), *rest],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Undo everything since `random_states`."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(states["numpy"]))
