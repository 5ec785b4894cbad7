"""The schema of a configuration, from signatures: checks the names of options and the types of values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, field, is_dataclass, make_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from rnnlab import lookup
from rnnlab.config.suggest import option_hint
from rnnlab.interface import InputError
from rnnlab.training.directory import flatten
from rnnlab.training.settings import GROUPS, NAMED, Settings, find


def check(given: dict[str, Any]) -> dict[str, Any]:
    """Check a composed configuration in plain containers, and return it with defaults filled in.

    Raises:
        InputError: an option is unknown, or a value is of the wrong type.
    """
    known = list(flatten(given))
    rest = dict(given)
    config = {group: _group(group, rest.pop(group, None), known) for group in GROUPS}
    settings = _typed(OmegaConf.structured(Settings), rest, "", [*GROUPS, "experiment", *known])
    return {"seed": settings.pop("seed"), "run_dir": settings.pop("run_dir"), **settings, **config}


def _group(group: str, given: Any, known: Sequence[str]) -> dict[str, Any]:
    """The options of one group, checked against the signature of the class or function that it configures."""
    if not isinstance(given, dict):
        raise InputError(f"{group}={given!r} is not a group of options; give the name of a file in conf/{group}")
    if group not in NAMED:
        return _typed(schema(find(group)), given, f"{group}.", known)
    names = {key: given[key] for key in ("name", "class") if key in given}
    if "name" not in names:
        raise InputError(f"{group}.name is missing; add 'name: ...' to the file in conf/{group}")
    name, options = lookup.read_section(given)
    return {**names, **_typed(schema(find(group, name)), options, f"{group}.", known)}


@cache
def schema(function: Callable) -> DictConfig:
    """The options of a class or function as a typed OmegaConf node, which callers must not change."""
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


def _typed(schema: DictConfig, given: dict[str, Any], prefix: str, known: Sequence[str]) -> dict[str, Any]:
    """Merge ``given`` into ``schema``, which checks names and types.

    Args:
        schema: names, types and defaults of the options.
        given: values by name.
        prefix: prefix of the names on the command line, such as ``model.``.
        known: full names of other options, for suggestions if a name is unknown.
    """
    for key, value in given.items():
        if key in schema and is_dataclass(OmegaConf.get_type(schema, key)) and not isinstance(value, dict):
            names = ", ".join(f"{prefix}{key}.{name}" for name in schema[key])
            raise InputError(f"{prefix}{key}={value!r} has no effect, as {prefix}{key} is a group of options: {names}")
    try:
        merged = OmegaConf.merge(schema, _whole(OmegaConf.get_type(schema), given))
        return OmegaConf.to_container(merged, throw_on_missing=True)
    except ConfigKeyError as error:
        unknown = prefix + _unknown_key(error, given, schema)
        here = [prefix + key for key in flatten(OmegaConf.to_container(schema))]
        raise InputError(f"unknown option {unknown!r}{option_hint(unknown, here, known)}") from error
    except ValidationError as error:
        expected = str(error).splitlines()[0]
        if "is not a ListConfig" in expected:  # OmegaConf's message names its internal classes
            expected = f"{given[error.full_key]!r} is not a list; write it as [1,2]"
        raise InputError(f"{prefix}{error.full_key}: {expected}") from error
    except OmegaConfBaseException as error:
        raise InputError(f"{prefix}{error.full_key} has no value; set {prefix}{error.full_key}=VALUE") from error


def _whole(kind: Any, value: Any) -> Any:
    """Convert whole floats such as 1e3 in ``value`` to integers where the type ``kind`` allows int but not float."""
    if is_dataclass(kind) and isinstance(value, dict):
        kinds = get_type_hints(kind)
        return {key: _whole(kinds.get(key), item) for key, item in value.items()}
    kinds = {kind, *get_args(kind)}  # an optional type has several
    if isinstance(value, list):
        lists = [get_args(one)[0] for one in kinds if get_origin(one) is list]
        return [_whole(lists[0], item) for item in value] if lists else value
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole and int in kinds and float not in kinds else value


def _unknown_key(error: ConfigKeyError, given: dict[str, Any], schema: DictConfig) -> str:
    known = flatten(OmegaConf.to_container(schema))
    return next((key for key in flatten(given) if key not in known), str(error.full_key))
