"""Read run directories, whether finished, unfinished or damaged; directories that cannot be read are reported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rnnlab.interface import InputError, Metric
from rnnlab.training import settings
from rnnlab.training.directory import YAML_LOADER, find_runs, flatten

Curve = dict[str, np.ndarray]
"""A metric over a run: arrays ``step``, ``tokens``, ``seconds``, ``flops`` and ``value``, one entry per evaluation."""


@dataclass
class Run:
    """One run, read from its directory.

    path: the run directory.
    options: the nested configuration; options that an older run lacks may be set to their defaults.
    summary: the contents of summary.json; empty if the run has not ended or the file cannot be read.
    problems: sentences about missing or damaged files.
    config: the flat configuration, with keys joined by dots.
    """

    path: Path
    options: dict[str, Any]
    summary: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(init=False)
    _curves: dict[str, Curve] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.config = flatten(self.options)

    @property
    def status(self) -> str:
        """``finished``, ``diverged``, or ``unfinished``: running, stopped, or without a readable summary."""
        status = self.summary.get("status")
        return status if status in ("finished", "diverged") else "unfinished"

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.config.get("task.name"))

    @property
    def digest(self) -> str | None:
        """SHA-256 of the data; None if the run did not record it."""
        return self.summary.get("data_digest")

    @property
    def seed(self) -> Any:
        """The run's seed."""
        return self.config.get("seed")

    @property
    def monitor(self) -> str:
        """The metric by which the best checkpoint was chosen."""
        return self.summary.get("monitor") or getattr(self._task_class(), "monitor", "loss")

    def metric(self, name: str) -> Metric:
        """Return unit and direction of a metric.

        Raises:
            InputError: the run has no such metric.
        """
        declared = self.summary.get("metrics") or {}
        if name in declared:
            return Metric(**declared[name])
        known = getattr(self._task_class(), "metrics", {})
        if name not in known:
            raise InputError(f"{self.path} has no metric {name!r}; it has {', '.join({**declared, **known}) or 'none'}")
        return known[name]

    def score(self, name: str) -> float:
        """Return a metric of the best checkpoint on test, or on valid if the task has no test split; NaN if missing."""
        return self._number(self.summary.get("test") or self.summary.get("best"), name)

    def selection(self, name: str) -> float:
        """Return a metric of the best checkpoint on valid, for the choice of options; NaN if missing."""
        return self._number(self.summary.get("best"), name)

    @property
    def budget(self) -> tuple[str, float, float] | None:
        """Quantity, goal and relative deviation of the budget for which the width was solved; None without a budget."""
        found = self.summary.get("budget")
        if not isinstance(found, dict) or not isinstance(found.get("deviation"), int | float):
            return None
        return str(found.get("of")), _float(found.get("goal")), float(found["deviation"])

    @property
    def split(self) -> str:
        """The split of `score`."""
        return "test" if self.summary.get("test") else "valid"

    def baselines(self, name: str, split: str) -> dict[str, float]:
        """Return a metric of the task's trivial baselines on a split, by the baseline's name."""
        given = self.summary.get("baselines", {}).get(split)
        values = {who: self._number(record, name) for who, record in given.items()} if isinstance(given, dict) else {}
        return {who: value for who, value in values.items() if isfinite(value)}

    def curve(self, name: str) -> Curve:
        """Return a metric at every evaluation on valid; unreadable records are reported in ``problems``."""
        if name in self._curves:
            return self._curves[name]
        keys = ("step", "tokens", "seconds", name)
        found = records(self.path / "metrics.jsonl", self.problems)
        found = [record for record in found if record.get("split") in ("valid", "train_eval")]
        step, tokens, seconds, value = (_column([record.get(key) for record in found]) for key in keys)
        if not np.isfinite(value).all():
            steps = ", ".join(f"{at:.0f}" for at in step[~np.isfinite(value)][:3])
            self.problems.append(f"{name} on valid is not a finite number at step {steps}")
        flops = tokens * _float(self.summary.get("flops_per_token"))
        self._curves[name] = {"step": step, "tokens": tokens, "seconds": seconds, "flops": flops, "value": value}
        return self._curves[name]

    def _number(self, record: Any, name: str) -> float:
        return _float(record.get(name)) if isinstance(record, dict) else nan

    def _task_class(self) -> Any:
        from rnnlab import tasks  # imports PyTorch; needed only if summary.json lacks the metrics

        try:
            return tasks.find(self.task)
        except InputError:  # an external task that cannot be imported here
            return None


def read(paths: Iterable[str | Path]) -> tuple[list[Run], list[str]]:
    """Return every run at or below ``paths``, each once and in this order, and the problems of unreadable directories.

    Raises:
        InputError: a path is not a directory, or no run was found.
    """
    runs, problems, seen = [], [], set()
    paths = [Path(path).expanduser() for path in paths]
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path} is not a directory; give run directories or folders that contain run directories")
        for folder in find_runs(path, problems):
            place = folder.resolve()
            if place in seen:
                continue
            seen.add(place)
            run = _read(folder)
            (runs if isinstance(run, Run) else problems).append(run)
    if not runs:
        given = ", ".join(map(str, paths))
        raise InputError(f"no run found in {given}" + (f" ({problems[0]})" if problems else ""))
    if _have_different_options(runs):
        complete(runs)
    return runs, problems


