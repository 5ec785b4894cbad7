"""Japanese vowels: classify utterances by their speaker. Sequences of different lengths, with one class each."""

from __future__ import annotations

import hashlib
from functools import cached_property
from math import pi
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnnlab.data import PublicFile, locate
from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError, Vectors
from rnnlab.tasks._predicting import Classes, Predicts, classes_of, hold, sequences_of
from rnnlab.tasks.base import EVALUATION_SEED, Finite, Labelling, check_least
from rnnlab.tasks.classification._ts import Cases, read_ts

ADDRESS = "https://raw.githubusercontent.com/sktime/sktime/main/sktime/datasets/data/JapaneseVowels/"
JAPANESE_VOWELS = tuple(
    PublicFile(path=f"japanese_vowels/{name}", url=ADDRESS + name, sha256=sha256)
    for name, sha256 in (
        ("JapaneseVowels_TRAIN.ts", "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd"),
        ("JapaneseVowels_TEST.ts", "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462"),
    )
)
VALID = 0.2
"""Fraction of the training sequences of each class that is used for validation."""


class Sequences(NamedTuple):
    """Sequences of a split: ``inputs [T, N, F]``, padded with 0, their ``lengths [N]`` and ``labels [N]``."""

    inputs: Tensor
    lengths: Tensor
    labels: Tensor


