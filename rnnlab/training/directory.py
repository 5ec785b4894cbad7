"""The directory of a run: its files, its lock, and rewinding it to a checkpoint.

config.yaml        resolved configuration
metrics.jsonl      all measurements, one JSON object per line: the source of truth
summary.json       result of the run, written when it ends
events.out.*       measurements for TensorBoard
trackers.json      identifiers of the run in Weights & Biases, MLflow and Trackio
checkpoints/       last.pt and best.pt
samples/           samples of the model, one file per evaluation and suffix
written/SPLIT/     what the model generated in the latest evaluation of a split, such as translations and references
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from time import sleep
from typing import IO, Any

import yaml

from rnnlab import files
from rnnlab.interface import SAMPLE_SUFFIXES, InputError
from rnnlab.training.settings import complete, defaults

FREE_KEYS = (
    "run_dir",
    "data.root",
    "budget.tolerance",
    "trainer.prefetch",
    "logger.tensorboard",
    "logger.wandb",
    "logger.mlflow",
    "logger.trackio",
    "logger.project",
    "logger.progress",
    "logger.diagnostics",
)
"""Options that may differ when a run is resumed: they change paths and output, not results."""

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times faster, but needs libyaml


_WRITTEN = {
    ".": r"config\.yaml|metrics\.jsonl|(summary|trackers)\.json|events\.out\.tfevents\..+",
    "checkpoints": r"(last|best)\.pt",
    "samples": rf"([0-9]{{8}}|[1-9][0-9]{{8,}})({'|'.join(map(re.escape, SAMPLE_SUFFIXES))})",
}
"""Patterns for the names of the files that a run writes, by folder; all other files belong to the user."""

_TAGS = ("train/", "train_eval/", "valid/", "test/", "diagnostics/", "sample/", "custom_scalars__config__", "_hparams_")
"""Prefixes of the TensorBoard tags that a run writes."""


class Busy(InputError):
    """Another process is training in the directory."""


class RunDirectory:
    """The directory of one run.

    Args:
        path: the directory; it may not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.config_file = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.summary_file = self.path / "summary.json"
        self.trackers_file = self.path / "trackers.json"
        self.last = self.path / "checkpoints" / "last.pt"
        self.best = self.path / "checkpoints" / "best.pt"
        self.samples = self.path / "samples"
        self.written = self.path / "written"

    def check(self, config: dict[str, Any]) -> None:
        """Raise an InputError if a run of ``config`` cannot use this directory; nothing is written.

        A run can use a directory that does not exist, is empty, or holds a run of the same configuration.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"run_dir={str(self.path)!r} is a file; give a directory")
        if self.config_file.exists():
            changes = differences(complete(self.config()), config)
            if changes:
                raise InputError(
                    f"{self.path} holds a run with another configuration ({'; '.join(changes)}) and was left "
                    "untouched; set another run_dir, or leave it out to use the default"
                )
        elif self.path.exists() and any(not entry.name.startswith(".") for entry in self.path.iterdir()):
            raise InputError(f"{self.path} is not empty and holds no run; set another run_dir")

    @contextmanager
    def claim(self, config: dict[str, Any]) -> Iterator[None]:
        """Create the directory if needed, and hold its lock inside the context.

        The operating system releases the lock when the process ends, even after a crash.

        Raises:
            Busy: another process holds the lock.
            InputError: a run of ``config`` cannot use this directory.
        """
        self.check(config)
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as lock:
            if not _locked(lock):
                raise Busy(f"another process is training in {self.path}; wait for it or stop it")
            self.check(config)  # again: the previous holder of the lock may have written another configuration
            if not self.config_file.exists():  # written first, because it marks the directory as a run's
                text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
                files.write_bytes(self.config_file, text.encode())
            self.last.parent.mkdir(exist_ok=True)
            self.samples.mkdir(exist_ok=True)
            for folder, names in _WRITTEN.items():
                files.remove_leftovers(self.path / folder, names)
            yield

    def is_begun(self) -> bool:
        """Whether the directory holds a run."""
        return self.config_file.is_file()

    def is_trained(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self.last.exists() or self.best.exists()

    def is_claimed(self) -> bool:
        """Whether a process is training in this directory now."""
        try:
            with (self.path / ".lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def config(self) -> dict[str, Any]:
        """The stored configuration of the run; `complete` adds the options that it lacks.

        Raises:
            InputError: the file does not exist or is damaged.
        """
        if not self.config_file.is_file():
            raise InputError(f"{self.path} is not the directory of a run: it has no {self.config_file.name}")
        try:
            config = yaml.load(self.config_file.read_text(encoding="utf-8"), YAML_LOADER)
        except (yaml.YAMLError, UnicodeDecodeError):
            config = None
        if not isinstance(config, dict):
            raise InputError(
                f"{self.config_file} is damaged; restore it from the entry 'config' of a checkpoint of the run"
            )
        return config

    def summary(self) -> dict[str, Any] | None:
        """The summary of the run; None if the run has not ended."""
        if not self.summary_file.exists():
            return None
        try:
            return json.loads(self.summary_file.read_bytes())
        except ValueError as error:
            raise InputError(f"{self.summary_file} is not JSON ({error}); delete it to resume the run") from None

    def rewind(self, step: int) -> None:
        """Remove the test result and all measurements after ``step``, so that a resumed run records nothing twice."""
        if self.metrics_file.exists():
            kept = [line for line in self.metrics_file.read_bytes().splitlines() if _is_before(line, step)]
            files.write_bytes(self.metrics_file, b"".join(line + b"\n" for line in kept))
        for events in self.path.glob("events.out.tfevents.*"):
            if events.is_file() and find_spec("tensorboard"):  # without TensorBoard, no events will be added
                _rewind_events(events, step)
        for sample in list(self.samples.iterdir()):
            # All other files are the user's.
            if re.fullmatch(_WRITTEN["samples"], sample.name) and sample.is_file() and int(sample.stem) > step:
                sample.unlink()
        self.summary_file.unlink(missing_ok=True)


def run_name(config: dict[str, Any]) -> str:
    """The directory of a run, relative to the root: task, model, cell and seed, then a digest of all options.

    Options equal to their default are not part of the digest, so adding an option to rnnlab does not rename runs.
    """
    default = flatten(defaults(config))
    counts = {
        key: value
        for key, value in flatten(config).items()
        if key not in FREE_KEYS and not (key in default and value == default[key])
    }
    return f"{_prefix(config)}{hashlib.sha256(json.dumps(counts, sort_keys=True).encode()).hexdigest()[:8]}"


def derive(config: dict[str, Any], root: str) -> str:
    """The directory of a run without ``run_dir``: the existing directory of this run, or a new one below ``root``.

    The name of an existing directory may differ from `run_name` if an earlier version of rnnlab, with other options or
    defaults, created it.
    """
    name = run_name(config)
    place = Path(root).expanduser() / name
    if (held := _stored_name(place)) != name:
        siblings = sorted(place.parent.glob(f"{Path(_prefix(config)).name}*"))
        known = next((other for other in siblings if _stored_name(other) == name), None)
        if known is None and held is not None:  # other defaults gave this name to another configuration
            numbered = (place.with_name(f"{place.name}-{number}") for number in count(2))
            known = next(other for other in numbered if not other.exists())
        place = known or place
    return str(place)


def _prefix(config: dict[str, Any]) -> str:
    names = [config[group]["name"] for group in ("task", "model", "cell")]
    task, model, cell = (re.sub(r"[^\w.-]", "_", name) for name in names)
    return f"{task}/{model if model == cell else f'{model}-{cell}'}-s{config['seed']}-"


def _stored_name(place: Path) -> str | None:
    """The `run_name` of the run in a directory; None if it holds no readable run."""
    file = RunDirectory(place).config_file
    return _name_in(file, file.stat().st_mtime_ns) if file.is_file() else None


@lru_cache(maxsize=4096)  # planning a sweep reads every directory once per run of the sweep
def _name_in(file: Path, changed: int) -> str | None:
    try:
        return run_name(complete(RunDirectory(file.parent).config()))
    except (InputError, LookupError, TypeError, AttributeError):  # damaged, or written by hand
        return None


def find_runs(root: Path, problems: list[str]) -> Iterator[Path]:
    """The directories of runs at or below a folder, in sorted order. Links are followed; runs are not nested.

    Args:
        root: the folder to search.
        problems: list to which a message is appended for each folder that cannot be searched.
    """
    seen = set()

    def closed(error: OSError) -> None:
        problems.append(f"{error.filename} cannot be searched ({error.strerror})")

    for folder, folders, names in os.walk(root, onerror=closed, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:  # a link to a parent, or to a run that has been found
            folders.clear()
            continue
        seen.add(place)
        if {"summary.json", "metrics.jsonl"} & set(names) or ("config.yaml" in names and "checkpoints" in folders):
            folders.clear()
            yield Path(folder)
        folders.sort()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The options that differ, as ``key: old -> new``, except `FREE_KEYS`."""
    before, after = flatten(old), flatten(new)
    keys = [key for key in {**before, **after} if key not in FREE_KEYS and before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}" for key in keys]


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary as a flat dictionary, with keys joined by dots."""
    flat = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _locked(lock: IO[str]) -> bool:
    """Acquire the lock, and return whether this succeeded. Several attempts: `is_claimed` holds it for a moment."""
    for _ in range(5):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sleep(0.05)
        else:
            return True
    return False


def _is_before(line: bytes, step: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:  # the process was killed while it wrote this line
        return False
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):  # added by the user
        return True
    return record["step"] <= step and record.get("split") != "test"


def _rewind_events(path: Path, step: int) -> None:
    """Rewrite a TensorBoard file without the events after ``step``; TensorBoard's own purge only hides them."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    records = list(RawEventFileLoader(str(path)).Load())
    if not records:  # not a TensorBoard file, despite its name
        return
    kept = []
    for record in records:
        event = Event.FromString(record)
        tags = [value.tag for value in event.summary.value]
        is_later = event.step > step or any(tag.startswith("test/") for tag in tags)
        if not (is_later and any(tag.startswith(_TAGS) for tag in tags)):
            kept.append(record)
    with files.replacing(path) as file:
        writer = RecordWriter(file)
        for record in kept:
            writer.write(record)
        writer.flush()
