"""Build the task and the model of a resolved configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from rnnlab import cells, lookup, models, tasks
from rnnlab.interface import Images, InputError, Tokens, Vectors
from rnnlab.models import CellFactory, Model
from rnnlab.tasks import Task

Config = dict[str, Any]

DATA_ROOT = "data"
"""Folder of the data, in the working directory, if none is given."""


def build(config: Config, memory: dict[str, Any] | None = None) -> tuple[Task, Model]:
    """The task and the model of a configuration.

    Args:
        config: resolved configuration.
        memory: ``task.memory()`` of the trained run, from a checkpoint; None for a new run.
    """
    task = build_task(config)
    if memory is not None:
        task.restore(memory)
    return task, build_model(config, task)


def build_task(config: Config) -> Task:
    """The task of a resolved configuration; an empty ``data.root``, as of an empty RNNLAB_DATA, is the default."""
    return maker(config["task"], tasks.find)(config["seed"], config["data"]["root"] or DATA_ROOT)


def build_model(config: Config, task: Task) -> Model:
    """The model of a resolved configuration, with the input and output sizes of ``task``."""
    cell = maker(config["cell"], cells.find)
    arguments = model_arguments(task, cell, config["engine"]["backend"])
    if task_source(task) is not None:
        _check_source(config, task)
    return maker(config["model"], models.find)(*arguments)


def model_arguments(task: Task, cell: CellFactory, backend: str = "auto") -> list[Any]:
    """The positional arguments of a model for ``task``; the source is included only if the task has one."""
    source = task_source(task)
    return [task.input, task.output_size, cell, backend, *([] if source is None else [source])]


def task_source(task: Task) -> Tokens | Vectors | Images | None:
    """The source of a task, or None.

    Tasks written for earlier versions may use the attribute ``source`` for another purpose; they have no source.
    """
    return task.source if isinstance(task.source, Tokens | Vectors | Images) else None


def _check_source(config: Config, task: Task) -> None:
    """Raise an InputError if the model of a configuration does not read a source."""
    name, _ = lookup.read_section(config["model"])
    if "source" not in inspect.signature(models.find(name)).parameters:
        raise InputError(
            f"task {config['task']['name']} has a source, but model {config['model']['name']} does not read a source; "
            "use model=encoder_decoder"
        )


def maker(section: Config, find: Callable[[str], Callable]) -> Callable:
    """The class or function that a section of the configuration names, with its options bound."""
    name, options = lookup.read_section(section)
    return partial(find(name), **options)
