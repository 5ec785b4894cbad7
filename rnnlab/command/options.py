"""Options of a command: a dataclass that defines how arguments are parsed and what the help shows."""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from textwrap import wrap
from types import ModuleType
from typing import Any, TypeVar

from rnnlab.interface import InputError
from rnnlab.lookup import nearest

Options = TypeVar("Options")

WIDTH, INDENT = 118, 26
"""Width of a help text, and the column at which descriptions start."""


def option(default: Any, help: str, shown: str | None = None) -> Any:
    """A field of an options class.

    Args:
        default: default value; `REQUIRED` if the option must be given.
        help: description in the help.
        shown: value shown after ``name=`` in the help; None shows the default.
    """
    return field(default=default, metadata={"help": help, "shown": shown})


REQUIRED = MISSING
"""The default of an option that must be given."""


def spelled(one: Field) -> str:
    """The name of an option on the command line: ``data.root`` for the field ``data_root``."""
    return one.name.replace("data_root", "data.root")


def read(kind: type[Options], arguments: list[str]) -> Options:
    """Parse ``key=value`` arguments into the dataclass ``kind``; values have no escapes or quotes.

    ``run=`` may be left out before a directory.

    Raises:
        InputError: an option is unknown, missing, or of the wrong type.
    """
    known = {spelled(one): one for one in fields(kind)}
    given: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        is_directory = key not in known and (Path(argument).exists() or not (equals or argument.startswith("-")))
        if is_directory and "run" in known and "run" not in given:
            key, equals, value = "run", "=", argument
        if not equals or key not in known:
            raise InputError(f"unknown option {argument!r}{nearest(key, list(known))}; write options as key=value")
        try:
            given[known[key].name] = _READ[known[key].type](value)
        except (ValueError, KeyError):
            raise InputError(f"{key}={value!r} is not of type {known[key].type}") from None
    for name, one in known.items():
        if one.default is REQUIRED and one.name not in given:
            wanted = "the directory of a run" if name == "run" else f"{name}={one.metadata['shown']}"
            raise InputError(f"{name}= is missing; give {wanted}")
    return kind(**given)


def read_with_texts(kind: type[Options], arguments: list[str]) -> tuple[Options, list[str]]:
    """Parse arguments like `read`, and return the arguments that are texts, not options.

    An argument of the form ``word=value`` is an option, and so is the first existing directory without ``run=``.
    """
    has_run = any(argument.startswith("run=") for argument in arguments)
    given, texts = [], []
    for argument in arguments:
        is_run = not has_run and not given and not texts and Path(argument).is_dir()
        (given if is_run or re.match(r"[\w.-]+=", argument) else texts).append(argument)
    return read(kind, given), texts


def check_new(out: str, name: str = "out") -> None:
    """Check that ``out``, a file to write, does not exist; an empty text passes. ``name`` is that of the option.

    Raises:
        InputError: there is a file or folder of that name.
    """
    if out and Path(out).expanduser().exists():
        raise InputError(f"{name}={out} exists; give the name of a new file")


def usage(name: str, command: ModuleType) -> str:
    """The help of a command.

    Args:
        name: name of the command.
        command: module of the command.
    """
    call, about = command.SYNOPSIS[0]
    lines = _wrapped(f"rnnlab {call}: {about}", "")
    kind = getattr(command, "Options", None)
    if kind is not None:
        lines += ["", *options_help(kind, getattr(command, "PREFIX", ""))]
    if notes := getattr(command, "NOTES", ""):
        lines += ["", *_wrapped(notes, "")]
    return "\n".join(lines) + "\n"


def options_help(kind: type, prefix: str = "") -> list[str]:
    """The help lines for the options of ``kind``, with ``prefix`` before each name."""
    lines = []
    for one in fields(kind):
        shown = one.metadata["shown"]
        if shown is None:
            shown = str(one.default).lower() if isinstance(one.default, bool) else str(one.default)
        given = f"{prefix}{one.name.replace('_', '-')} {shown}" if prefix else f"{spelled(one)}={shown}"
        lines += _wrapped(one.metadata["help"], f"  {given}".ljust(INDENT - 2) + "  ", " " * INDENT)
    return lines


def _wrapped(text: str, first: str, rest: str = "") -> list[str]:
    return wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def _truth(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


_READ = {"int": int, "float": float, "str": str, "bool": _truth}
