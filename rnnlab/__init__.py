"""rnnlab: a laboratory for recurrent networks.

A recurrent cell is written once, as the mathematics of one time step; everything else comes with it.
`rnnlab.load(run)` returns a trained run that predicts on own data, see `rnnlab.training.trained.load`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # PyTorch is imported only when a run is loaded
    if name == "load":
        return import_module("rnnlab.training.trained").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
