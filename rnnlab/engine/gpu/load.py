"""Load generated Triton kernels as Python modules."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from functools import cache
from pathlib import Path
from types import ModuleType

from rnnlab.engine.cache import NoCompiler, cache_folder

FUNCTIONS = Path(__file__).with_name("functions.py")
"""The functions that all kernels share."""


def check() -> None:
    """Raise `NoCompiler` unless Triton can be imported."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise NoCompiler(f"Triton cannot be imported ({error}); install the version that torch names") from error


def interpreted() -> bool:
    """Whether Triton's interpreter runs all kernels on the CPU, because ``TRITON_INTERPRET=1`` is set."""
    import triton

    return triton.knobs.runtime.interpret


@cache
def load(text: str) -> ModuleType:
    """Return a module of kernels, preceded by `FUNCTIONS`. Triton reads their text from a file in the cache folder."""
    text = f"{FUNCTIONS.read_text()}\n\n{text}\n"
    name = f"rnnlab_{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    path = Path(cache_folder(), f"{name}.py")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the cache may have been deleted
    if not path.exists() or path.read_text() != text:
        written = path.with_suffix(f".{os.getpid()}")
        written.write_text(text)
        written.replace(path)
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
