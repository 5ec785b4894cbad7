"""``rnnlab train``: one run, or with ``-m`` a sweep."""

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
    ("train -m key=a,b seed=0,1", "train one model for each combination"),
)


@dataclass
class _Launch:
    """What a command line led to.

    arguments: the command line.
    codes: exit codes of the runs.
    errors: of a run that is not part of a sweep.
    planned: the runs of a sweep.
    process: the process that began it.
    """

    arguments: list[str]
    codes: list[int] = field(default_factory=lambda: [0])
    errors: list[Exception] = field(default_factory=list)
    planned: list[Any] = field(default_factory=list)
    process: int = field(default_factory=os.getpid)


def run(arguments: list[str]) -> int:
    """Train."""
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
            "the process of a run was killed, for want of memory perhaps, and the runs beside it have stopped; the "
            "same command resumes them"
        )
        return KILLED
    if launch.errors:
        raise launch.errors[0]
    # A run in another process of the sweep cannot say here how it ended; its directory can.
    failed = not all(one.run_dir and sweep.is_dealt_with(one.run_dir) for one in launch.planned)
    return BAD_INPUT if failed else max(launch.codes)


def _train_one(launch: _Launch, composed: Any) -> None:
    """Train one run, called by Hydra with its composed configuration."""
    streams.keep_going()  # in the processes of a sweep too
    from rnnlab import config
    from rnnlab.training import train as train_run
    from rnnlab.training.signals import end_with_parent

    job = config.current_job()
    is_worker = job.launcher == "joblib" and os.getpid() != launch.process  # on a cluster runs outlive their sender
    try:
        resolved = config.resolve(composed, job.sweep_dir, job.overrides)
        if is_worker:
            end_with_parent(launch.process)
        # Several processes write at the same time.
        _log_to_stdout("" if job.launcher == "basic" else f"[{Path(resolved['run_dir']).name}] ")
        summary = train_run(resolved)
    except Exception as error:  # caught here, as Hydra would add a line of its own
        if not is_users(error):
            raise
        _note_error(launch, error, job)
        return
    if summary["status"] == "stopped":
        if is_worker:
            end_with_parent(launch.process)
        raise SystemExit(128 + summary["signal"])  # of a sweep too: the signal was meant for all of it
    if not job.is_sweep:
        launch.codes.append(DIVERGED if summary["status"] == "diverged" else 0)
        _say_what_next(summary)


def _note_error(launch: _Launch, error: Exception, job: config.CurrentJob) -> None:
    """Report an error; the other runs of a sweep go on."""
    from rnnlab.training import sweep
    from rnnlab.training.directory import Busy

    if job.is_sweep and isinstance(error, Busy):  # two processes may share a sweep
        print(f"{error}; the sweep goes on with the next run")
    elif job.is_sweep:
        launch.codes.append(BAD_INPUT)
        given = " ".join(override.lstrip("+") for override in job.overrides)
        complain(f"{sweep.as_typed(given)}: {sentence(error)}")
    else:
        launch.errors.append(error)


def _begin_sweep(launch: _Launch, found: config.Sweep) -> None:
    """Store the plan of a sweep, and report the runs of it that cannot be."""
    from rnnlab.training import sweep

    if any(one.run_dir for one in found.jobs):
        sweep.write_plan(found.folder, launch.arguments, found.jobs)
    for one in found.jobs:
        if not one.run_dir:
            complain(f"{sweep.as_typed(one.overrides)}: {one.error}")
    launch.planned.extend(found.jobs)


def _say_what_next(summary: dict) -> None:
    """Print where a run lies, and the commands to use next."""
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
    if tasks.find(name).speaker is not tasks.Task.speaker:
        console.info("Generate more:  %s generate run=%s length=1000", program, run)
    console.info("See its curves: %s --logdir %s --host 127.0.0.1", board, Path(run).parent)


def _log_to_stdout(prefix: str = "") -> None:
    logger = logging.getLogger("rnnlab")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.handlers[0].setFormatter(logging.Formatter(prefix.replace("%", "%%") + "%(message)s"))
