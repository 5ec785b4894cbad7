"""A conversation on standard input and output, for ``rnnlab chat`` and ``rnnlab generate``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator

from rnnlab.command.errors import complain, is_text
from rnnlab.interface import InputError


def converse(reply: Callable[[str], Iterator[str]], ends: Collection[str] = ()) -> None:
    """Answer each line of standard input, until it ends or a line is one of ``ends``.

    A line that has no answer, such as one with an unknown character, is reported and does not end the conversation.

    Args:
        reply: the pieces of the answer to a line; raises an InputError for a line without one.
        ends: lines that end the conversation, in lower case.
    """
    is_terminal = sys.stdin.isatty()
    while True:
        try:
            line = input("> ") if is_terminal else _next_line()
        except (EOFError, KeyboardInterrupt) as end:
            if is_terminal:
                print()  # the prompt of the shell starts a new line
            if isinstance(end, EOFError):
                return
            raise
        if line.strip().lower() in ends:
            return
        try:
            if not is_text(line):
                raise InputError(f"the line {line[:40]!r} is not valid text in the encoding {sys.stdin.encoding}")
            print_pieces(reply(line))
        except InputError as error:
            complain(str(error))


def _next_line() -> str:
    """The next line of standard input; `input` would discard a Ctrl-C that comes while it flushes standard error.

    Raises:
        EOFError: the input has ended.
    """
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def print_pieces(pieces: Iterator[str]) -> None:
    """Print a line piece by piece."""
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
