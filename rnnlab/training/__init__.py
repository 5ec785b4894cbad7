"""Training of a run: training loop, checkpoints, logging and devices."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnlab.training.run import evaluate_run, load, train

__all__ = ["evaluate_run", "load", "train"]


def __getattr__(name: str) -> Any:  # PyTorch is imported only when a run is trained or loaded
    if name in __all__:
        return getattr(import_module("rnnlab.training.run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
