"""Find the data of a run, which may have moved since training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rnnlab import lookup, tasks
from rnnlab.interface import InputError
from rnnlab.tasks import Task
from rnnlab.training.build import DATA_ROOT, Config, build_task


def find_task(content: dict[str, Any], run: Path, data_root: str | None = None, check: bool = True) -> Task:
    """The task of a checkpoint, with the data on which the run was trained.

    Args:
        content: checkpoint.
        run: directory of the run.
        data_root: folder of the data; None to use the environment variable RNNLAB_DATA or the folder in the
            configuration of the run.
        check: whether to read the data now and compare their digest with the digest in the checkpoint; if False, only
            the data needed to build the task are read.

    Raises:
        InputError: the data are not found, or differ from the data of the run.
    """
    tasks.find(lookup.read_section(content["config"]["task"])[0])  # raises errors that do not depend on the data
    reasons: list[InputError | FileNotFoundError] = []
    for config in candidates(content, run, data_root):
        try:
            task = build_task(config)
            task.restore(content["task"])
            digest = task.data_digest() if check else None
        except (InputError, FileNotFoundError) as error:
            reasons.append(error)
            continue
        if digest in (None, content["data_digest"]):
            return task
        reasons.insert(0, _other_data(run))
        if data_root is None:  # a file of this name exists but differs: do not silently use one from another place
            break
    reason = reasons[0]
    first = f"cannot use {reason.filename}: {reason.strerror}" if isinstance(reason, OSError) else str(reason)
    began = f"the run was started in {content['folder']}; " if "folder" in content else ""
    raise InputError(f"{first}; {began}set data.root=FOLDER to the folder of the data") from reason


def _other_data(run: Path) -> InputError:
    return InputError(f"the data differ from the data of {run} (another SHA-256); restore the data of the run")


def candidates(content: dict[str, Any], run: Path, data_root: str | None = None) -> Iterator[Config]:
    """Copies of the configuration of a run, one for each place where its data may be, the most likely first.

    The root of public data is ``data_root`` if given; otherwise the environment variable RNNLAB_DATA, then the root of
    the run, are tried. Relative paths are resolved against the working directory, ``data_root``, the folder where the
    run was started and folders above the run, in this order. The user's own files are also searched in ``data_root`` by
    file name alone.
    """
    config = content["config"]
    roots = [data_root] if data_root else [os.environ.get("RNNLAB_DATA"), config["data"]["root"] or DATA_ROOT]
    found: list[Config] = []
    for start in [None, *_starts(content, run, data_root)]:
        task = {
            key: value if start is None else _moved(value, start, data_root) for key, value in config["task"].items()
        }
        for root in filter(None, roots):
            data = {**config["data"], "root": root if start is None else _moved(root, start)}
            candidate = {**config, "data": data, "task": task}
            if candidate not in found:
                found.append(candidate)
    if all(candidate["task"] == config["task"] for candidate in found):
        # Missing public data are downloaded, so existing folders are tried first.
        found.sort(key=lambda candidate: not Path(candidate["data"]["root"]).expanduser().is_dir())
    yield from found


def _starts(content: dict[str, Any], run: Path, data_root: str | None) -> list[Path]:
    """The folders against which relative paths of a run are resolved, in addition to the working directory."""
    place, own = run.expanduser().resolve(), Path(content["config"]["run_dir"]).expanduser()
    starts = [Path(data_root).expanduser()] if data_root else []
    if "folder" in content:
        starts.append(Path(content["folder"]))
    if not own.is_absolute() and place.parts[-len(own.parts) :] == own.parts:
        starts.append(Path(*place.parts[: -len(own.parts)]))  # the run and its data have moved together
    return [*starts, place.parent]


def _moved(value: Any, start: Path, data_root: str | None = None) -> Any:
    """The value of an option as a path relative to ``start`` if this path exists; otherwise unchanged."""
    if not isinstance(value, str) or not value:
        return value
    places = [start / value]
    if data_root is not None and start == Path(data_root).expanduser():
        places.append(start / Path(value).name)
    try:
        return next((str(place.absolute()) for place in places if place.exists()), value)
    except (OSError, ValueError):  # too long for a path, or contains a character that is invalid in a path
        return value
