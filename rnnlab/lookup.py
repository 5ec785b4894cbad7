"""Find a cell, task, model, optimizer or scheduler by name.

A plain name refers to a file in the folder of its kind, or to a function in the module of its kind.
``package.module:Name`` refers to a class or function on the Python path. There is no other registry.

The options of a class or function are its keyword-only parameters; rnnlab passes its own arguments by position.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache, partialmethod
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, overload

from rnnlab.interface import InputError

T = TypeVar("T")
REQUIRED = inspect.Parameter.empty
"""Marks an option without a default."""


def available(home: ModuleType) -> list[str]:
    """The built-in names of a kind: the files of a package, except ``base``, or the public functions of a module."""
    if hasattr(home, "__path__"):
        return sorted(_modules(home.__path__[0]))
    functions = inspect.getmembers(home, inspect.isfunction)
    return sorted(name for name, f in functions if f.__module__ == home.__name__ and not name.startswith("_"))


@overload
def find(name: str, home: ModuleType, base: type[T]) -> type[T]: ...
@overload
def find(name: str, home: ModuleType, base: None = None) -> Callable[..., Any]: ...
def find(name: str, home: ModuleType, base: type | None = None) -> Any:
    """The class or function called ``name``.

    Args:
        name: built-in name in ``home``, or ``package.module:Name``.
        home: package or module with the built-in names of this kind.
        base: required base class; None for functions.

    Raises:
        InputError: the name cannot be found or imported, or is not a subclass of ``base``.
    """
    kind = home.__name__.rpartition(".")[2].removesuffix("s")
    if ":" in name:
        found = _from_outside(name, kind)
    elif name not in available(home):
        raise InputError(f"unknown {kind} {name!r}{nearest(name, available(home))}")
    elif hasattr(home, "__path__"):
        found = _defined_in(_module_of(name, home), base)
    else:
        found = getattr(home, name)
    if base is not None and not (inspect.isclass(found) and issubclass(found, base)):
        raise InputError(f"{kind} {name!r} must be a class derived from {base.__module__}.{base.__qualname__}")
    return found


def options(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a class or function, by name: its keyword-only parameters, with their annotations as types.

    A class whose constructor takes ``**options`` also has the options of its base class, and may change their defaults:
    ``__init__ = partialmethod(__init__, batch_size=32)``.
    """
    if not inspect.isclass(function):
        return _keyword_only(function)
    found: dict[str, inspect.Parameter] = {}
    defaults: dict[str, Any] = {}
    for kind in function.__mro__:
        constructor = vars(kind).get("__init__")
        while isinstance(constructor, partialmethod):
            defaults = constructor.keywords | defaults
            constructor = constructor.func
        if constructor is None:
            continue
        found = found | {name: p for name, p in _keyword_only(constructor).items() if name not in found}
        if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(constructor).parameters.values()):
            break
    return {name: p.replace(default=defaults.get(name, p.default)) for name, p in found.items()}


def _keyword_only(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


def read_section(section: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The class or function name and the options of a section of the configuration; ``class`` overrides ``name``."""
    options = {key: value for key, value in section.items() if key not in ("name", "class")}
    return section.get("class", section["name"]), options


def check_options(given: dict[str, Any], function: Callable[..., Any], owner: str) -> None:
    """Raise an InputError for the first option in ``given`` that ``function`` does not have."""
    known = options(function)
    for name in given:
        if name not in known:
            raise InputError(f"{owner} has no option {name!r}{nearest(name, list(known))}")


def nearest(name: str, known: list[str]) -> str:
    """A suggestion to append to an error message: the nearest known name if there is one, and the choices if few."""
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return hint if len(known) > 12 and close else f"{hint} (choices: {', '.join(known) or 'none'})"


def _from_outside(name: str, kind: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise InputError(f"{kind} {name!r} is not of the form package.module:Name")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{kind} {name!r} needs the module {error.name!r}, which is not on the Python path; run the command "
            "in the folder that contains the module, or install it"
        ) from error
    if not hasattr(module, attribute):
        raise InputError(f"{kind} {name!r}: module {module_name!r} has no {attribute!r}")
    found = getattr(module, attribute)
    if not callable(found):
        raise InputError(f"{kind} {name!r} must be a class or a function, but is {found!r}")
    return found


def _module_of(name: str, home: ModuleType) -> ModuleType:
    return importlib.import_module(f"{home.__name__}.{_modules(home.__path__[0])[name]}")


@cache
def _modules(folder: str) -> dict[str, str]:
    """Return the public modules in a folder except ``base``: their names, and their dotted names from the folder."""
    files = [file for file in Path(folder).rglob("[a-z]*.py") if file.stem != "base"]
    return {file.stem: ".".join(file.relative_to(folder).with_suffix("").parts) for file in files}


def _defined_in(module: ModuleType, base: type | None) -> type:
    """The public subclass of ``base`` that ``module`` defines; there must be exactly one."""
    found = [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and issubclass(value, base or object)
        and not name.startswith("_")
    ]
    assert len(found) == 1, f"{module.__name__} must define exactly one public subclass of {base}, but defines {found}"
    return found[0]