def complete(runs: Iterable[Run]) -> None:
    """Add the defaults of options that runs of an older version lack; imports PyTorch to look them up."""
    for run in runs:
        run.options = settings.complete(run.options)
        run.config = flatten(run.options)


def _have_different_options(runs: Iterable[Run]) -> bool:
    """Whether runs with the same task, cell, model and so on have different sets of options."""
    known: dict[Any, set[frozenset[str]]] = {}
    for run in runs:
        for group, section in {"": run.options, **run.options}.items():
            if isinstance(section, dict):
                known.setdefault((group, section.get("class", section.get("name"))), set()).add(frozenset(section))
    return any(len(kinds) > 1 for kinds in known.values())


def _read(folder: Path) -> Run | str:
    """Return the run in a folder, or the reason why it cannot be used."""
    problems: list[str] = []
    summary: dict[str, Any] = {}
    file = folder / "summary.json"
    if file.exists():
        try:
            found = json.loads(file.read_text(errors="replace"))
            summary = found if isinstance(found, dict) else {}
        except (OSError, json.JSONDecodeError) as error:
            problems.append(f"summary.json cannot be read ({error})")
    summary = _sound(summary, problems)
    config = summary.get("config")
    if not isinstance(config, dict):
        try:
            config = yaml.load((folder / "config.yaml").read_text(errors="replace"), YAML_LOADER)
        except (OSError, yaml.YAMLError) as error:
            return (
                f"{folder}: neither summary.json nor config.yaml can be read ({str(error).splitlines()[0]}); left out"
            )
    if not isinstance(config, dict) or not isinstance(config.get("task"), dict):
        return f"{folder}: the configuration has no task; left out"
    run = Run(folder, config, summary, problems)
    if not summary and not problems:
        problems.append("summary.json is missing: the run is in progress or was stopped")
    if run.status == "finished" and not isfinite(run.score(run.monitor)):
        problems.append(f"{run.monitor} on {run.split} is not a finite number; the run counts as diverged")
    return run


_KINDS: dict[type, tuple[str, ...]] = {
    str: ("status", "data_digest", "monitor", "length_metric", "length_name"),
    dict: ("config", "metrics", "best", "test", "budget", "versions", "machine", "baselines"),
    float: ("steps", "tokens", "seconds", "parameters", "state_size", "flops_per_token", "solved"),
}
"""Types of the entries of a summary that are present and not null."""


def _sound(summary: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return a summary without null entries and without entries of a wrong type, which are added to ``problems``."""
    sound = {key: value for key, value in summary.items() if value is not None}
    for kind, keys in _KINDS.items():
        for key in keys:
            if key in sound and not isinstance(sound[key], int | float if kind is float else kind):
                problems.append(
                    f"{key} in summary.json is {json.dumps(sound.pop(key))[:40]}, which is invalid; left out"
                )
    declared = sound.get("metrics", {})
    sound["metrics"] = {name: about for name, about in declared.items() if _is_metric(about)}
    if lost := [name for name in declared if name not in sound["metrics"]]:
        problems.append(f"summary.json has no valid unit and direction of the metrics {', '.join(lost)}")
    return sound if summary else {}


def _is_metric(about: Any) -> bool:
    return isinstance(about, dict) and set(about) == {"unit", "better"} and about["better"] in ("lower", "higher")


_OF_TRAINING = '"split": "train",'


def records(file: Path, problems: list[str], training: bool = False) -> Sequence[dict[str, Any]]:
    """Return the records of a metrics file, those of training only if asked; broken lines are added to ``problems``."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        problems.append("metrics.jsonl is missing or cannot be read")
        return []
    lines = text.split("\n")[: -1 if text.endswith("\n") else None]
    # Training records are most of the lines and not needed: skip them without parsing.
    if _OF_TRAINING in text and not training:
        kept = [(at, line) for at, line in enumerate(lines, 1) if not (_OF_TRAINING in line and line.endswith("}"))]
    else:
        kept = list(enumerate(lines, 1))
    try:  # parsing all lines at once takes half the time of parsing each
        parsed = json.loads(f"[{','.join([line for _, line in kept])}]")
        if len(parsed) == len(kept) and {type(record) for record in parsed} <= {dict}:
            return parsed
    except json.JSONDecodeError:
        pass
    found = [(number, _record(line)) for number, line in kept]
    broken = [number for number, record in found if record is None]
    problems.append(f"metrics.jsonl: line {', '.join(map(str, broken[:5]))} cannot be read and is left out")
    return [record for _, record in found if record is not None]


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _column(values: Sequence[Any]) -> np.ndarray:
    try:
        return np.array(values, dtype=float)  # None becomes NaN
    except (TypeError, ValueError):
        return np.array([_float(value) for value in values])


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else nan
