"""What acceptance.py and results.py share: the files of experiments, their runs and their scores.

A file ``conf/experiment/GROUP/NAME.yaml`` has a section ``GROUP`` with ``seeds`` and ``runs``. A run trains into
``runs/GROUP/NAME/RUN-sSEED``.
"""

import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rnnlab.training.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[1]


def files(group: str) -> list[Path]:
    """Return the files of a group of experiments, sorted by name."""
    return sorted((ROOT / "conf" / "experiment" / group).glob("*.yaml"))


@cache
def read(group: str, name: str) -> dict[str, Any]:
    """Return the section ``group`` of an experiment's file, which callers must not change."""
    return yaml.safe_load((ROOT / "conf" / "experiment" / group / f"{name}.yaml").read_text())[group]


def title(file: Path) -> str:
    """Return the comment in the second line of an experiment's file."""
    return file.read_text().splitlines()[1].removeprefix("# ")


def directory(group: str, name: str, run: str, seed: int) -> Path:
    """Return the directory of a run."""
    return Path("runs") / group / name / f"{run}-s{seed}"


def arguments(group: str, given: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the names of experiments and the options of a command line; exit if one is unknown."""
    options = {"long": "false", "jobs": str(os.cpu_count()), "out": str(ROOT / "docs" / f"{group}.md")}
    known = [file.stem for file in files(group)]
    names = [argument for argument in given if "=" not in argument]
    values = dict(argument.split("=", 1) for argument in given if "=" in argument)
    wrong = [name for name in names if name not in known] + [key for key in values if key not in options]
    if wrong:
        sys.exit(f"unknown: {', '.join(wrong)}; experiments: {', '.join(known)}; options: {', '.join(options)}")
    return names, options | values


def train_all(group: str, runs: list[tuple[str, str, list[str], int]], jobs: int) -> None:
    """Train runs, given as ``(name, run, overrides, seed)``, with ``jobs`` runs at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda one: train(group, *one), runs))


def train(group: str, name: str, run: str, overrides: list[str], seed: int) -> None:
    """Train one run with one thread in its own process, and print its status; a finished run is not repeated."""
    place = directory(group, name, run, seed)
    command = [sys.executable, "-m", "rnnlab", "train", f"experiment={group}/{name}", *overrides, f"seed={seed}"]
    command += [f"run_dir={place}", "logger.progress=false"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    last = (done.stdout + done.stderr).strip().splitlines()
    ended = RunDirectory(place).summary()
    print(f"{place}: {ended['status'] if ended else last[-1] if last else 'no output'}", flush=True)


def finished(run: Path) -> dict[str, Any] | None:
    """Return the summary of a run; None if the run is not finished."""
    summary = RunDirectory(run).summary()
    return None if summary is None or summary["status"] == "stopped" else summary


def value(expectation: dict[str, Any], run: Path) -> float | None:
    """Return the value of an expectation for one run.

    It is None if the run is not finished, and the worst infinity if it diverged.
    """
    summary = finished(run)
    if summary is None:
        return None
    split, name = expectation["value"].split("/")
    lower = summary["metrics"][name]["better"] == "lower"
    if summary["status"] == "diverged":
        return float("inf") if lower else float("-inf")
    if split == "test":
        found = summary["test"][name]
    else:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        until = expectation.get("until", summary["steps"])
        values = [line[name] for line in lines if line["split"] == split and line["step"] <= until]
        found = min(values) if lower else max(values)
    if "over" in expectation:
        found /= summary["baselines"][split][expectation["over"]][name]
    return found


def scores(expectation: dict[str, Any], runs: list[Path]) -> dict[str, Any] | None:
    """Return mean, best and single values of the runs of all seeds, or None if a seed is not finished."""
    values = [value(expectation, run) for run in runs]
    if None in values:
        return None
    metrics = RunDirectory(runs[0]).summary()["metrics"]
    better = min if metrics[expectation["value"].split("/")[1]]["better"] == "lower" else max
    return {"mean": statistics.fmean(values), "best": better(values), "single": values}


def sections(page: str) -> dict[str, str]:
    """Return the sections of a page by their heading, each without its heading."""
    parts = (part.partition("\n") for part in page.split("\n## ")[1:])
    return {heading: text.strip("\n") for heading, _, text in parts}
