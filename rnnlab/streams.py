"""Standard streams that do not fail if they are closed, broken or full, or if an encoding lacks a character."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO


class Unbreakable:
    """A text stream that discards all further output after a write fails.

    The reader of a pipe may have ended, a terminal may be closed, or a disk may be full. Console output must not end a
    training run.

    Args:
        stream: stream to write to; all other attributes are those of this stream.
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
    """Make the three standard streams usable inside the context.

    Closed streams are replaced by the null device. Characters that the encoding of standard output lacks are written as
    escapes. Output that cannot be written to standard error is discarded.
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
            for stream in (sys.stdout, sys.stderr):  # otherwise Python flushes both at exit and prints an error
                Unbreakable(stream).flush()
            sys.stdin, sys.stdout, sys.stderr = before


def keep_going() -> None:
    """Ignore errors on standard output and standard error for the rest of this process."""
    _set_errors(sys.stdout, "backslashreplace")
    if not isinstance(sys.stdout, Unbreakable):
        sys.stdout = Unbreakable(sys.stdout)
    if not isinstance(sys.stderr, Unbreakable):
        sys.stderr = Unbreakable(sys.stderr)


def _set_errors(stream: Any, errors: str) -> None:
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors=errors)


def _drop(stream: TextIO) -> None:
    """Discard the buffer of ``stream`` and all further output to it."""
    with suppress(OSError, ValueError):  # the stream may not be a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
