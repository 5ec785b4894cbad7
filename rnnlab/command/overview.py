"""The help of ``rnnlab`` and ``rnnlab train``: all commands and all choices of a configuration."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from rnnlab import command

GROUPS = ("task", "model", "cell", "optimizer", "scheduler", "trainer", "logger", "experiment")

HEAD = "rnnlab: a laboratory for recurrent networks"
EXAMPLES = """\
Examples:
  rnnlab train experiment=hello
  rnnlab train model=lstm task.corpus=my_book.txt trainer.steps=3000
  rnnlab train -m cell=rnn,lstm,gru seed=0,1,2

rnnlab COMMAND --help lists the options of a command; --traceback prints the traceback of an error.
Exit codes: 0 success, 1 the process of a run of a sweep was killed, 2 invalid input, 3 the run diverged,
130 stopped by Ctrl-C, 143 stopped by SIGTERM (after 130 and 143, the same command resumes the run).
"""


def overview() -> str:
    """The help text: all commands, and all choices of each group."""
    lines = [line for name in command.NAMES for line in command.find(name).SYNOPSIS]
    width = max(len(call) for call, _ in lines) + 2
    calls = [f"  rnnlab {call:<{width}}{about}" for call, about in lines]
    return "\n".join([HEAD, "", *calls, "", EXAMPLES]) + _choices()


def _choices() -> str:
    """Return every choice of every group with its description."""
    folders = [Path(str(files("rnnlab.conf")))]
    if Path("conf").is_dir() and not Path("conf").samefile(folders[0]):
        folders.append(Path("conf"))
    lines, width = [], 39  # the longest name and two spaces
    for group in GROUPS:
        lines += ["", f"{group}="]
        found = _described_cells() if group == "cell" else []
        for home in (folder / group for folder in folders):
            for file in home.rglob("*.yaml"):
                found.append((file.relative_to(home).with_suffix("").as_posix(), _comment(file)))
        for name, about in sorted(found, key=lambda pair: (pair[0].count("/"), pair)):
            lines.append(f"  {name:<{width}}{about}")
    lines += ["", "All options and their values: rnnlab train --cfg job. Your own files: conf/GROUP/NAME.yaml here, or"]
    lines += ["--config-dir DIR; your own classes: cell=my_module:MyCell, and likewise for the first five groups.", ""]
    return "\n".join(lines)


def _comment(file: Path) -> str:
    """Return the comment with which a YAML file starts, or an empty string."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    first = next((line for line in lines if not line.startswith("# @package")), "")
    return first.removeprefix("# ") if first.startswith("#") else ""


def _described_cells() -> list[tuple[str, str]]:
    """Return each built-in cell, which needs no YAML file, with the first line of its file's docstring.

    The files are not imported: that would load PyTorch.
    """
    modules = [file for file in Path(str(files("rnnlab")), "cells").glob("*/[a-z]*.py") if file.stem != "base"]
    return [(file.stem, file.read_text(encoding="utf-8").split('"""')[1].splitlines()[0]) for file in modules]
