"""The commands of ``rnnlab``, one file each.

To add a command, add a file here and its name to `NAMES`. The file has

``SYNOPSIS``   how it is called and what it does, one pair of texts or several; the first heads its help
``NOTES``      what the help says beyond the options, if anything
``Options``    a dataclass whose fields are made by `rnnlab.command.options.option`; left out if there are none
``run``        the command itself: arguments to exit code

Modules are light: what takes time to import is imported by ``run``, so that help and mistakes answer at once.
"""

import importlib
from types import ModuleType

NAMES = ("train", "status", "compare", "evaluate", "generate", "diagnose", "cells", "explain", "bench")
"""The commands, in the order of the help."""


def find(name: str) -> ModuleType:
    """The module of the command ``name``, one of `NAMES`."""
    return importlib.import_module(f"rnnlab.command.{name}")


__all__ = ["NAMES", "find"]
