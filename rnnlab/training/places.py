"""Find the data of a run, which may have moved since it was trained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rnnlab import lookup, tasks
from rnnlab.interface import InputError
from rnnlab.tasks import Task
from rnnlab.training.build import Config, build_task


def find_task(content: dict[str, Any], run: Path, data_root: str | None = None, check: bool = True) -> Task:
    """The task of a checkpoint, with its data as they were when the run was trained.

    Args:
        content: the checkpoint.
        run: the directory of the run.
        data_root: where the data lie; None to look where the run found them.
        check: whether the data are read at once and compared with those of the run; without it, only what building the
            task reads is needed.

    Raises:
        InputError: the data are not found, or they are not those of the run.
    """
    tasks.find(lookup.read_section(content["config"]["task"])[0])  # what is no matter of data is not looked for twice
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
        if data_root is None:  # a file of the same name lies here: whichever is meant, it is not this one
            break
    reason = reasons[0]
    first = f"cannot use {reason.filename}: {reason.strerror}" if isinstance(reason, OSError) else str(reason)
    began = f"the run began in {content['folder']}; " if "folder" in content else ""
    raise InputError(f"{first}; {began}data.root=FOLDER says where its data lie now") from reason


def _other_data(run: Path) -> InputError:
    return InputError(f"the data found are not those {run} was trained on, their SHA-256 differs; restore them")


def candidates(content: dict[str, Any], run: Path, data_root: str | None = None) -> Iterator[Config]:
    """The configuration of a run with its data in every place where they may be, the likeliest first.

    The root of public data is ``data_root``, or else that of the environment, or else that of the run. Relative paths
    begin at the working directory, or else at the folder where the run began, or else beside the run. With
    ``data_root`` a file of the user's own is looked for there too.
    """
    config = content["config"]
    roots = [data_root] if data_root else [os.environ.get("RNNLAB_DATA"), config["data"]["root"]]
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
        # Public data are downloaded to where they are not: first come the folders that there are.
        found.sort(key=lambda candidate: not Path(candidate["data"]["root"]).expanduser().is_dir())
    yield from found


def _starts(content: dict[str, Any], run: Path, data_root: str | None) -> list[Path]:
    """The folders at which relative paths of a run may begin, beside the working directory."""
    place, own = run.expanduser().resolve(), Path(content["config"]["run_dir"]).expanduser()
    starts = [Path(data_root).expanduser()] if data_root else []
    if "folder" in content:
        starts.append(Path(content["folder"]))
    if not own.is_absolute() and place.parts[-len(own.parts) :] == own.parts:
        starts.append(Path(*place.parts[: -len(own.parts)]))  # the run and its data have moved together
    return [*starts, place.parent]


def _moved(value: Any, start: Path, data_root: str | None = None) -> Any:
    """An option's value as a path from ``start``, if there is such a file or folder; otherwise as it is."""
    if not isinstance(value, str) or not value:
        return value
    places = [start / value]
    if data_root is not None and start == Path(data_root).expanduser():
        places.append(start / Path(value).name)
    try:
        return next((str(place.absolute()) for place in places if place.exists()), value)
    except (OSError, ValueError):  # too long for a path, or with a character that no path has
        return value
