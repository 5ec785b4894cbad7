"""The runs of a sweep and their progress.

The folder of a sweep contains its plan, ``sweep-DIGEST.json``. The plan is written before the first run and lists all
runs, so that runs that have not started are known.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rnnlab import files
from rnnlab.interface import InputError
from rnnlab.training.directory import RunDirectory, find_runs, flatten
from rnnlab.training.pace import duration
from rnnlab.training.settings import complete

STATES = ("finished", "diverged", "running", "stopped", "waiting", "refused")


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    overrides: overrides of this run from the command line.
    run_dir: directory of the run; None if the configuration is invalid.
    error: error message if the configuration is invalid.
    """

    overrides: str
    run_dir: str | None
    error: str | None = None


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    name: directory of the run relative to the sweep, or its overrides if it has no directory.
    state: one of `STATES`; ``stopped`` means started, but not being trained by any process.
    step: number of training steps done; None if the run has not started.
    steps: number of training steps of the whole run; None if the run has not started.
    seconds: training time so far, in seconds.
    left: estimated training time left, in seconds, at the speed so far; None if unknown.
    remark: error message, or the step at which the run diverged.
    """

    name: str
    state: str
    step: int | None = None
    steps: int | None = None
    seconds: float = 0.0
    left: float | None = None
    remark: str = ""


def write_plan(folder: Path, command: Sequence[str], jobs: Sequence[Job]) -> Path:
    """Write the plan of a sweep to its folder; the name of the file is a digest of the command."""
    digest = hashlib.sha256(json.dumps(sorted(command)).encode()).hexdigest()[:8]
    path = folder / f"sweep-{digest}.json"
    folder.mkdir(parents=True, exist_ok=True)
    places = [
        {**vars(job), "run_dir": None if job.run_dir is None else _relative(Path(job.run_dir), folder)} for job in jobs
    ]
    files.write_json(path, {"command": list(command), "jobs": places})
    return path


def read_plans(folder: Path) -> tuple[list[Job], list[str]]:
    """The jobs of all plans in a folder, without duplicates, and a message for each plan that cannot be read."""
    jobs: dict[str, Job] = {}
    problems = []
    for path in sorted(folder.glob("sweep-*.json")):
        try:
            for job in json.loads(path.read_text(encoding="utf-8"))["jobs"]:
                place = None if job["run_dir"] is None else str(folder / job["run_dir"])
                jobs[place or job["overrides"]] = Job(job["overrides"], place, job["error"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            problems.append(f"{path} is not the plan of a sweep ({type(error).__name__}: {error})")
    return list(jobs.values()), problems


def survey(folder: str | Path) -> tuple[list[Progress], list[str]]:
    """The progress of all runs of a sweep, including runs that have not started.

    Args:
        folder: folder of the sweep.

    Returns:
        the progress of each run, and a message for each file that cannot be read.

    Raises:
        InputError: the folder does not exist, or contains neither runs nor the plan of a sweep.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder} is not a directory; give the folder of a sweep")
    jobs, problems = read_plans(folder)
    places = {place.resolve(): place for place in find_runs(folder, problems) if RunDirectory(place).is_begun()}
    for job in jobs:
        if job.run_dir:
            places.setdefault(Path(job.run_dir).resolve(), Path(job.run_dir))
    found = []
    for place in sorted(places.values()):
        try:
            found.append(progress(place, folder))
        except InputError as error:
            problems.append(str(error))
    found += [Progress(as_typed(job.overrides), "refused", remark=job.error or "") for job in jobs if not job.run_dir]
    if not found and not problems:
        raise InputError(f"{folder} holds no runs; give the folder of a sweep, which is runs by default")
    return _with_guesses(found), problems


def as_typed(overrides: str) -> str:
    """Overrides without the backslashes that Hydra adds before colons."""
    return overrides.replace("\\:", ":")


def is_dealt_with(run_dir: str) -> bool:
    """Whether a run has finished or diverged, or a process is training it."""
    directory = RunDirectory(run_dir)
    summary = directory.summary() if directory.is_begun() else None
    return directory.is_claimed() or bool(summary and summary["status"] in ("finished", "diverged"))


def progress(place: Path, folder: Path) -> Progress:
    """The progress of the run in ``place``; its name is relative to ``folder``."""
    directory, name = RunDirectory(place), _relative(place, folder)
    if not directory.is_begun():
        return Progress(name, "waiting")
    stored = directory.config()
    if "steps" not in (stored.get("trainer") or {}):  # only if needed, because computing the defaults loads PyTorch
        stored = complete(stored)
    options = flatten(stored)
    steps = options.get("trainer.steps")
    summary = directory.summary()
    if summary and summary["status"] in ("finished", "diverged"):
        remark = f"at step {summary['diverged_at']}" if summary["status"] == "diverged" else ""
        return Progress(name, summary["status"], summary["steps"], steps, summary["seconds"], 0.0, remark)
    # A run stopped by a signal has a summary. A running or killed run has only measurements.
    record = summary or _last_record(directory.metrics_file)
    step, seconds = record.get("steps", record.get("step", 0)), record.get("seconds", 0.0)
    left = seconds / step * (steps - step) if step and steps else None
    if left is not None and (most := options.get("budget.seconds")):
        left = min(left, max(0.0, most - seconds))
    return Progress(name, "running" if directory.is_claimed() else "stopped", step, steps, seconds, left)


def table(found: Sequence[Progress]) -> str:
    """The progress of a sweep as a table, with the estimated time left."""
    width = max(len(one.name) for one in found)
    lines = []
    for one in sorted(found, key=lambda one: (STATES.index(one.state), one.name)):
        steps = "" if one.steps is None else f"{one.step:,} of {one.steps:,}"
        more = one.remark or (f"{duration(one.left)} left" if one.left else "")
        lines.append(f"{one.name:{width}}  {one.state:8}  {steps:>18}  {more}".rstrip())
    counts = Counter(one.state for one in found)
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    at_once = counts["running"]
    open_runs = [one for one in found if one.state in ("running", "stopped", "waiting")]
    if not open_runs:
        lines.append(f"{told}: all runs have ended")
    elif any(one.left is None for one in open_runs):
        lines.append(f"{told}; the time left is not known yet")
    else:
        left = sum(one.left for one in open_runs) / max(at_once, 1)
        longest = max(one.left for one in open_runs)
        lines.append(f"{told}; about {duration(max(left, longest))} left with {max(at_once, 1)} at a time")
    return "\n".join(lines)


def _with_guesses(found: list[Progress]) -> list[Progress]:
    """Estimate the time of runs that have not started as the mean time of the finished runs."""
    done = [one.seconds for one in found if one.state == "finished"]
    paces = done or [one.seconds + one.left for one in found if one.left]
    guess = mean(paces) if paces else None
    return [
        Progress(**{**vars(one), "left": guess}) if one.left is None and one.state in ("waiting", "stopped") else one
        for one in found
    ]


def _last_record(file: Path) -> dict[str, Any]:
    """The last complete record of a metrics file; empty if there is none."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 65536))
            lines = stream.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            return record
    return {}


def _relative(path: Path, folder: Path) -> str:
    whole = (path.absolute(), folder.absolute()), (path.resolve(), folder.resolve())  # prefer the name of a link
    names = [str(one.relative_to(home)) for one, home in whole if ".." not in one.parts and one.is_relative_to(home)]
    return names[0] if names else str(path.resolve())
