"""Standard streams that cannot fail: closed, broken or full ones, and encodings that lack characters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO


class Unbreakable:
    """A text stream whose output is dropped from the moment at which it cannot be written any more.

    A pipe may have lost its reader, a terminal may be gone, a device full: nothing that is written for the eye may end
    a training.

    Args:
        stream: where the output goes; everything else is passed on to it.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:  # noqa: D102
        try:
            return self.stream.write(text)
        except OSError:
            _drop(self.stream)
            return len(text)

    def flush(self) -> None:  # noqa: D102
        try:
            self.stream.flush()
        except OSError:
            _drop(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def prepared() -> Iterator[None]:
    """Make all three standard streams usable while the context lasts.

    A stream that is closed is an empty one. A character that the encoding of an output lacks is written as an escape.
    What cannot be written to the standard error is dropped.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    with ExitStack() as opened:
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:
                setattr(sys, name, opened.enter_context(open(os.devnull, mode)))
        _set_errors(sys.stdin, "surrogateescape")
        _set_errors(sys.stdout, "backslashreplace")
        sys.stderr = Unbreakable(sys.stderr)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):  # Python flushes both at its end, and would complain
                Unbreakable(stream).flush()
            sys.stdin, sys.stdout, sys.stderr = before


def keep_going() -> None:
    """Ignore errors on the standard output for the rest of this process."""
    _set_errors(sys.stdout, "backslashreplace")
    if not isinstance(sys.stdout, Unbreakable):
        sys.stdout = Unbreakable(sys.stdout)
    if not isinstance(sys.stderr, Unbreakable):
        sys.stderr = Unbreakable(sys.stderr)


def _set_errors(stream: Any, errors: str) -> None:
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors=errors)


def _drop(stream: TextIO) -> None:
    """Discard what ``stream`` has buffered and everything written to it from now on."""
    with suppress(OSError, ValueError):  # it may be no file at all
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
