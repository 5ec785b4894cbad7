"""Sequence models: what stands between a task's inputs and the outputs its loss reads.

To add a model, add a file here and a YAML file of the same name in ``conf/model``; a YAML file alone gives
a preset of an existing one (``class: sequence_model``).
"""

import sys

from rnnlab import lookup
from rnnlab.models.base import CellFactory, Model


def find(name: str) -> type[Model]:
    """The class of the model ``name``: a built-in name or ``package.module:Class``."""
    return lookup.find(name, sys.modules[__name__], Model)


__all__ = ["CellFactory", "Model", "find"]
