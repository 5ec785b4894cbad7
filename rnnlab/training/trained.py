"""A trained run that predicts on the user's own data: the model together with the preprocessing of its task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rnnlab.interface import Batch, InputError
from rnnlab.models import Model
from rnnlab.tasks import Task
from rnnlab.tasks._predicting import Answers, Prediction, Predicts, Texts
from rnnlab.training import run as runs
from rnnlab.training.device import autocast
from rnnlab.training.directory import RunDirectory

BATCH_STEPS = 2**16
"""Largest number of steps of a batch, padding included, unless a single sequence has more."""


@dataclass(frozen=True)
class Trained:
    """A trained run.

    run: directory of the run.
    model: model in evaluation mode.
    task: task with its preprocessing: scales, vocabulary, class names.
    config: configuration of the run.
    summary: summary of the run; None if training has not ended.
    """

    run: Path
    model: Model
    task: Task
    config: dict[str, Any]
    summary: dict[str, Any] | None

    def predict(self, values: Any, batch_size: int = 256) -> Prediction:
        """Predict on the user's own data.

        Args:
            values: text or a list of texts for a text model; a path or a list of paths of sound files or pictures for
                a model of speech or captions; otherwise a sequence ``[T, F]``, ``[N, T, F]``, a list of
                sequences of any lengths, or a DataFrame with the columns of the training data. Units are those of the
                training data; NaN marks missing values.
            batch_size: largest number of sequences per batch.

        Returns:
            the classes and probabilities of each sequence, the next rows of each series, the log-probabilities of the
            characters of each text, or the text that the model writes (translation, answer, words, caption), in the
            order of ``values``.

        Raises:
            InputError: the task does not predict, or the values do not fit the model.
        """
        task = self.predicting()
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} must be at least 1")
        if isinstance(task, Answers):
            given = list(map(str, [values] if isinstance(values, str | Path) else values))
            return Texts(given, task.answer(self.model, given))
        values = task.convert(values)
        inputs, times = task.encode(values), task.elapsed_of(values)
        device = next(self.model.parameters()).device
        sizes = [one.shape[0] for one in inputs]
        outputs: list[Tensor] = []
        order: list[int] = []
        with torch.inference_mode(), autocast(device, self.config["trainer"]["precision"]):
            for chosen in _batches(sizes, batch_size):
                lengths = torch.tensor([sizes[i] for i in chosen])
                padded = pad_sequence([inputs[i] for i in chosen])
                same = bool((lengths == len(padded)).all())
                elapsed = None if times is None else pad_sequence([times[i] for i in chosen])
                targets = lengths.new_zeros(len(chosen))
                batch = Batch(padded, targets, lengths=None if same else lengths, elapsed=elapsed)
                found, _ = self.model(batch.to(device))
                if task.decodes_every_step:
                    outputs += [found[: sizes[i], row].cpu() for row, i in enumerate(chosen)]
                else:
                    outputs.append(found[lengths.to(device) - 1, torch.arange(len(chosen), device=device)].cpu())
                order += chosen
        places = torch.tensor(order, dtype=torch.int64).argsort()
        if not task.decodes_every_step:
            return task.decode(torch.cat([*outputs, torch.empty(0, self.task.output_size)])[places], values)
        outputs = [outputs[place] for place in places.tolist()]
        return task.decode(outputs, values)

    def generate(
        self, prompt: str = "", length: int = 500, temperature: float = 0.8, top_k: int = 0, seed: int = 0
    ) -> str:
        """Continue a text.

        Args:
            prompt: start of the text; empty for the default prompt of the task.
            length: number of characters to generate.
            temperature: 0 for the most probable character at each step, 1 to sample from the distribution of the model.
            top_k: number of most probable characters to sample from; 0 for all.
            seed: seed for sampling.

        Returns:
            the prompt and its continuation.

        Raises:
            InputError: the task does not generate text, or the prompt has an unknown character.
        """
        speaker = self.task.speaker(self.model, temperature, top_k, seed)
        return "".join(speaker.generate(prompt or self.task.default_prompt, length))

    def predicting(self) -> Predicts | Answers:
        """The task, if it predicts on the user's own data.

        Raises:
            InputError: it does not.
        """
        if not isinstance(self.task, Predicts | Answers):
            name = self.config["task"]["name"]
            raise InputError(f"the task {name} does not predict on own data; use rnnlab evaluate or rnnlab generate")
        return self.task


def load(run: str | Path, device: str = "auto", which: str = "best", *, data_root: str | None = None) -> Trained:
    """Load a trained run to predict on own data; the data of the training are needed only if the task needs them.

    Args:
        run: directory of the run.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        which: checkpoint: ``best``, ``last`` or ``initial``.
        data_root: folder of the data; None to use the environment variable RNNLAB_DATA or the folder of the run.

    Raises:
        InputError: there is no such run, or its checkpoint is damaged.
    """
    task, model, content = runs.load(run, device, which, data_root=data_root)
    return Trained(Path(run), model, task, content["config"], RunDirectory(run).summary())


def _batches(lengths: list[int], batch_size: int) -> Iterator[list[int]]:
    """Indices of the sequences of each batch: sorted by length, so that there is little padding."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * lengths[i] > BATCH_STEPS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
