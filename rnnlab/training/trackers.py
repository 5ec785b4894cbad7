"""Tools that show the measurements of runs: the interface, and Weights & Biases, MLflow and Trackio.

metrics.jsonl is the source of truth. A tracker receives the same numbers under the same names, ``SPLIT/METRIC``, at the
same training steps. Each tool is imported only by a run that uses it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable
from html import escape
from importlib.util import find_spec
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from rnnlab import files
from rnnlab.interface import InputError, Sample
from rnnlab.training.directory import RunDirectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

console = logging.getLogger("rnnlab")

Options = dict[str, bool | int | float | str]
"""The options of a run by their full name; values of other types are texts."""


class Tracker:
    """A tool that shows the measurements of a run; by default it shows nothing.

    Args:
        directory: directory of the run.
        project: name under which the tool groups runs.
    """

    package: str
    """Python package of the tool, which is also the name of the option of `rnnlab.training.logger.Logger`."""
    title: str
    """Name of the tool in messages."""
    install: str
    """Argument of ``pip install`` that installs the package."""

    def __init__(self, directory: RunDirectory, project: str) -> None:
        self.directory, self.project = directory, project

    @classmethod
    def check(cls) -> None:
        """Raise an InputError unless the package of the tool is installed."""
        if find_spec(cls.package) is None:
            raise InputError(
                f"logger.{cls.package}=true needs {cls.title}, which is not installed; pip install {cls.install}, or "
                f"set logger.{cls.package}=false"
            )

    def config(self, options: Options, is_new: bool) -> None:
        """Start or continue the run with its ``options``; ``is_new`` is false for a resumed run."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Record values by name."""

    def figure(self, name: str, step: int, made: Figure) -> None:
        """Record a figure."""

    def sample(self, step: int, sample: Sample, path: Path) -> None:
        """Record a sample of the model, which is stored in the file ``path``."""

    def flush(self) -> None:
        """Write out everything before a checkpoint is written."""

    def close(self, status: str) -> None:
        """End the run.

        Args:
            status: ``finished``, ``diverged``, or ``stopped`` for a run that can be resumed.
        """


class External(Tracker):
    """A tool that stores runs outside their directories.

    Measurements are sent when a checkpoint is about to be written. So a run that is resumed from the checkpoint sends
    none twice. An error of the tool ends neither the run nor the sending of later measurements.
    """

    def __init__(self, directory: RunDirectory, project: str) -> None:
        super().__init__(directory, project)
        self.waiting: list[Callable[[], None]] = []
        self.has_failed = False

    def config(self, options: Options, is_new: bool) -> None:  # noqa: D102
        names = _names(self.directory)
        try:
            known = self.open(options, names.get(self.package))
        except Exception as error:  # of many types: no account, no server, a damaged store
            raise InputError(f"logger.{self.package}=true: {self.title} cannot be started: {error}") from error
        files.write_json(self.directory.trackers_file, {**names, self.package: known})

    def scalars(self, step: int, values: dict[str, float]) -> None:  # noqa: D102
        self.waiting.append(lambda: self.send(step, values))

    def figure(self, name: str, step: int, made: Figure) -> None:  # noqa: D102
        picture = io.BytesIO()
        made.savefig(picture, format="png", dpi=100, facecolor="white")
        self.waiting.append(lambda: self.send_picture(name, step, picture))

    def sample(self, step: int, sample: Sample, path: Path) -> None:  # noqa: D102
        self.waiting.append(lambda: self.send_sample(step, sample, path))

    def flush(self) -> None:  # noqa: D102
        for send in self.waiting:
            try:
                send()
            except Exception as error:  # metrics.jsonl has the measurement, and training is worth more than a copy
                if not self.has_failed:
                    console.warning("%s did not take a measurement (%s); training continues", self.title, error)
                self.has_failed = True
        self.waiting.clear()

    def close(self, status: str) -> None:  # noqa: D102
        if status == "stopped":  # the resumed run measures again what no checkpoint has
            self.waiting.clear()
        self.flush()
        try:
            self.end(status)
        except Exception as error:
            console.warning("%s could not end the run (%s)", self.title, error)

    def open(self, options: Options, known: str | None) -> str:
        """Create a run in the tool, or continue the run ``known``, and return its identifier."""
        raise NotImplementedError

    def send(self, step: int, values: dict[str, float]) -> None:
        """Send values by name."""
        raise NotImplementedError

    def send_picture(self, name: str, step: int, picture: io.BytesIO) -> None:
        """Send a figure as PNG."""
        raise NotImplementedError

    def send_sample(self, step: int, sample: Sample, path: Path) -> None:
        """Send a sample, if the tool shows files of its kind."""
        raise NotImplementedError

    def end(self, status: str) -> None:
        """End the run, see `close`."""
        raise NotImplementedError


