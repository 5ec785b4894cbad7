"""``rnnlab compare``: statistics over many runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rnnlab.command import options
from rnnlab.command.options import option
from rnnlab.interface import InputError

SYNOPSIS = (("compare DIR ...", "compare the runs at or below these folders: statistics, figures, one page"),)
NOTES = (
    "The validation metric selects checkpoints and options; the test metric is reported. Runs of different tasks or "
    "data are compared separately."
)
PREFIX = "--"
FORMATS = ("html", "pdf")


@dataclass
class Options:
    """Options in addition to the folders; ``--by KEYS``, ``--by=KEYS`` and ``by=KEYS`` are equivalent."""

    by: str = option("", "options that define the groups; default: all that differ, except the seed", "cell.name")
    out: str = option("comparison", "new folder for index.html, report.md, CSV tables and figures")
    format: str = option("html", "html; or pdf, which also writes figures as PDF and tables for LaTeX")
    metric: str = option("", "metric to compare; default: the metric of the task", "accuracy")
    tune: str = option(
        "", "option to select for each group by its best validation metric, on seeds not reported", "optimizer.lr"
    )
    tune_seeds: str = option("", "seeds for tune; default: the seeds that were run with several values", "100,101")


def run(arguments: list[str]) -> int:
    """Write a comparison and print it as Markdown."""
    folders, given = [], []
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            if not equals and (value := next(rest, None)) is None:
                raise InputError(f"{argument} needs a value; rnnlab compare --help lists the options")
            given.append(f"{name.replace('-', '_')}={value}")
        else:
            (given if "=" in argument and not Path(argument).exists() else folders).append(argument)
    chosen = options.read(Options, given)
    if chosen.format not in FORMATS:
        raise InputError(f"format={chosen.format!r} is not one of {', '.join(FORMATS)}")
    from rnnlab import analysis

    if not folders:
        raise InputError("give run directories, or folders that contain run directories: rnnlab compare runs/adding")
    seeds = [int(seed) if seed.strip().lstrip("-").isdigit() else seed for seed in _words(chosen.tune_seeds)]
    runs, unreadable = analysis.read(folders)
    compared = analysis.compare(runs, _words(chosen.by), chosen.metric or None, _words(chosen.tune), seeds)
    compared.problems[:0] = unreadable
    out = analysis.write(compared, chosen.out, with_pdf=chosen.format == "pdf")
    print(analysis.markdown(compared))
    print(f"Written: {out / 'index.html'}" + (f", {out / 'comparison.tex'}" if chosen.format == "pdf" else ""))
    return 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
