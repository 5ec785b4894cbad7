"""One run: the loop, checkpoints, logging, devices."""

from importlib import import_module
from typing import Any

__all__ = ["evaluate_run", "load", "train"]


def __getattr__(name: str) -> Any:  # PyTorch is loaded where a run is trained or opened, not where one is looked at
    if name in __all__:
        return getattr(import_module("rnnlab.training.run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
