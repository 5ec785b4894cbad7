"""The contract of a task whose trained model predicts on the user's own data, and the predictions that it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnnlab.interface import InputError


@dataclass(frozen=True)
class Classes:
    """The predicted class of each sequence.

    names: names of the classes, in the order of the columns of ``probabilities``.
    probabilities: float ``[N, classes]``; each row sums to 1.
    ids: name of each sequence; None to number them.
    """

    names: list[str]
    probabilities: Tensor
    ids: list[str] | None = None

    @property
    def labels(self) -> list[str]:
        """The name of the most probable class of each sequence."""
        return [self.names[place] for place in self.probabilities.argmax(1).tolist()]

    def rows(self) -> list[list[Any]]:
        """A header, and for each sequence its name or number, its class and the probability of each class."""
        header = ["sequence", "class", *(f"p({name})" for name in self.names)]
        ids = range(len(self.probabilities)) if self.ids is None else self.ids
        triples = zip(ids, self.labels, self.probabilities.tolist(), strict=True)
        return [header, *([name, label, *p] for name, label, p in triples)]


@dataclass(frozen=True)
class Forecasts:
    """The next rows of each sequence, in the units of the data.

    columns: names of the columns that are forecast.
    values: float64 ``[N, horizon, columns]``.
    """

    columns: list[str]
    values: Tensor

    def rows(self) -> list[list[Any]]:
        """A header, and each forecast row after the number of its sequence and the number of rows ahead."""
        return [
            ["sequence", "ahead", *self.columns],
            *(
                [number, ahead, *row]
                for number, rows in enumerate(self.values.tolist())
                for ahead, row in enumerate(rows, 1)
            ),
        ]


@dataclass(frozen=True)
class Characters:
    """How probable each character of each text is, given the characters before it.

    texts: the texts.
    log_probabilities: one float tensor ``[len(text)]`` for each text, in nats; the first character is NaN, because
        nothing comes before it.
    """

    texts: list[str]
    log_probabilities: list[Tensor]

    def rows(self) -> list[list[Any]]:
        """A header, and for each character the number of its text, its place and its log-probability."""
        return [
            ["text", "place", "character", "log_probability"],
            *(
                [number, place, character, value if place else ""]
                for number, (text, values) in enumerate(zip(self.texts, self.log_probabilities, strict=True))
                for place, (character, value) in enumerate(zip(text, values.tolist(), strict=True))
            ),
        ]


@dataclass(frozen=True)
class Texts:
    """The text that the model writes for each text or file.

    sources: the texts or the names of the files.
    texts: what the model writes for each of them.
    """

    sources: list[str]
    texts: list[str]

    def rows(self) -> list[list[Any]]:
        """A header, and for each source the source and the text."""
        return [["source", "text"], *map(list, zip(self.sources, self.texts, strict=True))]


Prediction = Classes | Forecasts | Characters | Texts


class Answers:
    """A mix-in for tasks whose trained model writes a text for each of the user's texts or files."""

    def answer(self, model: nn.Module, given: Sequence[str]) -> list[str]:
        """What a trained model writes.

        Args:
            model: model in evaluation mode.
            given: texts, or paths of files.

        Raises:
            InputError: a text or a file does not fit the model.
        """
        raise NotImplementedError

    def read_own(self, path: Path) -> list[str]:
        """What `answer` receives for the user's file or folder: the file itself, or the files of the folder by name.

        Raises:
            InputError: the file cannot be read, or the folder has no files.
        """
        found = sorted(map(str, filter(Path.is_file, path.iterdir()))) if path.is_dir() else [str(path)]
        if not found:
            raise InputError(f"{path} has no files; give a file, or a folder of files")
        return found


class Predicts:
    """A mix-in for tasks whose trained model predicts on the user's own data.

    decodes_every_step: whether `decode` receives the outputs of every step, or only of the last step of each sequence.
    """

    decodes_every_step: bool = False

    def convert(self, values: Any) -> Any:
        """Bring the user's data into the form that `encode` and `decode` receive; by default they stay as they are.

        Raises:
            InputError: the data do not fit the model.
        """
        return values

    def encode(self, values: Any) -> list[Tensor]:
        """Convert the user's data to model inputs: for each sequence ``[T]`` tokens or ``[T, F]`` vectors, T >= 1.

        Raises:
            InputError: the data do not fit the model.
        """
        raise NotImplementedError

    def elapsed_of(self, values: Any) -> list[Tensor] | None:
        """The time between each input of a sequence and the previous one, float ``[T]``; None for no times."""
        return None

    def decode(self, outputs: Any, values: Any) -> Prediction:
        """Convert the outputs of the model to a prediction.

        Args:
            outputs: a tensor ``[N, output_size]``, or with ``decodes_every_step`` a list of N tensors
                ``[T, output_size]``; on the CPU.
            values: the data, as given to `encode`.
        """
        raise NotImplementedError

    def read_own(self, path: Path) -> Any:
        """Read the user's data from a file; by default sequences from a .npz or .npy file.

        Raises:
            InputError: the file cannot be read.
        """
        return read_arrays(path)


