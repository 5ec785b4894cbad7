"""The runs of a sweep and their progress.

Beside the runs of a sweep lies ``sweep-DIGEST.json``, the plan: written before the first run, it says what was asked
for, so that what has not begun yet is known too.
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
from rnnlab.training.settings import complete

STATES = ("finished", "diverged", "running", "stopped", "waiting", "refused")


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    overrides: its part of the command line.
    run_dir: its directory; None where the command line is refused.
    error: why it is refused.
    """

    overrides: str
    run_dir: str | None
    error: str | None = None


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    name: its directory within the sweep's, or its command line where it has none.
    state: one of `STATES`; ``stopped`` is begun and not being trained by any process.
    step, steps: done, and of the whole run; None where the run has not begun.
    seconds: of training so far.
    left: seconds of training that are left, going on as fast as until now; None where nothing is known.
    remark: why it is refused, or at which step it diverged.
    """

    name: str
    state: str
    step: int | None = None
    steps: int | None = None
    seconds: float = 0.0
    left: float | None = None
    remark: str = ""


def write_plan(folder: Path, command: Sequence[str], jobs: Sequence[Job]) -> Path:
    """Put the plan of a sweep beside its runs; the same command has the same file."""
    digest = hashlib.sha256(json.dumps(sorted(command)).encode()).hexdigest()[:8]
    path = folder / f"sweep-{digest}.json"
    folder.mkdir(parents=True, exist_ok=True)
    places = [
        {**vars(job), "run_dir": None if job.run_dir is None else _relative(Path(job.run_dir), folder)} for job in jobs
    ]
    files.write_json(path, {"command": list(command), "jobs": places})
    return path


def read_plans(folder: Path) -> tuple[list[Job], list[str]]:
    """The jobs of every plan in a folder, each once, and the plans that cannot be read."""
    jobs: dict[str, Job] = {}
    problems = []
    for path in sorted(folder.glob("sweep-*.json")):
        try:
            for job in json.loads(path.read_text(encoding="utf-8"))["jobs"]:
                place = None if job["run_dir"] is None else str(folder / job["run_dir"])
                jobs[place or job["overrides"]] = Job(job["overrides"], place, job["error"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            problems.append(f"{path} is no plan of a sweep ({type(error).__name__}: {error})")
    return list(jobs.values()), problems


def survey(folder: str | Path) -> tuple[list[Progress], list[str]]:
    """How far every run below a folder is, those that a sweep has still to begin included; and what cannot be read.

    Raises:
        InputError: it is no folder, or holds neither runs nor the plan of a sweep.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder} is no directory; give the folder of a sweep")
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
        raise InputError(f"{folder} holds no runs; give the folder of a sweep, runs if no other was named")
    return _with_guesses(found), problems


def as_typed(overrides: str) -> str:
    """A part of a command line without what Hydra puts before colons."""
    return overrides.replace("\\:", ":")


def is_dealt_with(run_dir: str) -> bool:
    """Whether a run is done, or another process is training it."""
    directory = RunDirectory(run_dir)
    summary = directory.summary() if directory.is_begun() else None
    return directory.is_claimed() or bool(summary and summary["status"] in ("finished", "diverged"))


def progress(place: Path, folder: Path) -> Progress:
    """How far one run is; ``folder`` is what its name is relative to."""
    directory, name = RunDirectory(place), _relative(place, folder)
    if not directory.is_begun():
        return Progress(name, "waiting")
    stored = directory.config()
    if "steps" not in (stored.get("trainer") or {}):  # defaults load PyTorch
        stored = complete(stored)
    options = flatten(stored)
    steps = options.get("trainer.steps")
    summary = directory.summary()
    if summary and summary["status"] in ("finished", "diverged"):
        remark = f"at step {summary['diverged_at']}" if summary["status"] == "diverged" else ""
        return Progress(name, summary["status"], summary["steps"], steps, summary["seconds"], 0.0, remark)
    # One that was told to stop wrote a summary; one that was killed, or is running, has measurements only.
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
        more = one.remark or (f"{_duration(one.left)} left" if one.left else "")
        lines.append(f"{one.name:{width}}  {one.state:8}  {steps:>18}  {more}".rstrip())
    counts = Counter(one.state for one in found)
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    at_once = counts["running"]
    open_runs = [one for one in found if one.state in ("running", "stopped", "waiting")]
    if not open_runs:
        lines.append(f"{told}: nothing is left to do")
    elif any(one.left is None for one in open_runs):
        lines.append(f"{told}; how long it will take is not known before a run is done")
    else:
        left = sum(one.left for one in open_runs) / max(at_once, 1)
        longest = max(one.left for one in open_runs)
        lines.append(f"{told}; about {_duration(max(left, longest))} left with {max(at_once, 1)} at a time")
    return "\n".join(lines)


def _with_guesses(found: list[Progress]) -> list[Progress]:
    """Runs that have not begun will take as long as those that are done did in the mean."""
    done = [one.seconds for one in found if one.state == "finished"]
    paces = done or [one.seconds + one.left for one in found if one.left]
    guess = mean(paces) if paces else None
    return [
        Progress(**{**vars(one), "left": guess}) if one.left is None and one.state in ("waiting", "stopped") else one
        for one in found
    ]


def _last_record(file: Path) -> dict[str, Any]:
    """The last whole line of a metrics file; empty where there is none."""
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
    whole = (path.absolute(), folder.absolute()), (path.resolve(), folder.resolve())  # a link keeps its own name
    names = [str(one.relative_to(home)) for one, home in whole if ".." not in one.parts and one.is_relative_to(home)]
    return names[0] if names else str(path.resolve())


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
