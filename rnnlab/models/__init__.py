"""Sequence models: map the inputs of a task to the outputs of its head.

To add a model, add a file here and a YAML file of the same name in ``conf/model``. A YAML file alone defines a preset
of an existing model (``class: sequence_model``).
"""

import sys

from rnnlab import lookup
from rnnlab.models.base import CellFactory, Model


def find(name: str) -> type[Model]:
    """The class of the model ``name``: a built-in name or ``package.module:Class``."""
    return lookup.find(name, sys.modules[__name__], Model)


__all__ = ["CellFactory", "Model", "find"]
