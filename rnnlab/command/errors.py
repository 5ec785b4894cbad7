"""Error messages of one sentence for errors that the user can fix, and exit codes."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from pathlib import Path

from rnnlab.interface import InputError

KILLED, BAD_INPUT, DIVERGED = 1, 2, 3
"""Exit codes: the process of a run was killed, the input is invalid, the run diverged."""


def complain(sentence: str) -> None:
    """Print a sentence to standard error."""
    print(f"rnnlab: {sentence}", file=sys.stderr)


def is_users(error: Exception) -> bool:
    """Whether the cause is invalid input, a file, or a user-defined cell, task or model."""
    return isinstance(error, InputError | OSError) or _own_line(error) is not None


def sentence(error: Exception) -> str:
    """The message for an error that the user can fix, in one line."""
    if not isinstance(error, InputError | OSError):
        what = error.msg if isinstance(error, SyntaxError) else str(error)
        text = f"{_own_line(error)}: {type(error).__name__}{f': {what}' if what else ''}"
        return " ".join(f"{text}; add --traceback to see the traceback".split())
    if isinstance(error, OSError) and error.strerror:
        return f"cannot use {error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _own_line(error: Exception) -> str | None:
    """The line of a user's file that raised ``error``; None if there is none."""
    if isinstance(error, SyntaxError):
        place = (error.filename, error.lineno, None)
    else:
        frames = traceback.extract_tb(error.__traceback__)
        place = next(((f.filename, f.lineno, f.name) for f in reversed(frames) if _is_own(f.filename)), None)
    if place is None or not _is_own(place[0]):
        return None
    file, line, function = place
    return f"{Path(file).name}, line {line}" + (f", in {function}" if function else "")


def _is_own(file: str | None) -> bool:
    """Whether a file exists and belongs neither to rnnlab, nor to Python, nor to an installed package."""
    if file is None or not Path(file).is_file():
        return False
    package = Path(__file__).parents[1]
    homes = [package, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))]
    return not any(Path(file).resolve().is_relative_to(home.resolve()) for home in homes)


def is_text(given: str) -> bool:
    """Whether an argument or a line of input was valid in its encoding: Python decodes other bytes to surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in given)
