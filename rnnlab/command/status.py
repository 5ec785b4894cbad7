"""``rnnlab status``: show the progress of a sweep."""

from __future__ import annotations

from rnnlab.command.errors import BAD_INPUT, complain
from rnnlab.interface import InputError

SYNOPSIS = (("status DIR", "show the progress of a sweep, with the estimated time left"),)
NOTES = "DIR is the folder of the sweep (hydra.sweep.dir, runs by default)."


def run(arguments: list[str]) -> int:
    """Print a table of the runs of a sweep."""
    folders = [argument for argument in arguments if not argument.startswith("-")]
    from rnnlab.training import sweep

    if len(arguments) != 1 or not folders:
        raise InputError("give the folder of one sweep, for example: rnnlab status runs")
    found, problems = sweep.survey(folders[0])
    if found:
        print(sweep.table(found))
    for problem in problems:
        complain(problem)
    return 0 if found else BAD_INPUT
