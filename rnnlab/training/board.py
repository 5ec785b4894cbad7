"""TensorBoard events of a run, in the run directory."""

from __future__ import annotations

import io
import struct
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rnnlab.interface import Sample
from rnnlab.training.directory import RunDirectory
from rnnlab.training.trackers import Options, Tracker, verbatim

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TensorBoard(Tracker):
    """Writes TensorBoard events.

    Args:
        directory: directory of the run.
        project: not used; TensorBoard groups runs by their folders.
        metrics: names of the metrics that share a chart between splits.
        diagnostics: names of the diagnostics that have a chart.
    """

    package, title, install = "tensorboard", "TensorBoard", "tensorboard"

    def __init__(
        self, directory: RunDirectory, project: str, metrics: Sequence[str] = (), diagnostics: Sequence[str] = ()
    ) -> None:
        super().__init__(directory, project)
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self.metrics, self.diagnostics = metrics, diagnostics
        self.writer = SummaryWriter(str(directory.path))

    def config(self, options: Options, is_new: bool) -> None:
        """Write the hyperparameters and the layout of the curves, once per run.

        ``SummaryWriter.add_hparams`` is not used: it would create a second run below this one, named by a timestamp.
        """
        if not is_new:
            return
        from torch.utils.tensorboard.summary import hparams

        metrics = {name: ["Multiline", [f"(train|train_eval|valid|test)/{name}$"]] for name in self.metrics}
        speed = {"tokens per second": ["Multiline", ["train/tokens_per_second"]]}
        gradients = {name: ["Multiline", [f"train/{name}"]] for name in ("grad_norm", "lr")}
        layout = {"loss": metrics, "speed": speed, "gradients": gradients}
        if self.diagnostics:
            layout["diagnostics"] = {name: ["Multiline", [f"diagnostics/(.*/)?{name}$"]] for name in self.diagnostics}
        self.writer.add_custom_scalars(layout)
        # Leave out the first summary, the experiment: TensorBoard would use its columns for all runs.
        _, *session = hparams(options, {})
        for summary in session:
            self.writer.file_writer.add_summary(summary)

    def scalars(self, step: int, values: dict[str, float]) -> None:  # noqa: D102
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def figure(self, name: str, step: int, made: Figure) -> None:  # noqa: D102
        self.writer.add_figure(name, made, step, close=False)

    def sample(self, step: int, sample: Sample, path: Path) -> None:
        """Add a sample, if it is a text, PNG, GIF or WAV file."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        if sample.is_text:
            self.writer.add_text("sample", verbatim(sample.content), step)
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

    def flush(self) -> None:  # noqa: D102
        self.writer.flush()

    def close(self, status: str) -> None:  # noqa: D102
        self.writer.close()


def _picture_size(sample: Sample) -> tuple[int, int]:
    """Width and height of a PNG or a GIF, from its header."""
    header = sample.data()
    return struct.unpack(">II", header[16:24]) if sample.suffix == ".png" else struct.unpack("<HH", header[6:10])