class Vowels(Predicts, Finite, Labelling):
    """Classify each sequence at its last step, by default by the speaker of /ae/ (Kudo, Toyama and Shimbo, 1999).

    ``japanese_vowels`` has 12 LPC cepstra per step, 7 to 29 steps, 9 speakers, 270 training and 370 test sequences, as
    published (Pattern Recognition Letters 20, p. 1103; UCI). ``generated`` has the same size and needs no download: a
    class is a combination of one of three frequencies and one of three dampings of a noisy oscillation. A fifth of the
    training sequences of each class is used for validation, the same in all runs. A batch of two sequences, with 2 and
    3 steps, and classes 7 and 4:

        inputs   0.3  0.5   0        0.1  0.2  0.3
        targets   -    7    -         -    -    4        - is not scored

    Sequences are not sorted by length: training shuffles them in each epoch, evaluation takes them in file order. A
    missing value is replaced by the last observed value of its channel, or by 0 if there is none. The accuracy is
    reported for each length. Chance is 1/9; for other files, one over the number of classes.

    Args:
        seed: seed of the order of the training sequences.
        data_root: directory of the public data sets.
        source: ``generated``, ``japanese_vowels``, or the path of a folder with NAME_TRAIN.ts and NAME_TEST.ts in the
            format of sktime and aeon.
        batch_size: number of sequences per batch.

    Raises:
        InputError: a file is missing or cannot be read, or an option is not valid.
    """

    def __init__(
        self, seed: int = 0, data_root: str = "data", *, source: str = "generated", batch_size: int = 30
    ) -> None:
        super().__init__(seed, data_root)
        check_least(1, batch_size=batch_size)
        self.files, self.batch_size = source, batch_size
        self._known: list[str] | None = None

    @cached_property
    def cases(self) -> tuple[Cases, Cases]:
        """The training and the test series, with the same classes and channels."""
        if self.files == "generated":
            generator = torch.Generator().manual_seed(EVALUATION_SEED)
            return _oscillations(270, generator), _oscillations(370, generator)
        if self.files == "japanese_vowels":
            paths = [locate(file, self.data_root) for file in JAPANESE_VOWELS]
        else:
            paths = _pair(self.files)
        train, test = map(read_ts, paths)
        sizes = [cases.series[0].shape[1] for cases in (train, test)]
        if sizes[0] != sizes[1]:
            raise InputError(f"{paths[0]} has {sizes[0]} dimensions, {paths[1]} has {sizes[1]}; they must be the same")
        unknown = [name for name in test.classes if name not in train.classes]
        if unknown:
            raise InputError(
                f"{paths[1]} has a class {unknown[0]!r}, which {paths[0]} does not have; correct the files"
            )
        classes = self._known or train.classes
        if others := [name for name in train.classes if name not in classes]:
            raise InputError(
                f"{paths[0]} has a class {others[0]!r}; the model was trained on {', '.join(classes)} only"
            )
        return _relabelled(train, classes), _relabelled(test, classes)

    @property
    def classes(self) -> list[str]:
        """The name of each class, in the order of the outputs."""
        return self._known or self.cases[0].classes

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The number of channels and of classes."""
        train = self.cases[0]
        return {"channels": train.series[0].shape[1], "classes": len(train.classes)}

    @property
    def input(self) -> Vectors:  # noqa: D102
        return Vectors(self.sizes["channels"])

    @property
    def output_size(self) -> int:  # noqa: D102
        return self.sizes["classes"]

    @cached_property
    def parts(self) -> dict[str, Sequences]:
        """The sequences of each split."""
        train, test = self.cases
        labels = torch.tensor(train.labels)
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        is_valid = torch.zeros(len(labels), dtype=torch.bool)
        for label in range(len(train.classes)):
            members = (labels == label).nonzero().flatten()
            chosen = torch.randperm(len(members), generator=generator)[: round(VALID * len(members))]
            is_valid[members[chosen]] = True
        if not is_valid.any():
            raise InputError(
                f"task.source={self.files!r} has {len(labels)} training sequences, too few for a validation set; "
                "give more"
            )
        return {
            "train": _pad(train, (~is_valid).nonzero().flatten().tolist()),
            "valid": _pad(train, is_valid.nonzero().flatten().tolist()),
            "test": _pad(test, list(range(len(test.labels)))),
        }

    def count(self, split: str) -> int:  # noqa: D102
        return len(self.parts[split].labels)

    def batch(self, split: str, step: int) -> Batch:
        """Sequences padded to the longest one of the batch, with the class as the target of each last step."""
        part, chosen = self.parts[split], self.chosen(split, step)
        lengths = part.lengths[chosen]
        inputs = part.inputs[: int(lengths.max()), chosen]
        targets = torch.full(inputs.shape[:2], IGNORE)
        targets[lengths - 1, torch.arange(len(chosen))] = part.labels[chosen]
        return Batch(inputs, targets, lengths=lengths)

    def lengths(self, split: str, step: int) -> Tensor:
        """The number of steps of each sequence of a batch."""
        return self.parts[split].lengths[self.chosen(split, step)]

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, and ``most frequent``: the most frequent training class, the first one of several."""
        common = torch.bincount(self.parts["train"].labels).argmax()
        share = float((self.parts[split].labels == common).double().mean())
        return {**super().baselines(split), "most frequent": {"accuracy": share}}

    def encode(self, values: Any) -> list[Tensor]:
        """Sequences of channels; a missing value is replaced as in training."""
        rows, lengths = sequences_of(values, self.sizes["channels"])
        return list(hold(rows, lengths).float().split(lengths))

    def decode(self, outputs: Tensor, values: Any) -> Classes:
        """The class of each sequence."""
        return classes_of(outputs, self.classes)

    def read_own(self, path: Path) -> list[Any]:
        """The sequences of a .ts, .npz or .npy file; the classes of a .ts file are not used."""
        return read_ts(path).series if path.suffix == ".ts" else super().read_own(path)

    def memory(self) -> dict[str, Any]:
        """The number of channels and of classes, and the names of the classes."""
        return {"sizes": self.sizes, "classes": self.classes}

    def restore(self, memory: dict[str, Any]) -> None:  # noqa: D102
        self.sizes, self._known = memory["sizes"], memory.get("classes")  # older checkpoints have no class names

    def data_digest(self) -> str:
        """SHA-256 of all sequences and classes, in order."""
        digest = hashlib.sha256()
        for part in self.parts.values():
            for tensor in part:
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def _pair(source: str) -> list[Path]:
    """The training and the test file of a folder."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"task.source={source!r} is neither a folder nor one of generated, japanese_vowels; give the path of a "
            "folder with NAME_TRAIN.ts and NAME_TEST.ts"
        )
    found = sorted(folder.glob("*_TRAIN.ts"))
    if len(found) != 1:
        raise InputError(
            f"{folder} has {len(found)} files NAME_TRAIN.ts; give a folder with one such file, and its NAME_TEST.ts"
        )
    return [found[0], found[0].with_name(found[0].name.removesuffix("_TRAIN.ts") + "_TEST.ts")]


def _relabelled(cases: Cases, classes: list[str]) -> Cases:
    """The series with labels that index ``classes``."""
    return Cases(classes, cases.series, [classes.index(cases.classes[label]) for label in cases.labels])


def _pad(cases: Cases, rows: list[int]) -> Sequences:
    series = [hold(cases.series[row]) for row in rows]
    inputs = torch.nn.utils.rnn.pad_sequence(series)
    return Sequences(inputs, torch.tensor(list(map(len, series))), torch.tensor([cases.labels[row] for row in rows]))


def _oscillations(count: int, generator: torch.Generator) -> Cases:
    """Sequences of 7 to 29 steps: ``exp(-damping t) sin(2 pi frequency t + phase)`` with a little noise."""
    labels = torch.arange(count) % 9
    frequencies, dampings = torch.tensor([0.08, 0.16, 0.3])[labels // 3], torch.tensor([0.0, 0.1, 0.25])[labels % 3]
    phases = 2 * pi * torch.rand(count, generator=generator)
    lengths = torch.randint(7, 30, (count,), generator=generator)
    time = torch.arange(29).unsqueeze(1)
    values = (-dampings * time).exp() * (2 * pi * frequencies * time + phases).sin()
    values += 0.05 * torch.randn(29, count, generator=generator)
    series = [values[:length, i].unsqueeze(1) for i, length in enumerate(lengths.tolist())]
    return Cases([str(label) for label in range(9)], series, labels.tolist())
