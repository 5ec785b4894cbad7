"""From a command line to a resolved configuration: the only module besides ``__main__`` that knows Hydra.

The schema of every option is the signature of what it configures; see `rnnlab.training.settings`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import MISSING, field, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from rnnlab import lookup, models
from rnnlab.interface import InputError
from rnnlab.training import budget
from rnnlab.training.directory import derive, flatten
from rnnlab.training.settings import GROUPS, NAMED, Settings, find
from rnnlab.training.sweep import Job

CHOICES = (*GROUPS, "experiment")
"""The groups that a file can be chosen for."""


def compose(overrides: list[str], root: str = "runs") -> dict[str, Any]:
    """The resolved configuration of a command line's ``overrides``; see `resolve`."""
    with hydra.initialize_config_module("rnnlab.conf", version_base="1.3"):
        try:
            composed = hydra.compose("config", normalise(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error) from error
    return resolve(composed, root, overrides)


def resolve(composed: DictConfig, root: str = "runs", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A composed configuration, checked, completed and in plain containers.

    Args:
        composed: what Hydra made of the files and the command line.
        root: the folder for a run directory that is derived.
        overrides: the command line, to tell a width that was asked for from a preset's.

    Raises:
        InputError: an option or a choice is unknown, a value is of the wrong type, or a budget cannot be met.
    """
    config = _checked(composed)
    is_solved = any(config["budget"][key] for key in ("parameters", "flops_per_step"))
    if is_solved:
        _check_width_is_free(config, overrides)
    config = budget.solve(config, _follows_width(composed) if is_solved else None)
    if config["run_dir"] is None:
        config["run_dir"] = derive(config, root)
    return config


def _checked(composed: DictConfig) -> dict[str, Any]:
    """A composed configuration with every name known and every value of its type."""
    try:
        given = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    # What an experiment says of itself, and of what it is expected to show, is no option of the run.
    given = {key: value for key, value in given.items() if key not in ("hydra", "experiment", "acceptance", "runs")}
    config = {}
    for group in GROUPS:
        config[group] = _resolve_group(group, given.pop(group, None))
    settings = _typed(OmegaConf.structured(Settings), given, "", [*CHOICES, *flatten(config)])
    return {"seed": settings.pop("seed"), "run_dir": settings.pop("run_dir"), **settings, **config}


def _follows_width(composed: DictConfig) -> Callable[[int], dict[str, Any]] | None:
    """The configuration as a function of the width, if options refer to ``${model.hidden_size}``; None if none does."""

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
            f"a budget solves model.hidden_size, which is given too ({width}); leave out one of them: "
            "~model.hidden_size takes back the width that an experiment sets"
        )


def plan(arguments: Sequence[str]) -> tuple[Path, list[Job]] | None:
    """The folder of the sweep that a command line describes, and its runs; None for a sweeper that decides on the way.

    Args:
        arguments: of ``rnnlab train -m``, as `normalise` makes them.

    Raises:
        InputError: the command line cannot be read.
    """
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    jobs = []
    with hydra.initialize_config_module("rnnlab.conf", version_base="1.3"):
        try:
            parser = OverridesParser.create()
            fixed = [o.input_line for o in parser.parse_overrides(overrides) if not o.is_sweep_override()]
            own = hydra.compose("config", fixed, return_hydra_config=True).hydra
            if own.sweeper._target_ != "hydra._internal.core_plugins.basic_sweeper.BasicSweeper":
                return None
            given = [f"{key}={value}" for key, value in (own.sweeper.params or {}).items()]
            swept = [o for o in overrides if not o.startswith(("hydra.", "hydra/"))]
            (combinations,) = BasicSweeper.split_arguments(parser.parse_overrides([*given, *swept]), None)
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error) from error
        folder = str(own.sweep.dir)
        for combination in combinations:
            name = " ".join(override.lstrip("+") for override in combination)
            try:
                config = resolve(hydra.compose("config", combination), folder, combination)
                jobs.append(Job(name, config["run_dir"]))
            except (HydraException, OmegaConfBaseException) as error:
                jobs.append(Job(name, None, str(explain(error))))
            except (InputError, OSError) as error:
                jobs.append(Job(name, None, str(error)))
    return Path(folder), jobs


def normalise(overrides: list[str]) -> list[str]:
    """Overrides such that Hydra leaves the judgement of every option's name to `resolve`.

    Hydra refuses an unknown ``a=1``, but takes ``+a=1`` and would run with a misspelt option that does nothing.
    Here ``a=1``, ``+a=1`` and ``++a=1`` are the same, and an unknown name is refused with the nearest known one.
    """
    normal = []
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        is_choice = key in CHOICES or "/" in key or "@" in key or key.partition(".")[0] == "hydra"
        keep = is_choice or "=" not in override or override.startswith("~")
        normal.append(override.lstrip("+") if keep else "++" + override.lstrip("+"))
    return normal


def explain(error: Exception) -> InputError:
    """One sentence for an error of Hydra or OmegaConf."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group == "hydra/launcher":
            return InputError(
                f"hydra/launcher={name} is not installed; pip install 'rnnlab[sweep]' brings joblib and Slurm"
            )
        return InputError(f"unknown {group or 'config'} {name!r}{lookup.nearest(name, list(error.options or []))}")
    first = str(error).strip().partition("\n")[0].replace("'++", "'")
    if first.startswith("Ambiguous value"):
        first += "; add -m to sweep over the values, or write [a,b] for a list"
    if isinstance(error, OverrideParseException):
        option = error.override.removeprefix("++")
        first = (
            f"cannot read the option {option!r}: {first}; a value with special characters needs quotes: 'key=\"value\"'"
        )
    return InputError(first or type(error).__name__)


def _resolve_group(group: str, given: Any) -> dict[str, Any]:
    """The options of one group, checked against the signature of what it configures."""
    if not isinstance(given, dict):
        raise InputError(f"{group}={given!r} is not a set of options; name one of the files of conf/{group}")
    if group not in NAMED:
        return _typed(_schema(find(group)), given, f"{group}.")
    names = {key: given[key] for key in ("name", "class") if key in given}
    if "name" not in names:
        raise InputError(f"{group} has no name; its file must say which {group} it is for")
    name, options = lookup.read_section(given)
    return {**names, **_typed(_schema(find(group, name)), options, f"{group}.")}


def _schema(function: Callable) -> DictConfig:
    """The options of a class or function as a typed OmegaConf node."""
    fields = []
    for name, parameter in lookup.options(function).items():
        default = parameter.default
        if default is lookup.REQUIRED:
            fields.append((name, parameter.annotation, field(default=MISSING)))
        elif isinstance(default, list | tuple):
            fields.append((name, parameter.annotation, field(default_factory=lambda default=default: list(default))))
        else:
            fields.append((name, parameter.annotation, field(default=default)))
    return OmegaConf.structured(make_dataclass("Options", fields))


def _typed(schema: DictConfig, given: dict[str, Any], prefix: str, elsewhere: list[str] = ()) -> dict[str, Any]:
    """``given`` merged into ``schema``: every name known, every value of its type.

    Args:
        schema: names, types and defaults.
        given: values by name.
        prefix: what stands before the names on the command line.
        elsewhere: further full names to suggest where a name is unknown.
    """
    try:
        merged = OmegaConf.merge(schema, _whole(OmegaConf.get_type(schema), given))
        return OmegaConf.to_container(merged, throw_on_missing=True)
    except ConfigKeyError as error:
        unknown = _unknown_key(error, given, schema)
        known = [prefix + key for key in flatten(OmegaConf.to_container(schema))]
        raise InputError(
            f"unknown option {prefix + unknown!r}{lookup.nearest(prefix + unknown, [*known, *elsewhere])}"
        ) from error
    except ValidationError as error:
        expected = str(error).splitlines()[0]
        if "is not a ListConfig" in expected:  # OmegaConf's word for it names its own classes
            expected = f"{given[error.full_key]!r} is not a list, which is written [1,2]"
        raise InputError(f"{prefix}{error.full_key}: {expected}") from error
    except OmegaConfBaseException as error:
        raise InputError(f"{prefix}{error.full_key} has no value; give it one") from error


def _whole(kind: Any, value: Any) -> Any:
    """``value`` with 1e3 as 1000 wherever its type, ``kind``, has integers and no other numbers."""
    if is_dataclass(kind) and isinstance(value, dict):
        kinds = get_type_hints(kind)
        return {key: _whole(kinds.get(key), item) for key, item in value.items()}
    kinds = {kind, *get_args(kind)}  # what may be null has several
    if isinstance(value, list):
        lists = [get_args(one)[0] for one in kinds if get_origin(one) is list]
        return [_whole(lists[0], item) for item in value] if lists else value
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole and int in kinds and float not in kinds else value


def _unknown_key(error: ConfigKeyError, given: dict[str, Any], schema: DictConfig) -> str:
    known = flatten(OmegaConf.to_container(schema))
    return next((key for key in flatten(given) if key not in known), str(error.full_key))


class Outside(ConfigSource):
    """Lets ``cell=package.module:Class``, and the like for every group in `NAMED`, stand wherever a file's name can.

    Its options are those of the class's signature, as they would stand in a file.
    """

    @staticmethod
    def scheme() -> str:
        """The scheme of the entry in Hydra's search path."""
        return "outside"

    def available(self) -> bool:  # noqa: D102
        return True

    def is_group(self, config_path: str) -> bool:  # noqa: D102
        return False

    def is_config(self, config_path: str) -> bool:  # noqa: D102
        group, _, name = config_path.rpartition("/")
        return group in NAMED and ":" in name

    def list(self, config_path: str, results_filter: Any) -> list[str]:  # noqa: D102
        return []

    def load_config(self, config_path: str) -> ConfigResult:  # noqa: D102
        group, _, name = config_path.rpartition("/")
        options = OmegaConf.to_container(_schema(find(group, name)))
        return ConfigResult(
            config=OmegaConf.create({"name": name, **options}),
            path=f"{self.scheme()}://{config_path}",
            provider=self.provider,
            header={"package": None},
        )


class SearchPath(SearchPathPlugin):
    """Adds to where choices are found: classes from outside, and the folder ``conf`` where the command is given."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:  # noqa: D102
        search_path.append("outside", f"{Outside.scheme()}://")
        if Path("conf").is_dir():
            search_path.append("here", f"file://{Path('conf').absolute()}")


Plugins.instance().register(Outside)
Plugins.instance().register(SearchPath)
