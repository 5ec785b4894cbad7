"""Output of a run: metrics.jsonl (the source of truth), trackers such as TensorBoard, sample files and the console."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from rnnlab import files
from rnnlab.diagnostics import SCALARS, draw
from rnnlab.interface import InputError, Metric, Sample
from rnnlab.training.board import TensorBoard
from rnnlab.training.directory import RunDirectory, flatten
from rnnlab.training.pace import Pace
from rnnlab.training.progress import Progress
from rnnlab.training.trackers import MLflow, Tracker, Trackio, WandB

if TYPE_CHECKING:
    from matplotlib.figure import Figure

console = logging.getLogger("rnnlab")

TRACKERS: tuple[type[Tracker], ...] = (TensorBoard, WandB, MLflow, Trackio)


def check_trackers(options: dict[str, Any]) -> None:
    """Raise an InputError if ``options`` of a `Logger` select a tracker whose package is not installed."""
    for tracker in TRACKERS:
        if options[tracker.package]:
            tracker.check()


class Logger:
    """Writes the measurements and samples of a run.

    Args:
        directory: directory of the run.
        metrics: metrics of the task, for their units.
        length_metric: name of the metric that is plotted against sequence length, or None.
        length_name: label of the lengths.
        tensorboard: whether to write TensorBoard events.
        wandb: whether to record the run with Weights & Biases, see `rnnlab.training.trackers`.
        mlflow: whether to record the run with MLflow.
        trackio: whether to record the run with Trackio.
        project: name under which Weights & Biases, MLflow and Trackio group runs.
        progress: whether to show progress: a bar if the output is a terminal, lines in a log file, see
            `rnnlab.training.pace`.
        diagnostics: whether to diagnose the model at each evaluation, see `rnnlab.diagnostics`. This takes some seconds
            per evaluation and does not change the results.
    """

    def __init__(
        self,
        directory: RunDirectory,
        metrics: dict[str, Metric],
        length_metric: str | None = None,
        length_name: str = "length",
        *,
        tensorboard: bool = True,
        wandb: bool = False,
        mlflow: bool = False,
        trackio: bool = False,
        project: str = "rnnlab",
        progress: bool = True,
        diagnostics: bool = False,
    ) -> None:
        self.directory = directory
        self.metrics = metrics
        self.length_metric, self.length_name = length_metric, length_name
        self.progress = progress
        self.diagnostics = diagnostics
        self.pace: Pace | None = None
        self.lines = directory.metrics_file.open("a", encoding="utf-8")
        self.trackers: list[Tracker] = []
        if tensorboard:
            self.trackers.append(TensorBoard(directory, project, list(metrics), SCALARS if diagnostics else ()))
        chosen = ((WandB, wandb), (MLflow, mlflow), (Trackio, trackio))
        self.trackers += [tracker(directory, project) for tracker, is_chosen in chosen if is_chosen]

    def begin(self, config: dict[str, Any], is_new: bool) -> None:
        """Start or continue the run in each tracker, with the options of ``config``."""
        options = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in flatten(config).items()
        }
        for tracker in self.trackers:
            tracker.config(options, is_new)

    def scalars(self, split: str, step: int, values: dict[str, Any], tokens: int, seconds: float) -> None:
        """Record ``values`` of ``split`` at ``step``, after ``tokens`` and ``seconds`` of training."""
        record = {"step": step, "split": split, "tokens": tokens, "seconds": round(seconds, 3), **values}
        self.lines.write(files.to_json(record) + "\n")
        self.lines.flush()
        if self.pace and split == "train":
            self.pace.loss = values.get("loss")
        numbers = {f"{split}/{name}": value for name, value in values.items() if not isinstance(value, dict)}
        for tracker in self.trackers:
            tracker.scalars(step, numbers)
        if self.trackers:
            for by_length in (value for value in values.values() if isinstance(value, dict)):
                self._curve(split, step, by_length)

    def _curve(self, split: str, step: int, by_length: dict[int, float]) -> None:
        """Plot a metric against sequence length for the trackers; without matplotlib, only metrics.jsonl has it."""
        try:
            from matplotlib.figure import Figure  # figures of pyplot would have to be closed
        except ModuleNotFoundError:
            return
        figure = Figure(figsize=(6, 3), layout="constrained")
        axes = figure.subplots()
        axes.plot(by_length.keys(), by_length.values(), marker="." if len(by_length) < 50 else None)
        known = self.metrics.get(self.length_metric or "")
        unit = f" ({known.unit})" if known else ""
        axes.set(xlabel=self.length_name, ylabel=f"{self.length_metric}{unit}", title=f"{split}, step {step:,}")
        axes.grid(alpha=0.3)
        self._figure(f"{split}/by_length", step, figure)

    def _figure(self, name: str, step: int, made: Figure) -> None:
        for tracker in self.trackers:
            tracker.figure(name, step, made)

    def figures(self, name: str, step: int, found: dict[str, Any]) -> None:
        """Add the figures of a diagnosis to the trackers; without matplotlib, nothing is added."""
        if not self.trackers:
            return
        try:
            drawn = draw(found)
        except InputError:
            return
        for kind, (figure, _) in drawn.items():
            self._figure(f"{name}/{kind}", step, figure)

    def remark(self, sentence: str) -> None:
        """Print a sentence to the console."""
        console.info(sentence)

    def evaluation(
        self,
        split: str,
        step: int,
        values: dict[str, float],
        remark: str = "",
        baselines: dict[str, dict[str, float]] | None = None,
    ) -> None:
        """Print the result of an evaluation, with units, next to trivial baselines."""
        named = []
        for name, value in values.items():
            others = [f"{who} {given[name]:.4g}" for who, given in (baselines or {}).items() if name in given]
            beside = f" ({', '.join(others)})" if others else ""
            named.append(f"{name} {value:.4g} {self.metrics[name].unit}{beside}")
        console.info("step %d  %s: %s%s", step, split, ", ".join(named), remark)

    def sample(self, step: int, sample: Sample) -> None:
        """Write a sample of the model to a file and to the trackers; print a text, or the path of another file."""
        path = self.directory.samples / f"{step:08d}{sample.suffix}"
        if path.is_dir():
            console.warning("the sample is not written: %s is a folder; remove or rename it", path)
        else:
            files.write_bytes(path, sample.data())
        if sample.is_text:
            console.info("--- sample at step %d ---\n%s\n---", step, sample.content)
        else:
            console.info("sample at step %d: %s", step, path)
        for tracker in self.trackers:
            tracker.sample(step, sample, path)

    def flush(self) -> None:
        """Flush all output to the disk, so that a checkpoint is never ahead of it."""
        os.fsync(self.lines.fileno())
        for tracker in self.trackers:
            tracker.flush()

    @contextmanager
    def bar(self, at: Progress, steps: int, seconds: float | None = None) -> Iterator[Callable[[], None]]:
        """Show progress with the estimated time left: a bar in a terminal, and lines in a log file.

        Args:
            at: progress of the run, which the caller updates.
            steps: number of training steps of the run.
            seconds: training time after which the run ends, or None.

        Yields:
            a function to call after each training step. Log messages appear above the bar.
        """
        disable = None if self.progress else True  # None: unless the output is a terminal
        shown = tqdm(total=steps, initial=at.step, unit="step", leave=False, dynamic_ncols=True, disable=disable)
        if self.progress and not (sys.stdout and sys.stdout.isatty()):
            self.pace = Pace(at, steps, seconds)

        def update() -> None:
            shown.update()
            if self.pace and (line := self.pace.line()):
                console.info(line)

        with logging_redirect_tqdm([console]), shown:
            yield update

    def close(self, status: str = "stopped") -> None:
        """Close the files and end the run in each tracker, with the status of the summary."""
        self.lines.close()
        for tracker in self.trackers:
            tracker.close(status)
