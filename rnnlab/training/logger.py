"""Output of a run: metrics.jsonl (the source of truth), TensorBoard events, sample files and the console."""

from __future__ import annotations

import io
import logging
import os
import struct
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from textwrap import indent
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from rnnlab import diagnostics, files
from rnnlab.interface import InputError, Metric, Sample
from rnnlab.training.directory import RunDirectory, flatten

console = logging.getLogger("rnnlab")


def check_tensorboard() -> None:
    """Raise an InputError unless TensorBoard is installed."""
    if find_spec("tensorboard") is None:
        raise InputError(
            "logger.tensorboard=true needs TensorBoard, which is not installed; pip install tensorboard, or set "
            "logger.tensorboard=false"
        )


class Logger:
    """Writes the measurements and samples of a run.

    Args:
        directory: directory of the run.
        metrics: metrics of the task, for their units.
        length_metric: name of the metric that is plotted against sequence length, or None.
        length_name: label of the lengths.
        tensorboard: whether to write TensorBoard events.
        progress: whether to show a progress bar if the output is a terminal.
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
        progress: bool = True,
        diagnostics: bool = False,
    ) -> None:
        self.directory = directory
        self.metrics = metrics
        self.length_metric, self.length_name = length_metric, length_name
        self.progress = progress
        self.diagnostics = diagnostics
        self.lines = directory.metrics_file.open("a", encoding="utf-8")
        self.writer = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            self.writer = SummaryWriter(str(directory.path))

    def scalars(self, split: str, step: int, values: dict[str, Any], tokens: int, seconds: float) -> None:
        """Record ``values`` of ``split`` at ``step``, after ``tokens`` and ``seconds`` of training."""
        record = {"step": step, "split": split, "tokens": tokens, "seconds": round(seconds, 3), **values}
        self.lines.write(files.to_json(record) + "\n")
        self.lines.flush()
        if self.writer:
            for name, value in values.items():
                if isinstance(value, dict):
                    self._curve(split, step, value)
                else:
                    self.writer.add_scalar(f"{split}/{name}", value, step)

    def _curve(self, split: str, step: int, by_length: dict[int, float]) -> None:
        """Plot a metric against sequence length for TensorBoard; without matplotlib, only metrics.jsonl has it."""
        try:
            from matplotlib.figure import Figure  # figures of pyplot would have to be closed
        except ModuleNotFoundError:
            return
        figure = Figure(figsize=(6, 3), layout="constrained")
        axes = figure.subplots()
        axes.plot(by_length.keys(), by_length.values(), marker="." if len(by_length) < 50 else None)
        axes.set(xlabel=self.length_name, ylabel=self.length_metric, title=f"{split}, step {step}")
        axes.grid(alpha=0.3)
        self.writer.add_figure(f"{split}/by_length", figure, step, close=False)

    def figures(self, name: str, step: int, found: dict[str, Any]) -> None:
        """Add the figures of a diagnosis to TensorBoard; without matplotlib, nothing is added."""
        if not self.writer:
            return
        try:
            drawn = diagnostics.draw(found)
        except InputError:
            return
        for kind, (figure, _, _) in drawn.items():
            figure.patch.set_alpha(1)  # TensorBoard does not show transparency
            self.writer.add_figure(f"{name}/{kind}", figure, step, close=False)

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
        """Write a sample of the model to a file and to TensorBoard; print a text, or the path of another file."""
        path = self.directory.samples / f"{step:08d}{sample.suffix}"
        if path.is_dir():
            console.warning("the sample is not written: %s is a folder; remove or rename it", path)
        else:
            files.write_bytes(path, sample.data())
        if sample.is_text:
            console.info("--- sample at step %d ---\n%s\n---", step, sample.content)
        else:
            console.info("sample at step %d: %s", step, path)
        if self.writer:
            self._show(step, sample)

    def _show(self, step: int, sample: Sample) -> None:
        """Add a sample to TensorBoard, if it is a text, PNG, GIF or WAV file."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        if sample.is_text:  # Markdown shows indented text verbatim
            self.writer.add_text("sample", indent(sample.content, "    ", lambda line: True), step)
            return
        if sample.suffix in (".png", ".gif"):
            width, height = _picture_size(sample)
            image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=sample.data())
            tag = "sample/picture" if sample.suffix == ".png" else "sample/animation"
            value = Summary.Value(tag=tag, image=image)
        elif sample.suffix == ".wav":
            with wave.open(io.BytesIO(sample.data())) as sound:
                audio = Summary.Audio(
                    sample_rate=sound.getframerate(),
                    num_channels=sound.getnchannels(),
                    length_frames=sound.getnframes(),
                    encoded_audio_string=sample.data(),
                    content_type="audio/wav",
                )
            value = Summary.Value(tag="sample/sound", audio=audio)
        else:
            return
        self.writer.file_writer.add_summary(Summary(value=[value]), step)

    def begin(self, config: dict[str, Any]) -> None:
        """Write the hyperparameters and the layout of the curves to TensorBoard, once per run.

        ``SummaryWriter.add_hparams`` is not used: it would create a second run below this one, named by a timestamp.
        """
        if self.writer:
            from torch.utils.tensorboard.summary import hparams

            metrics = {name: ["Multiline", [f"(train|train_eval|valid|test)/{name}$"]] for name in self.metrics}
            speed = {"tokens per second": ["Multiline", ["train/tokens_per_second"]]}
            gradients = {name: ["Multiline", [f"train/{name}"]] for name in ("grad_norm", "lr")}
            layout = {"loss": metrics, "speed": speed, "gradients": gradients}
            if self.diagnostics:
                names = diagnostics.SCALARS
                layout["diagnostics"] = {name: ["Multiline", [f"diagnostics/(.*/)?{name}$"]] for name in names}
            self.writer.add_custom_scalars(layout)
            options = {
                key: value if isinstance(value, bool | int | float | str) else str(value)
                for key, value in flatten(config).items()
            }
            # Leave out the first summary, the experiment: TensorBoard would use its columns for all runs.
            _, *session = hparams(options, {})
            for summary in session:
                self.writer.file_writer.add_summary(summary)

    def flush(self) -> None:
        """Flush all output to the disk, so that a checkpoint is never ahead of it."""
        os.fsync(self.lines.fileno())
        if self.writer:
            self.writer.flush()

    @contextmanager
    def bar(self, step: int, steps: int) -> Iterator[tqdm]:
        """A progress bar over training steps, with the estimated time left; log messages appear above it."""
        shown = tqdm(
            total=steps,
            initial=step,
            unit="step",
            leave=False,
            dynamic_ncols=True,
            disable=None if self.progress else True,
        )
        with logging_redirect_tqdm([console]), shown:
            yield shown

    def close(self) -> None:
        """Close the files."""
        self.lines.close()
        if self.writer:
            self.writer.close()


def _picture_size(sample: Sample) -> tuple[int, int]:
    """Width and height of a PNG or a GIF, from its header."""
    header = sample.data()
    return struct.unpack(">II", header[16:24]) if sample.suffix == ".png" else struct.unpack("<HH", header[6:10])
