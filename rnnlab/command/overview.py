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
    """All choices of each group, each with the first line of its file."""
    folders = [Path(str(files("rnnlab.conf")))]
    if Path("conf").is_dir() and not Path("conf").samefile(folders[0]):
        folders.append(Path("conf"))
    lines, width = [], 39  # the longest name and two spaces
    for group in GROUPS:
        lines += ["", f"{group}="]
        homes = [folder / group for folder in folders]
        found = sorted(
            (file.relative_to(home).with_suffix("").as_posix(), file) for home in homes for file in home.rglob("*.yaml")
        )
        for name, file in sorted(found, key=lambda pair: (pair[0].count("/"), pair)):
            first = [
                line
                for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
                if not line.startswith("# @package")
            ][:1]
            lines.append(f"  {name:<{width}}{''.join(first).removeprefix('# ')}")
    lines += ["", "All options and their values: rnnlab train --cfg job. Your own files: conf/GROUP/NAME.yaml here, or"]
    lines += ["--config-dir DIR; your own classes: cell=my_module:MyCell, and likewise for the first five groups.", ""]
    return "\n".join(lines)
