"""The options of a run, and their defaults.

The signature of each function is the schema of its options: the keyword-only parameters of the task, cell, model,
optimizer and scheduler that a configuration names, of `Trainer` and of `Logger`; and `Settings` below. An option that
a stored configuration lacks, as it was written before the option existed, has its default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import Any

from rnnlab import lookup
from rnnlab.interface import InputError

NAMED = ("task", "cell", "model", "optimizer", "scheduler")
"""The groups that name a class or function, built-in or from outside."""

GROUPS = (*NAMED, "trainer", "logger")
"""The groups of options that have a signature as their schema."""


@dataclass
class Data:
    """Options of ``data``.

    root: the folder under which public data sets lie.
    """

    root: str = "data"


@dataclass
class Engine:
    """Options of ``engine``.

    backend: how cells are run over time; see `rnnlab.engine`.
    """

    backend: str = "auto"


@dataclass
class Budget:
    """Options of ``budget``: what every run of a comparison may cost.

    parameters: trained numbers of the model; ``model.hidden_size`` is solved for it. See `rnnlab.training.budget`.
    flops_per_step: operations of a training step; ``model.hidden_size`` is solved for it.
    seconds: of training, evaluation aside, after which the run ends; the final step varies between repetitions.
    tolerance: by which share of the budget a run may miss it.
    """

    parameters: int | None = None
    flops_per_step: float | None = None
    seconds: float | None = None
    tolerance: float = 0.02


@dataclass
class Settings:
    """Options outside the groups.

    seed: of every random generator of the run.
    run_dir: the run's directory; derived from the configuration where it is null.
    """

    seed: int = 0
    run_dir: str | None = None
    data: Data = field(default_factory=Data)
    engine: Engine = field(default_factory=Engine)
    budget: Budget = field(default_factory=Budget)


def find(group: str, name: str = "") -> Callable[..., Any]:
    """The class or function whose signature has the options of a group.

    Args:
        group: one of `GROUPS`.
        name: what the group names; not used for ``trainer`` and ``logger``.

    Raises:
        InputError: there is nothing of that name.
    """
    if group in ("trainer", "logger"):
        from rnnlab.training import logger, trainer

        return trainer.Trainer if group == "trainer" else logger.Logger
    home = _home(group)
    return lookup.find(name, home) if group in ("optimizer", "scheduler") else home.find(name)


def available(group: str) -> list[str]:
    """Return the built-in names of a group, one of `NAMED`."""
    return lookup.available(_home(group))


def _home(group: str) -> ModuleType:
    """Return the package or module with the built-in classes or functions of a group."""
    # Imported here: they load PyTorch, which reading runs without training one does not need.
    from rnnlab import cells, models, tasks
    from rnnlab.training import optimizers, schedulers

    return {"task": tasks, "cell": cells, "model": models, "optimizer": optimizers, "scheduler": schedulers}[group]


def defaults(config: dict[str, Any]) -> dict[str, Any]:
    """The default of every option that the runs of a configuration's task, cell, model and so on have, in groups.

    A group whose class cannot be imported, and an option without a default, are left out.
    """
    found = asdict(Settings())
    for group in GROUPS:
        section = config.get(group)
        if group in NAMED and not (isinstance(section, dict) and "name" in section):
            continue
        try:
            function = find(group, lookup.read_section(section)[0] if group in NAMED else "")
        except Exception:  # a class of the user's own may fail to import in any way
            continue
        options = {name: option.default for name, option in lookup.options(function).items()}
        found[group] = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in options.items()
            if value is not lookup.REQUIRED
        }
    return found


def complete(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration with the default of every option that it lacks."""
    config = dict(stored)
    for name, default in defaults(stored).items():
        value = config.setdefault(name, default)
        if isinstance(default, dict) and isinstance(value, dict):
            config[name] = {**value, **{key: default[key] for key in default if key not in value}}
    return config


def check_known(config: dict[str, Any], run: str) -> None:
    """Raise an InputError that names an option of a stored model or task that this version does not have.

    Args:
        config: as stored.
        run: the run that it is from, for the message.
    """
    for group in ("task", "cell", "model"):
        name, options = lookup.read_section(config[group])
        known = lookup.options(find(group, name))
        for option in options:
            if option not in known:
                raise InputError(
                    f"{run} was made with {group}.{option}={options[option]!r}, an option that this version of rnnlab "
                    f"does not have; open the run with the version that made it, which its summary.json names"
                )
