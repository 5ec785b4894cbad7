"""``rnnlab runs``: list runs with their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rnnlab.command import options
from rnnlab.command.errors import complain
from rnnlab.command.options import option
from rnnlab.interface import InputError

if TYPE_CHECKING:
    from rnnlab.analysis.runs import Run

SYNOPSIS = (("runs [FOLDER ...]", "list runs with their scores, by task, the best run first"),)
NOTES = "FOLDER is a run or a folder of runs; the default is runs. The score is on test, or on valid without a test."

COLUMNS = ("score", "run", "cell", "seed", "parameters", "state", "steps", "seconds")


@dataclass
class Options:
    """Options of the command."""

    sort: str = option("score", f"column: {', '.join(COLUMNS)}")
    metric: str = option("", "metric of the score; default: the metric that selected the best checkpoint", "NAME")


def run(arguments: list[str]) -> int:
    """Print one table for every task."""
    given = [argument for argument in arguments if argument.partition("=")[0] in ("sort", "metric")]
    folders = [argument for argument in arguments if argument not in given]
    chosen = options.read(Options, given + [folder for folder in folders if folder.startswith("-")])
    if chosen.sort not in COLUMNS:
        raise InputError(f"sort={chosen.sort!r} is not one of {', '.join(COLUMNS)}")
    from rnnlab.analysis import runs

    found, problems = runs.read(folders or ["runs"])
    by_task: dict[str, list[Run]] = {}
    for one in found:
        by_task.setdefault(one.task, []).append(one)
    for number, (task, members) in enumerate(sorted(by_task.items())):
        print("\n" * bool(number) + f"{task}\n" + _table(members, chosen))
    for problem in problems:
        complain(problem)
    return 0


def _table(members: list[Run], chosen: Options) -> str:
    from rnnlab.report.table import aligned

    rows = [_row(one, chosen.metric or one.monitor) for one in members]
    rows.sort(key=lambda row: _order(row, chosen.sort))
    cells = [[*COLUMNS], *([_shown(name, row) for name in COLUMNS] for row in rows)]
    return "\n".join("  " + line for line in aligned(cells))


def _row(one: Run, metric: str) -> dict[str, Any]:
    """Return the values of the columns; ``rank`` orders scores, the best first."""
    score = one.score(metric)
    sign = 1 if one.metric(metric).better == "lower" else -1
    return {
        "score": score,
        "rank": sign * score,
        "unit": f"{one.split} {metric}",
        "run": str(one.path),
        "cell": str(one.config.get("cell.name")),
        "seed": one.seed,
        "parameters": one.summary.get("parameters"),
        "state": one.status,
        "steps": one.summary.get("steps"),
        "seconds": one.summary.get("seconds"),
    }


def _order(row: dict[str, Any], column: str) -> tuple[bool, Any]:
    value = row["rank" if column == "score" else column]
    is_missing = value is None or value != value  # NaN
    return is_missing, (0 if is_missing else value), row["run"]


def _shown(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if value is None or value != value:
        return "-"
    if name == "score":
        return f"{value:.4g} {row['unit']}"
    return f"{value:,.0f}" if name in ("parameters", "steps", "seconds") else str(value)
