"""The options of a run and their defaults.

The schema of a group of options is a signature: the keyword-only parameters of the task, cell, model, optimizer or
scheduler that the configuration names, of `Trainer`, or of `Logger`. `Settings` holds the options outside the groups. A
stored configuration may lack options that were added later; they have their defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import Any

from rnnlab import lookup
from rnnlab.interface import InputError

NAMED = ("task", "cell", "model", "optimizer", "scheduler")
"""The groups that name a class or function, built-in or user-defined."""

GROUPS = (*NAMED, "trainer", "logger")
"""The groups of options whose schema is a signature."""


@dataclass
class Data:
    """Options of ``data``.

    root: folder of the public data sets.
    """

    root: str = "data"


@dataclass
class Engine:
    """Options of ``engine``.

    backend: backend that runs the cells; see `rnnlab.engine`.
    """

    backend: str = "auto"


@dataclass
class Budget:
    """Options of ``budget``: equal cost for all runs of a comparison.

    parameters: number of trained parameters; ``model.hidden_size`` is solved for it. See `rnnlab.training.budget`.
    flops_per_step: floating-point operations of a training step; ``model.hidden_size`` is solved for it.
    state_size: numbers of the state of a sequence; ``model.hidden_size`` is solved for it.
    seconds: training time in seconds, without evaluations, after which the run ends; the final step varies between
        repetitions.
    tolerance: largest relative deviation from the budget.
    """

    parameters: int | None = None
    flops_per_step: float | None = None
    state_size: int | None = None
    seconds: float | None = None
    tolerance: float = 0.02


@dataclass
class Settings:
    """Options outside the groups.

    seed: seed of all random generators of the run.
    run_dir: directory of the run; None to derive it from the configuration.
    """

    seed: int = 0
    run_dir: str | None = None
    data: Data = field(default_factory=Data)
    engine: Engine = field(default_factory=Engine)
    budget: Budget = field(default_factory=Budget)


def find(group: str, name: str = "") -> Callable[..., Any]:
    """The class or function whose signature is the schema of a group.

    Args:
        group: one of `GROUPS`.
        name: name of the class or function; not used for ``trainer`` and ``logger``.

    Raises:
        InputError: the name is unknown.
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
    """The defaults of all options of a configuration, by group, for the task, cell, model etc. that it names.

    Groups whose class cannot be imported and options without a default are left out.
    """
    found = asdict(Settings())
    for group in GROUPS:
        section = config.get(group)
        if group in NAMED and not (isinstance(section, dict) and "name" in section):
            continue
        try:
            function = find(group, lookup.read_section(section)[0] if group in NAMED else "")
        except Exception:  # importing a user-defined class may raise anything
            continue
        options = {name: option.default for name, option in lookup.options(function).items()}
        found[group] = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in options.items()
            if value is not lookup.REQUIRED
        }
    return found


def complete(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration, with defaults for the options that it lacks."""
    config = dict(stored)
    for name, default in defaults(stored).items():
        value = config.setdefault(name, default)
        if isinstance(default, dict) and isinstance(value, dict):
            config[name] = {**value, **{key: default[key] for key in default if key not in value}}
    return config


def check_known(config: dict[str, Any], run: str) -> None:
    """Raise an InputError if a stored task, cell or model has an option that this version of rnnlab lacks.

    Args:
        config: stored configuration.
        run: name of the run, for the message.
    """
    for group in ("task", "cell", "model"):
        name, options = lookup.read_section(config[group])
        known = lookup.options(find(group, name))
        for option in options:
            if option not in known:
                raise InputError(
                    f"{run} was trained with {group}.{option}={options[option]!r}, an option that this version of "
                    f"rnnlab does not have; use the version of rnnlab in the summary.json of the run"
                )
