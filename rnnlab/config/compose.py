"""Compose a resolved configuration from the files in conf/ and the overrides of a command line."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from rnnlab import lookup, models
from rnnlab.config import schema
from rnnlab.config.repository import remember
from rnnlab.config.suggest import choice_hint, word_hint
from rnnlab.interface import InputError
from rnnlab.training import budget
from rnnlab.training.directory import derive, flatten
from rnnlab.training.settings import GROUPS

CHOICES = (*GROUPS, "experiment")
"""The groups for which a file can be chosen."""

OF_EXPERIMENTS = ("acceptance", "results", "runs")
"""Sections of an experiment file that are read by scripts; they are not options of a run."""


def compose(overrides: list[str], root: str = "runs") -> dict[str, Any]:
    """The resolved configuration for the ``overrides`` of a command line; see `resolve`."""
    with hydra.initialize_config_module("rnnlab.conf", version_base="1.3"), explained():
        remember(GlobalHydra.instance().config_loader())
        composed = hydra.compose("config", normalise(overrides))
        return resolve(composed, root, overrides)


def resolve(composed: DictConfig, root: str = "runs", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Check and complete a composed configuration, and return it as plain containers.

    Args:
        composed: configuration that Hydra composed from the files and the command line.
        root: folder for the run directory, if it is derived from the configuration.
        overrides: overrides of the command line, to check that no width is given together with a budget.

    Raises:
        InputError: an option or a choice is unknown, a value is of the wrong type, or a budget cannot be met.
    """
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] in OF_EXPERIMENTS:
            raise InputError(f"{key} is not an option of a run; it is only allowed in an experiment file")
    config = _checked(composed)
    is_solved = any(config["budget"][key] for key in budget.KINDS)
    if is_solved:
        _check_width_is_free(config, overrides)
    config = budget.solve(config, _follows_width(composed) if is_solved else None)
    run_dir = config["run_dir"]
    config["run_dir"] = derive(config, root) if run_dir is None else os.path.expanduser(run_dir)
    return config


def _checked(composed: DictConfig) -> dict[str, Any]:
    """Resolve the interpolations of a composed configuration, and check it with `schema.check`."""
    with explained():
        given = OmegaConf.to_container(composed, resolve=True)
    given = {key: value for key, value in given.items() if key not in OF_EXPERIMENTS}
    # The group "experiment" is null by default. It is a dictionary if an experiment file lacks its package line.
    if isinstance(lost := given.get("experiment"), dict):
        raise InputError(
            f"experiment.{next(iter(flatten(lost)), '')} has no effect; the first line of an experiment file must be "
            "'# @package _global_'"
        )
    return schema.check(given)


def _follows_width(composed: DictConfig) -> Callable[[int], dict[str, Any]] | None:
    """The configuration as a function of the width; None if no option refers to ``${model.hidden_size}``."""

    def at(width: int) -> DictConfig:
        other = copy.deepcopy(composed)
        with read_write(other), open_dict(other):
            other.model.hidden_size = width
        return other

    one, two = (flatten(OmegaConf.to_container(at(width), resolve=True)) for width in (1, 2))
    if [key for key in one if one[key] != two[key]] == ["model.hidden_size"]:
        return None
    return lambda width: _checked(at(width))


def _check_width_is_free(config: dict[str, Any], overrides: Sequence[str]) -> None:
    width = config["model"]["hidden_size"]
    said = any(override.lstrip("+").startswith("model.hidden_size=") for override in overrides)
    default = lookup.options(models.find(lookup.read_section(config["model"])[0]))["hidden_size"].default
    if said or width != default:
        raise InputError(
            f"model.hidden_size={width} and a budget are both set; leave out one of them (~model.hidden_size removes "
            "the width that an experiment sets)"
        )


def normalise(overrides: list[str]) -> list[str]:
    """Rewrite overrides so that `resolve`, not Hydra, checks the names of options.

    Hydra rejects an unknown ``a=1`` but accepts ``+a=1``, so a misspelt option would have no effect. Here, ``a=1``,
    ``+a=1`` and ``++a=1`` are equivalent, and the error for an unknown name suggests the nearest known name. A value
    that starts with ``~`` is quoted, because Hydra's grammar does not allow this character in values. A number,
    true, false or null as the choice of a group is quoted, so that Hydra reports an unknown choice.
    """
    normal = []
    for override in overrides:
        if '"' not in override and "'" not in override:
            override = re.sub(r"(?<=[=,])~[^,]*", r'"\g<0>"', override)
        key = override.lstrip("+").partition("=")[0]
        if key in CHOICES:
            override = re.sub(r"(?<=[=,\[])([+-]?[.\d][\w.+-]*|true|false|null)(?=[,\]]|$)", r"'\1'", override)
        is_choice = key in CHOICES or "/" in key or "@" in key or key.partition(".")[0] == "hydra"
        keep = is_choice or "=" not in override or override.startswith("~")
        normal.append(override.lstrip("+") if keep else "++" + override.lstrip("+"))
    return normal


@contextmanager
def explained() -> Iterator[None]:
    """A context manager that converts errors of Hydra and OmegaConf to an InputError of one sentence."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
    except InputError:
        raise
    except ValueError as error:  # OmegaConf's, for a key of a list that is not a number
        raise InputError(f"an option cannot be set: {error}") from error


def explain(error: Exception) -> InputError:
    """The InputError for an error of Hydra or OmegaConf."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group == "hydra/launcher":
            return InputError(f"hydra/launcher={name} is not installed; pip install 'rnnlab[sweep]' installs it")
        return InputError(f"unknown {group or 'config'} {name!r}{choice_hint(group, name, list(error.options or []))}")
    first = str(error).strip().partition("\n")[0].replace("'++", "'")
    if unknown := re.match(r"Could not override '([^']+)'", first):
        if unknown[1] in CHOICES:  # a dictionary with an unknown key
            return InputError(f"{unknown[1]}={{...}} has an unknown option; write {unknown[1]}.OPTION=VALUE")
        return InputError(f"unknown option {unknown[1]!r}")
    if merged := re.match(r"Error merging override \+*([^=]+)(.*)", first):
        return InputError(f"{merged[1]}{merged[2]} cannot be set, as {merged[1]} is a group of options")
    if first.startswith("Ambiguous value"):
        first += "; add -m to sweep over the values, or write [a,b] for a list"
    if isinstance(error, OverrideParseException):
        option = error.override.removeprefix("++")
        if "=" not in option:
            return InputError(f"{option!r} is not of the form key=value{word_hint(option)}")
        first = (
            f"cannot read the option {option!r}: {first}; a value with special characters needs quotes: 'key=\"value\"'"
        )
    return InputError(first or type(error).__name__)