def classes_of(outputs: Tensor, names: Sequence[str], ids: list[str] | None = None) -> Classes:
    """The classes and probabilities of logits ``[N, classes]``."""
    return Classes(list(names), outputs.float().softmax(1), ids)


def read_arrays(path: Path) -> list[np.ndarray]:
    """The sequences of a .npz file (one array each, in the order of the file) or of a .npy file (its first axis).

    Raises:
        InputError: the file is no such file.
    """
    if path.suffix not in (".npz", ".npy"):
        raise InputError(f"{path} cannot be read by this task; give a .npz or .npy file")
    try:
        content = np.load(path, allow_pickle=False)
        return [content[name] for name in content.files] if path.suffix == ".npz" else list(content)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise InputError(f"{path} cannot be read as {path.suffix}: {error}") from error


def sequences_of(values: Any, names: Sequence[str] | int) -> tuple[Tensor, list[int]]:
    """The sequences of the user's data, one after the other.

    Args:
        values: one sequence: an array ``[T, F]`` (``[T]`` if F is 1), a list of T numbers, or a DataFrame; or several
            sequences: an array ``[N, T, F]`` or a list of sequences of any lengths.
        names: names of the F columns, which are selected from a DataFrame; or F, if the columns have no names.

    Returns:
        all rows, float64 ``[rows, F]`` with NaN for missing values, and the number of rows of each sequence.

    Raises:
        InputError: the values are not numbers or do not have these shapes.
    """
    size = names if isinstance(names, int) else len(names)
    is_many = getattr(values, "ndim", None) == 3 or (isinstance(values, list | tuple) and not _is_number(values))
    found = [_sequence(value, names, size, i) for i, value in enumerate(values if is_many else [values])]
    rows = np.concatenate([*found, np.empty((0, size))])
    if np.isinf(rows).any():
        place = next(i for i, one in enumerate(found) if np.isinf(one).any())
        raise InputError(f"sequence {place} has an infinite value; give finite numbers, and NaN for missing values")
    return torch.from_numpy(rows), list(map(len, found))


def _is_number(values: Sequence[Any]) -> bool:
    return len(values) > 0 and np.ndim(values[0]) == 0 and not hasattr(values[0], "columns")


def _sequence(value: Any, names: Sequence[str] | int, size: int, place: int) -> np.ndarray:
    if hasattr(value, "columns") and not isinstance(names, int):
        if missing := [name for name in names if name not in list(value.columns)]:
            raise InputError(f"sequence {place} has no column {missing[0]!r}; the model needs {', '.join(names)}")
        value = list(zip(*(value[name].to_numpy().tolist() for name in names), strict=True))
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"sequence {place} is not an array of numbers ({error})") from error
    if found.ndim == 1 and size == 1:
        found = found[:, None]
    if found.ndim != 2 or found.shape[1] != size or not len(found):
        shape = list(found.shape)
        raise InputError(f"sequence {place} has the shape {shape}; it must be [steps, {size}] with at least one step")
    return found


def hold(rows: Tensor, lengths: list[int] | None = None) -> Tensor:
    """Replace each missing value by the last observed one of its column in its sequence, or by 0 if there is none.

    Args:
        rows: the rows of all sequences, one after the other, ``[rows, F]`` with NaN for missing values.
        lengths: number of rows of each sequence; None for a single sequence.
    """
    missing = rows.isnan()
    if not missing.any():  # a fifth of the time of a prediction
        return rows
    starts: Tensor | int = 0
    if lengths is not None:
        counts = torch.tensor(lengths, dtype=torch.int64)
        starts = (counts.cumsum(0) - counts).repeat_interleave(counts).unsqueeze(1)
    last = torch.where(missing, -1, torch.arange(len(rows)).unsqueeze(1)).cummax(0).values
    return torch.where(last >= starts, rows.nan_to_num().gather(0, last.clamp_min(0)), 0.0)
