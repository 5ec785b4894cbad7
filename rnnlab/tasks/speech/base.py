"""Base class of tasks that recognise spoken digits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rnnlab.formats import audio
from rnnlab.interface import Batch, InputError, Sample, Vectors
from rnnlab.tasks._predicting import Answers
from rnnlab.tasks.base import Task, check_least
from rnnlab.tasks.speech import _corpora
from rnnlab.tasks.speech._corpora import Recording, levelled
from rnnlab.tasks.speech._features import MELS, RATE, SpecAugment, log_mel

CORPORA = ("tones", "fsdd")
TEST, VALID = range(5), range(5, 10)
"""Indices of the recordings of each digit and speaker that are in the test set and in the validation set."""
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHOWN = 4
"""Number of recordings of a sample."""


class Speech(Answers, Task):
    """Recognise digits in recordings.

    The inputs are log-mel features at 8 kHz, 62.5 frames per second, see `rnnlab.tasks.speech._features`; each band has
    mean 0 and standard deviation 1 over the training recordings. The features are computed once for each recording.

    The corpora:

    - ``tones``: generated dial tones in noise, on three lines; 900 recordings.
    - ``fsdd``: the Free Spoken Digit Dataset (Jackson et al.), 3,000 recordings of six English speakers.

    The official split of ``fsdd`` uses the recordings with index 0 to 4 of each digit and speaker as the test set, so
    training and test share the speakers. The recordings with index 5 to 9 are the validation set. With ``held_out``,
    the test set consists of all recordings of these speakers; the others are split into training and validation.

    Args:
        seed: seed of the training batches.
        data_root: directory of the public data sets.
        corpus: ``tones`` or ``fsdd``.
        held_out: names of the speakers of the test set; empty for the official split.
        batch_size: number of sequences per batch.
        frequency_masks: number of masks of frequencies in training, see `SpecAugment`; 0 for none.
        frequency_width: largest number of bands of a mask.
        time_masks: number of masks of times in training; 0 for none.
        time_width: largest number of frames of a mask.

    Raises:
        InputError: an option is not valid, or the recordings cannot be read.
    """

    input = Vectors(MELS)
    usage = "transcribe run={run} recording.wav"
    longest: ClassVar[float]
    """Longest recording that `transcribe` accepts, in seconds."""

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        corpus: str = "tones",
        held_out: list[str] = (),
        batch_size: int = 32,
        frequency_masks: int = 0,
        frequency_width: int = 8,
        time_masks: int = 0,
        time_width: int = 10,
    ) -> None:
        super().__init__(seed, data_root)
        if corpus not in CORPORA:
            raise InputError(f"task.corpus={corpus!r} is not one of {', '.join(CORPORA)}")
        check_least(1, batch_size=batch_size)
        self.corpus, self.held_out, self.batch_size = corpus, list(held_out), batch_size
        self.augment = SpecAugment(frequency_masks, frequency_width, time_masks, time_width)
        self.augment.check()

    @cached_property
    def recordings(self) -> dict[str, list[Recording]]:
        """The recordings of each split."""
        found = _corpora.fsdd(self.data_root) if self.corpus == "fsdd" else _corpora.tones()
        speakers = sorted({one.speaker for one in found})
        if unknown := [name for name in self.held_out if name not in speakers]:
            raise InputError(f"task.held_out has {unknown[0]!r}; the speakers are {', '.join(speakers)}")
        parts: dict[str, list[Recording]] = {split: [] for split in self.splits}
        for one in found:
            if one.speaker in self.held_out if self.held_out else one.index in TEST:
                parts["test"].append(one)
            else:
                parts["valid" if one.index in VALID else "train"].append(one)
        if empty := [split for split, part in parts.items() if not part]:
            raise InputError(
                f"task.corpus={self.corpus} with task.held_out={self.held_out} leaves no recording for {empty[0]}; "
                "give fewer held-out speakers or more recordings"
            )
        return parts

    @cached_property
    def raw(self) -> dict[str, list[Tensor]]:
        """The log-mel features of each recording, ``[T, MELS]``, not normalised."""
        return {
            split: [log_mel(torch.from_numpy(one.samples)) for one in part] for split, part in self.recordings.items()
        }

    @cached_property
    def scales(self) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of each band over the training recordings, ``[MELS]`` each."""
        frames = torch.cat(self.raw["train"])
        return frames.mean(0), frames.std(0).clamp_min(1e-3)

    def normalised(self, features: Tensor) -> Tensor:
        """Log-mel features with the `scales` of the training recordings."""
        mean, deviation = self.scales
        return (features - mean) / deviation

    @cached_property
    def features(self) -> dict[str, list[Tensor]]:
        """The normalised features of each recording, ``[T, MELS]``."""
        return {split: [self.normalised(one) for one in part] for split, part in self.raw.items()}

    def padded(self, features: Sequence[Tensor], split: str, step: int) -> tuple[Tensor, Tensor]:
        """Pad sequences of features, and mask them in training.

        Args:
            features: ``[T, MELS]`` each.
            split: name of the split.
            step: number of the batch.

        Returns:
            inputs ``[T, B, MELS]`` and lengths ``[B]``.
        """
        lengths = torch.tensor(list(map(len, features)))
        inputs = pad_sequence(list(features))
        if split == "train":
            inputs = self.augment(inputs, lengths, self.generator("masks", step))
        return inputs, lengths

    def texts(self, outputs: Tensor, lengths: Tensor, beam_size: int) -> list[str]:
        """The recognised words of each sequence of a batch.

        Args:
            outputs: ``[T, B, output_size]``.
            lengths: int64 ``[B]``.
            beam_size: number of hypotheses of beam search, if the task has one; 1 is greedy.
        """
        raise NotImplementedError

    def examples(self) -> list[tuple[str, Tensor]]:
        """Some sequences of the validation set: the spoken words and the samples ``[N]``."""
        raise NotImplementedError

    @torch.inference_mode()
    def recognise(self, model: nn.Module, samples: Tensor, beam_size: int = 1) -> str:
        """The words in samples ``[N]`` at `RATE` with a largest magnitude of 1; the model is in evaluation mode."""
        inputs = self.normalised(log_mel(samples)).unsqueeze(1).to(next(model.parameters()).device)
        lengths = torch.tensor([len(inputs)])
        outputs, _ = model(Batch(inputs, targets=lengths, lengths=lengths.to(inputs.device)))
        return self.texts(outputs.cpu(), lengths, beam_size)[0]

    def transcribe(self, model: nn.Module, path: str | Path, beam_size: int = 1) -> str:
        """The words in a sound file, of any rate and number of channels.

        Args:
            model: model in evaluation mode.
            path: path of the file.
            beam_size: see `texts`.

        Raises:
            InputError: the file cannot be read, or is too short, too long or silent.
        """
        samples, rate = audio.read(path)
        if len(samples) > self.longest * rate:
            raise InputError(
                f"{path} lasts {len(samples) / rate:.1f} s; this model accepts at most {self.longest:g} s, so give a "
                "part of it"
            )
        return self.recognise(model, torch.from_numpy(levelled(samples, rate, str(path))), beam_size)

    def answer(self, model: nn.Module, given: Sequence[str]) -> list[str]:
        """The words in each of some sound files, see `transcribe`."""
        return [self.transcribe(model, path) for path in given]

    def sample(self, model: nn.Module) -> list[Sample]:
        """The true and the recognised words of some recordings of the validation set, and the first one as WAV."""
        found = self.examples()
        lines = [f"spoken:     {text}\nrecognised: {self.recognise(model, samples)}" for text, samples in found]
        return [Sample("\n\n".join(lines)), Sample(audio.encode(found[0][1].numpy(), RATE), ".wav")]

    def describe(self) -> list[str]:
        """The recordings, the speakers and the sizes of the splits."""
        every = [one for part in self.recordings.values() for one in part]
        minutes = sum(len(one.samples) for one in every) / RATE / 60
        sizes = ", ".join(f"{split} {len(part):,}" for split, part in self.recordings.items())
        speakers = {split: sorted({one.speaker for one in part}) for split, part in self.recordings.items()}
        return [
            f"data: {len(every):,} recordings, {minutes:.1f} minutes; {sizes}",
            f"speakers: train {', '.join(speakers['train'])}; test {', '.join(speakers['test'])}",
        ]

    def memory(self) -> dict[str, Any]:
        """The scales of the features."""
        return {"scales": [one.tolist() for one in self.scales]}

    def restore(self, memory: dict[str, Any]) -> None:  # noqa: D102
        mean, deviation = map(torch.tensor, memory["scales"])
        self.scales = mean, deviation

    def data_digest(self) -> str:
        """SHA-256 of all recordings and their splits."""
        digest = hashlib.sha256()
        for split, part in self.recordings.items():
            for one in part:
                digest.update(f"{split}\t{one.digit}\t{one.speaker}\t{one.index}\n".encode())
                digest.update(one.samples.tobytes())
        return digest.hexdigest()
