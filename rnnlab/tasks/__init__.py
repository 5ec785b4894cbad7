"""Tasks: data, loss, metrics and samples, one file per task. A task never imports a model.

To add a task, add a file here and a YAML file of the same name in ``conf/task``.
"""

import sys

from rnnlab import lookup
from rnnlab.tasks._predicting import Answers, Predicts
from rnnlab.tasks.base import Task


def find(name: str) -> type[Task]:
    """The class of the task ``name``: a built-in name or ``package.module:Class``."""
    return lookup.find(name, sys.modules[__name__], Task)


__all__ = ["Answers", "Predicts", "Task", "find"]
