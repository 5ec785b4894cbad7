"""The commands of ``rnnlab``, one file each.

To add a command, add a file here and its name to `NAMES`. The file defines

``SYNOPSIS``   pairs of usage and description; the first pair is the first line of the help
``NOTES``      optional text at the end of the help
``Options``    dataclass with fields from `rnnlab.command.options.option`; not needed for a command without options
``run``        function from arguments to exit code

Slow imports belong inside ``run``, so that help texts and error messages appear immediately.
"""

import importlib
from types import ModuleType

NAMES = (
    "train",
    "status",
    "runs",
    "plot",
    "compare",
    "inspect",
    "evaluate",
    "predict",
    "generate",
    "translate",
    "chat",
    "transcribe",
    "export",
    "diagnose",
    "cells",
    "explain",
    "bench",
    "doctor",
)
"""The commands, in the order of the help."""


def find(name: str) -> ModuleType:
    """The module of the command ``name``, one of `NAMES`."""
    return importlib.import_module(f"rnnlab.command.{name}")


__all__ = ["NAMES", "find"]