class WandB(External):
    """Weights & Biases, offline in the run directory unless the environment sets WANDB_MODE and WANDB_DIR.

    The training step is the metric ``step``: the tool's own step may not decrease, but the test result belongs to the
    step of the best checkpoint.
    """

    package, title, install = "wandb", "Weights & Biases", "'rnnlab[wandb]'"

    def open(self, options: Options, known: str | None) -> str:  # noqa: D102
        import wandb

        self.run = wandb.init(
            project=self.project,
            name=self.directory.path.name,
            group=str(options.get("task.name")),
            id=known or uuid.uuid4().hex[:8],
            resume="allow",
            config=options,
            dir=os.environ.get("WANDB_DIR") or str(self.directory.path),
            mode=os.environ.get("WANDB_MODE") or "offline",
            settings=wandb.Settings(console="off", silent=True),
        )
        self.run.define_metric("*", step_metric="step")
        return self.run.id

    def send(self, step: int, values: dict[str, float]) -> None:  # noqa: D102
        self.run.log({**values, "step": step})

    def send_picture(self, name: str, step: int, picture: io.BytesIO) -> None:  # noqa: D102
        import wandb
        from PIL import Image

        self.send(step, {name: wandb.Image(Image.open(picture))})

    def send_sample(self, step: int, sample: Sample, path: Path) -> None:  # noqa: D102
        import wandb

        if sample.is_text:
            self.send(step, {"sample": wandb.Html(f"<pre>{escape(sample.content)}</pre>")})
        elif sample.suffix == ".png":
            self.send(step, {"sample/picture": wandb.Image(str(path))})
        elif sample.suffix == ".gif":
            self.send(step, {"sample/animation": wandb.Video(str(path), format="gif")})
        elif sample.suffix == ".wav":
            self.send(step, {"sample/sound": wandb.Audio(str(path))})

    def end(self, status: str) -> None:  # noqa: D102
        self.run.finish(exit_code=int(status == "diverged"))


class MLflow(External):
    """MLflow, in ``mlflow.db`` of the working directory unless the environment sets MLFLOW_TRACKING_URI."""

    package, title, install = "mlflow", "MLflow", "'rnnlab[mlflow]'"

    def open(self, options: Options, known: str | None) -> str:  # noqa: D102
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow
        from mlflow.entities import Param, RunTag

        self.client = mlflow.MlflowClient()
        if known is not None:
            self.run = known
            self.client.update_run(known, status="RUNNING")
            return known
        found = self.client.get_experiment_by_name(self.project)
        experiment = found.experiment_id if found else self.client.create_experiment(self.project)
        self.run = self.client.create_run(experiment, run_name=self.directory.path.name).info.run_id
        tags = [RunTag("run_dir", str(self.directory.path)), RunTag("task", str(options.get("task.name")))]
        params = [Param(key, str(value)[:500]) for key, value in options.items()]
        for start in range(0, len(params), 100):  # the largest number that a server accepts at once
            self.client.log_batch(self.run, params=params[start : start + 100], tags=tags)
        return self.run

    def send(self, step: int, values: dict[str, float]) -> None:  # noqa: D102
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        named = [Metric(re.sub(r"[^\w\-. :/]", "_", name), value, now, step) for name, value in values.items()]
        self.client.log_batch(self.run, metrics=named)

    def send_picture(self, name: str, step: int, picture: io.BytesIO) -> None:  # noqa: D102
        from PIL import Image

        self.client.log_image(self.run, Image.open(picture), artifact_file=f"figures/{name}/{step:08d}.png")

    def send_sample(self, step: int, sample: Sample, path: Path) -> None:  # noqa: D102
        self.client.log_artifact(self.run, str(path), "samples")

    def end(self, status: str) -> None:  # noqa: D102
        kinds = {"finished": "FINISHED", "diverged": "FAILED", "stopped": "KILLED"}
        self.client.set_terminated(self.run, kinds[status])


class Trackio(External):
    """Trackio, in its local folder unless the environment sets TRACKIO_DIR or TRACKIO_SPACE_ID."""

    package, title, install = "trackio", "Trackio", "'rnnlab[trackio]'"

    def open(self, options: Options, known: str | None) -> str:  # noqa: D102
        import trackio

        # Trackio finds a run by its name, so the name has to be unique.
        name = known or f"{self.directory.path.name}-{uuid.uuid4().hex[:6]}"
        with contextlib.redirect_stdout(io.StringIO()):
            self.run = trackio.init(
                project=self.project,
                name=name,
                group=str(options.get("task.name")),
                config=options,
                resume="never" if known is None else "allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return name

    def send(self, step: int, values: dict[str, float]) -> None:  # noqa: D102
        self.run.log(values, step=step)

    def send_picture(self, name: str, step: int, picture: io.BytesIO) -> None:  # noqa: D102
        import trackio
        from PIL import Image

        self.send(step, {name: trackio.Image(Image.open(picture))})

    def send_sample(self, step: int, sample: Sample, path: Path) -> None:  # noqa: D102
        import trackio

        if sample.is_text:
            self.send(step, {"sample": trackio.Markdown(verbatim(sample.content))})
        elif sample.suffix == ".png":
            self.send(step, {"sample/picture": trackio.Image(path)})
        elif sample.suffix == ".wav":
            self.send(step, {"sample/sound": trackio.Audio(path)})

    def end(self, status: str) -> None:  # noqa: D102
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()


def verbatim(text: str) -> str:
    """Return Markdown that shows a text as it is: Markdown does not interpret indented text."""
    return indent(text, "    ", lambda line: True)


def _names(directory: RunDirectory) -> dict[str, str]:
    """Return the identifiers of a run in the tools that it has used, by the package of the tool."""
    try:
        found: Any = json.loads(directory.trackers_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is none, or it is damaged
        return {}
    return found if isinstance(found, dict) else {}
