"""``rnnlab train``: train one run, or a sweep with ``-m``."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnlab import streams
from rnnlab.command.errors import BAD_INPUT, DIVERGED, KILLED, complain, is_users, sentence

if TYPE_CHECKING:
    from rnnlab import config

SYNOPSIS = (
    ("train [key=value ...]", "train a model; the same command resumes a stopped run"),
    ("train -m key=a,b seed=0,1", "run a sweep: train one model for each combination of values"),
)


@dataclass
class _Launch:
    """The results of a command line.

    arguments: arguments of the command line.
    codes: exit codes of the runs.
    errors: errors of a run that is not part of a sweep.
    planned: jobs of a sweep.
    process: process ID of the command.
    """

    arguments: list[str]
    codes: list[int] = field(default_factory=lambda: [0])
    errors: list[Exception] = field(default_factory=list)
    planned: list[Any] = field(default_factory=list)
    process: int = field(default_factory=os.getpid)


def run(arguments: list[str]) -> int:
    """Train a run or a sweep."""
    streams.keep_going()
    from concurrent.futures import BrokenExecutor
    from functools import partial

    from rnnlab import config
    from rnnlab.training import sweep

    launch = _Launch(arguments)
    try:
        config.launch(arguments, partial(_train_one, launch), partial(_begin_sweep, launch))
    except BrokenExecutor:
        complain(
            "the process of a run was killed, possibly because memory ran out, and the runs in parallel have stopped; "
            "repeat the same command to resume them"
        )
        return KILLED
    if launch.errors:
        raise launch.errors[0]
    # Runs in other processes do not return a status; read it from their directories.
    failed = not all(one.run_dir and sweep.is_dealt_with(one.run_dir) for one in launch.planned)
    return BAD_INPUT if failed else max(launch.codes)


def _train_one(launch: _Launch, composed: Any) -> None:
    """Train one run; Hydra calls this function with the composed configuration."""
    streams.keep_going()  # again, for the worker processes of a sweep
    from rnnlab import config
    from rnnlab.training import train as train_run
    from rnnlab.training.signals import end_with_parent

    job = config.current_job()
    is_worker = job.launcher == "joblib" and os.getpid() != launch.process  # Slurm runs outlive this process
    try:
        resolved = config.resolve(composed, job.sweep_dir, job.overrides)
        if is_worker:
            end_with_parent(launch.process)
        # With other launchers, several processes write at the same time: the prefix tells their lines apart.
        _log_to_stdout("" if job.launcher == "basic" else f"[{Path(resolved['run_dir']).name}] ")
        summary = train_run(resolved)
    except Exception as error:  # caught here, because Hydra would add a line to the message
        if not is_users(error):
            raise
        _note_error(launch, error, job)
        return
    if summary["status"] == "stopped":
        if is_worker:
            end_with_parent(launch.process)
        raise SystemExit(128 + summary["signal"])  # ends a whole sweep: the signal was sent to all of it
    if not job.is_sweep:
        launch.codes.append(DIVERGED if summary["status"] == "diverged" else 0)
        _say_what_next(summary)


def _note_error(launch: _Launch, error: Exception, job: config.CurrentJob) -> None:
    """Report an error; the other runs of a sweep continue."""
    from rnnlab.training import sweep
    from rnnlab.training.directory import Busy

    if job.is_sweep and isinstance(error, Busy):  # two processes may share a sweep
        print(f"{error}; the sweep continues with the next run")
    elif job.is_sweep:
        launch.codes.append(BAD_INPUT)
        given = " ".join(override.lstrip("+") for override in job.overrides)
        complain(f"{sweep.as_typed(given)}: {sentence(error)}")
    else:
        launch.errors.append(error)


def _begin_sweep(launch: _Launch, found: config.Sweep) -> None:
    """Write the plan of a sweep, and report the runs whose configuration is invalid."""
    from rnnlab.training import sweep

    if any(one.run_dir for one in found.jobs):
        sweep.write_plan(found.folder, launch.arguments, found.jobs)
    for one in found.jobs:
        if not one.run_dir:
            complain(f"{sweep.as_typed(one.overrides)}: {one.error}")
    launch.planned.extend(found.jobs)


def _say_what_next(summary: dict) -> None:
    """Print the directory of a run, and the commands to use next."""
    from rnnlab import lookup, tasks

    config = summary["config"]
    folder = Path(sys.argv[0]).parent
    on_path = shutil.which("rnnlab") == str(folder / "rnnlab")
    program, board = ("rnnlab", "tensorboard") if on_path else (str(folder / "rnnlab"), str(folder / "tensorboard"))
    if not (folder / "rnnlab").exists():
        program, board = "python -m rnnlab", "tensorboard"
    run, console = config["run_dir"], logging.getLogger("rnnlab")
    console.info("")
    console.info("Run directory:  %s", run)
    name, _ = lookup.read_section(config["task"])
    task = tasks.find(name)
    if (task.speaker, task.generate) != (tasks.Task.speaker, tasks.Task.generate):
        console.info("Use the model:  %s %s", program, task.usage.format(run=run))
    console.info("See its curves: %s --logdir %s --host 127.0.0.1", board, Path(run).parent)


def _log_to_stdout(prefix: str = "") -> None:
    logger = logging.getLogger("rnnlab")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.handlers[0].setFormatter(logging.Formatter(prefix.replace("%", "%%") + "%(message)s"))
