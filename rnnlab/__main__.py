"""The command line: find and run a command, and convert errors to one line and an exit code."""

from __future__ import annotations

import os
import sys

from rnnlab import command, streams
from rnnlab.command import options
from rnnlab.command.errors import BAD_INPUT, complain, is_text, is_users, sentence
from rnnlab.command.overview import overview


def main(arguments: list[str] | None = None) -> int:
    """Run a command line, and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    show_traceback = "--traceback" in arguments
    try:
        with streams.prepared():
            try:
                code = _run([argument for argument in arguments if argument != "--traceback"])
                sys.stdout.flush()
                return code
            except Exception as error:
                if show_traceback or not is_users(error) or isinstance(error, BrokenPipeError):
                    raise
                complain(sentence(error))
                return BAD_INPUT
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of the pipe has ended
        return 0


def _run(arguments: list[str]) -> int:
    for argument in arguments:
        if not is_text(argument):
            complain(f"argument {argument!r} is not valid text in the system's encoding {sys.getfilesystemencoding()}")
            return BAD_INPUT
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return 0
    name, *rest = arguments
    if name not in command.NAMES:
        complain(f"unknown command {name!r}; the commands are {', '.join(command.NAMES)}")
        return BAD_INPUT
    found = command.find(name)
    if {"-h", "--help"} & set(rest):
        print(overview() if name == "train" else options.usage(name, found), end="")
        return 0
    sys.path.append(os.getcwd())  # for user-defined cells and tasks; last, so that their files shadow no module
    return found.run(rest)


if __name__ == "__main__":
    sys.exit(main())
