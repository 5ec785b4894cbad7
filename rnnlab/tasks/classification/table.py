"""Classify the user's own sequences: folders of files, a CSV file, or lines of text."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError, Mean, Metric, Vectors
from rnnlab.tasks._predicting import Classes, Predicts, classes_of
from rnnlab.tasks.base import EVALUATION_SEED, Finite, Labelling, check_least, check_shares
from rnnlab.tasks.classification import _columns
from rnnlab.tasks.classification._confusion import CONFUSION, counts, macro_f1, report
from rnnlab.tasks.classification._labelled import (
    CHARACTER,
    Labelled,
    gaps_of,
    joined,
    of_arrays,
    of_texts,
    read_labelled,
)
from rnnlab.tasks.signals._csv import times_of

SHOWN = 20
"""Maximum number of classes, and of columns, that the log describes."""


class Table(Predicts, Finite, Labelling):
    """Classify each of the user's own sequences at its last step.

    ``file`` is a CSV file with a column of sequence names and a column of classes, a CSV file with a column of texts
    and a column of classes, a folder with one sub-folder of CSV, .npz or .npy files for each class, or a .txt file with
    lines of class, tab (or comma) and text. CSV files may have semicolons or tabs and decimal commas. A first column of
    times, and every column of dates, is left out.

    Columns of numbers are standardised by the mean and standard deviation of the training rows. A missing number (an
    empty cell, NA or NaN) is replaced by the last observed value of its sequence, or by the mean if there is none; if
    the data have missing numbers, each column of numbers also has a mask, 1 for observed values. Other columns are
    one-hot over the categories of the training rows; an unknown or missing category is all zeros. Sequences are split
    at random, the same in all runs, with the same fractions of each class. A batch of two sequences, with 2 and 3 steps
    of one column, and classes 1 and 0:

        inputs   0.3  0.5   0        0.1  0.2  0.3
        targets   -    1    -         -    -    0        - is not scored

    ``macro_f1`` is the mean of the F1 score over all classes that occur or are predicted. The confusion matrix and the
    scores of each class are written to ``written/SPLIT/confusion.txt``.

    Args:
        seed: seed of the order of the training sequences.
        data_root: not used.
        file: ``example`` (generated), or the path of a file or a folder.
        sequence: column of a CSV file with the name of the sequence.
        label: column of a CSV file with the class.
        columns: names of the columns to read; empty: all except sequence, class and times.
        text: column of a CSV file with texts, each of which is a sequence of characters; empty for a file without
            texts.
        elapsed: column of a CSV file with the time of each row, a number or a date, for cells that take elapsed times;
            empty: rows are equally spaced. The unit is the median time between rows of the training sequences, and the
            first time of each sequence is 1.
        class_weights: ``none``, or ``balanced``: each class has the same weight in the loss, whatever its frequency.
        split: fractions of train, valid and test, or of train and valid.
        batch_size: number of sequences per batch.

    Raises:
        InputError: the data cannot be read, or an option is not valid.
    """

    metrics = {
        "loss": Metric("nats per sequence"),
        "accuracy": Metric("of the sequences right", "higher"),
        "macro_f1": Metric("mean F1 of the classes", "higher"),
    }
    length_metric = None

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        file: str = "example",
        sequence: str = "sequence",
        label: str = "label",
        columns: list[str] = (),
        text: str = "",
        elapsed: str = "",
        class_weights: str = "none",
        split: list[float] = (0.7, 0.15, 0.15),
        batch_size: int = 32,
    ) -> None:
        super().__init__(seed, data_root)
        check_shares(split)
        check_least(1, batch_size=batch_size)
        if class_weights not in ("none", "balanced"):
            raise InputError(f"task.class_weights={class_weights!r} must be one of none, balanced")
        if text and (columns or elapsed):
            other = "columns" if columns else "elapsed"
            raise InputError(f"task.text={text} and task.{other} are both set; a text is the only column that is read")
        self.file, self.sequence, self.label, self.columns, self.text = file, sequence, label, list(columns), text
        self.elapsed, self.has_elapsed = elapsed, bool(elapsed)
        self.class_weights, self.split, self.batch_size = class_weights, list(split), batch_size
        self.splits = ("train", "valid", "test")[: len(split)]
        self._known: dict[str, Any] | None = None

    @cached_property
    def data(self) -> Labelled:
        """The sequences of the file."""
        if self.file == "example":
            return _example()
        path = Path(self.file).expanduser()
        return read_labelled(path, self.sequence, self.label, self.columns, self.text, self.elapsed)

    @property
    def _names(self) -> list[str]:
        return [*self.encoding["numeric"], *self.encoding["categories"]]

    @cached_property
    def members(self) -> dict[str, Tensor]:
        """Indices of the sequences of each split, the same fraction of each class, int64."""
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        labels = self.data.labels
        found: dict[str, list[int]] = {name: [] for name in self.splits}
        for name in sorted(set(labels)):
            same = torch.tensor([i for i, label in enumerate(labels) if label == name])
            same = same[torch.randperm(len(same), generator=generator)].tolist()
            ends = [round(len(same) * sum(self.split[: i + 1])) for i in range(len(self.split))]
            ends[0] = max(ends[0], 1)
            for split, start, end in zip(self.splits, [0, *ends], ends, strict=False):
                found[split] += same[start:end]
        for split, chosen in found.items():
            if not chosen:
                raise InputError(
                    f"task.file={self.file!r} has {len(labels)} sequences, too few for the {split} part of "
                    f"task.split={self.split}; give more sequences or other fractions"
                )
        return {split: torch.tensor(sorted(chosen)) for split, chosen in found.items()}

    @cached_property
    def encoding(self) -> dict[str, Any]:
        """The encoding of a trained model: classes, scales and categories, see `_columns.fit`."""
        if self._known:
            return self._known
        classes = sorted(set(self.data.labels))
        if len(classes) < 2:
            raise InputError(f"task.file={self.file!r} has only the class {classes[0]!r}; give at least two classes")
        is_train = torch.zeros(len(self.data.lengths), dtype=torch.bool)
        is_train[self.members["train"]] = True
        encoding = _columns.fit(self.data, is_train.repeat_interleave(torch.tensor(self.data.lengths)))
        if not _columns.size_of(encoding):
            raise InputError(f"the training part of {self.file!r} has no values; give columns with values")
        return {"classes": classes, **encoding, **({"time_unit": self._time_unit()} if self.elapsed else {})}

    def _time_unit(self) -> float:
        """The median time between rows of the training sequences."""
        gaps = gaps_of(self.data, self.elapsed)
        known = torch.cat([gaps[i] for i in self.members["train"].tolist()])
        known = known[known > 0]  # not of first rows, which are NaN
        if not len(known):
            raise InputError(f"column {self.elapsed!r} has the same time in all rows of each training sequence")
        return float(known.median())

    @property
    def input(self) -> Vectors:  # noqa: D102
        return Vectors(_columns.size_of(self.encoding))

    @property
    def output_size(self) -> int:  # noqa: D102
        return len(self.encoding["classes"])

    @cached_property
    def inputs(self) -> list[Tensor]:
        """The inputs of each sequence, float ``[T, input.size]``."""
        return _columns.encode(self.data, self.encoding)

    @cached_property
    def times(self) -> list[Tensor] | None:
        """The elapsed times of each sequence, see `elapsed_of`."""
        return self.elapsed_of(self.data)

    def elapsed_of(self, values: Any) -> list[Tensor] | None:
        """The time between each row and the previous one, float ``[T]``; None without ``elapsed``."""
        if not self.elapsed:
            return None
        gaps = gaps_of(self.convert(values), self.elapsed)
        return [(one / self.encoding["time_unit"]).nan_to_num(1.0).float() for one in gaps]

    @cached_property
    def labels(self) -> Tensor:
        """The class of each sequence, int64 ``[N]``."""
        classes = {name: i for i, name in enumerate(self.encoding["classes"])}
        if unknown := set(self.data.labels) - set(classes):
            raise InputError(f"the model does not know the class {min(unknown)!r}; it knows {', '.join(classes)}")
        return torch.tensor([classes[label] for label in self.data.labels])

    @cached_property
    def weights(self) -> Tensor:
        """The weight of each class in the loss, float ``[classes]``; its mean over the training sequences is 1."""
        found = torch.bincount(self.labels[self.members["train"]], minlength=self.output_size).float()
        is_balanced = self.class_weights == "balanced"
        return found.sum() / (self.output_size * found) if is_balanced else torch.ones(self.output_size)

    def count(self, split: str) -> int:  # noqa: D102
        return len(self.members[split])

    def batch(self, split: str, step: int) -> Batch:
        """Sequences padded to the longest one of the batch, with the class as the target of each last step."""
        chosen = self.members[split][self.chosen(split, step)]
        inputs = pad_sequence([self.inputs[i] for i in chosen.tolist()])
        lengths = torch.tensor([self.data.lengths[i] for i in chosen.tolist()])
        targets = torch.full(inputs.shape[:2], IGNORE)
        targets[lengths - 1, torch.arange(len(chosen))] = self.labels[chosen]
        elapsed = pad_sequence([self.times[i] for i in chosen.tolist()]) if self.elapsed else None
        return Batch(inputs, targets, lengths=lengths, elapsed=elapsed)

    def loss(self, outputs: Tensor, batch: Batch) -> Mean:
        """The cross-entropy of each sequence, weighted by its class with ``class_weights=balanced``."""
        if self.class_weights == "none":
            return super().loss(outputs, batch)
        targets, weights = batch.targets.flatten(), self.weights.to(outputs.device)
        total = cross_entropy(outputs.float().flatten(0, 1), targets, weights, ignore_index=IGNORE, reduction="sum")
        return Mean(total, (weights[targets.clamp_min(0)] * (targets != IGNORE)).sum())

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The accuracy, and the number of sequences of each class that get each class, for the confusion matrix."""
        return {**super().measure(outputs, batch), **counts(outputs, batch.targets)}

    def derive(self, means: dict[str, float]) -> dict[str, float]:
        """Replace the confusion matrix by the macro F1."""
        kept = {name: value for name, value in means.items() if not name.startswith(CONFUSION)}
        return kept if len(kept) == len(means) else {**kept, "macro_f1": macro_f1(means, self.output_size)}

    def details(self, split: str, means: dict[str, float]) -> dict[str, str]:
        """The confusion matrix and the scores of each class."""
        return {"confusion.txt": report(means, self.encoding["classes"], self.count(split))}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, and ``most frequent``: the most frequent training class."""
        common = torch.bincount(self.labels[self.members["train"]]).argmax()
        right = float((self.labels[self.members[split]] == common).double().mean())
        occurring = len(set(self.labels[self.members[split]].tolist()) | {int(common)})
        frequent = {"accuracy": right, "macro_f1": 2 * right / (1 + right) / occurring}
        return {**super().baselines(split), "most frequent": frequent}

    def describe(self) -> list[str]:
        """The sequences, classes and columns of the file."""
        data, encoding = self.data, self.encoding
        parts = ", ".join(f"{name} {len(chosen)}" for name, chosen in self.members.items())
        steps = f"{min(data.lengths)} to {max(data.lengths)} steps"
        lines = [f"data: {len(data.lengths)} sequences of {self.file} ({parts}), {steps}"]
        found = Counter(data.labels)
        lines += [f"class {name!r}: {found[name]} sequences" for name in encoding["classes"][:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"and {len(found) - SHOWN} further classes")
        for name in self._names[:SHOWN]:
            if name in encoding["numeric"]:
                mean, deviation = encoding["numeric"][name]
                missing = int(_columns.numbers_in(data.columns[name]).isnan().sum())
                kind = f"numeric, mean {mean:.4g}, deviation {deviation:.4g} in training"
                kind += f", {missing} missing values" if missing else ""
            else:
                known = encoding["categories"][name]
                more = ", ..." if len(known) > SHOWN else ""
                kind = f"{len(known)} categories in training: {', '.join(map(repr, known[:SHOWN]))}{more}"
            lines.append(f"column {name!r}: {kind}")
        if len(self._names) > SHOWN:
            lines.append(f"and {len(self._names) - SHOWN} further columns")
        if self.elapsed:
            lines.append(f"column {self.elapsed!r}: elapsed times, median {encoding['time_unit']:g} in training")
        return [*lines, *(f"column {name!r}: left out ({reason})" for name, reason in data.left_out.items())]

    def read_own(self, path: Path) -> Any:
        """The sequences of a file in a format of ``file``, without using classes; a .txt file has one text per line."""
        if path.suffix in (".npz", ".npy"):
            return super().read_own(path)
        columns = self._names if path.suffix in (".csv", ".tsv") else self.columns
        return read_labelled(path, self.sequence, self.label, columns, self.text, self.elapsed, needs_labels=False)

    def encode(self, values: Any) -> list[Tensor]:
        """The inputs of each sequence; see `convert` for the values."""
        return _columns.encode(self.convert(values), self.encoding)

    def decode(self, outputs: Tensor, values: Any) -> Classes:
        """The class of each sequence."""
        return classes_of(outputs, self.encoding["classes"], self.convert(values).ids)

    def convert(self, values: Any) -> Labelled:
        """The sequences of arrays, DataFrames (with or without a column of sequence names), or texts."""
        if isinstance(values, Labelled):
            return values
        if isinstance(values, str):
            values = [values]
        if hasattr(values, "columns"):
            return self._framed(values)
        if isinstance(values, list | tuple) and len(values):
            if all(hasattr(value, "columns") for value in values):
                found = joined([self._framed(value) for value in values], "the list")
                return found._replace(ids=[str(i) for i in range(len(found.lengths))])
            if all(isinstance(value, str) for value in values):
                if self._names != [CHARACTER]:
                    raise InputError(f"the model was not trained on texts; give the columns {', '.join(self._names)}")
                if "" in values:
                    raise InputError("a text is empty; give texts with at least one character")
                return of_texts(list(values), [])
        found = of_arrays(values)
        if self.encoding["categories"] or (found.lengths and len(found.columns) != len(self._names)):
            raise InputError(
                f"the model needs the columns {', '.join(self._names)}; give an array of numbers with these columns, "
                "or a DataFrame or a file if there are categories"
            )
        return found._replace(columns=dict(zip(self._names, found.columns.values(), strict=False)))

    def _framed(self, frame: Any) -> Labelled:
        """The sequences of a DataFrame: one, or those of the column of sequence names."""
        names = list(frame.columns)
        if self.text in names:
            return of_texts(list(map(str, frame[self.text].to_numpy().tolist())), [])
        if missing := [name for name in self._names if name not in names]:
            raise InputError(f"the DataFrame has no column {missing[0]!r}; the model needs {', '.join(self._names)}")
        count = len(np.asarray(frame[self._names[0]].to_numpy()))
        ids = frame[self.sequence].to_numpy().tolist() if self.sequence in names else ["0"] * count
        groups: dict[str, list[int]] = {}
        for row, name in enumerate(map(str, ids)):
            groups.setdefault(name, []).append(row)
        order = [row for rows in groups.values() for row in rows]
        cells = {}
        for name in self._names:
            found = frame[name].to_numpy().tolist()
            cells[name] = ["" if found[row] is None or found[row] != found[row] else str(found[row]) for row in order]
        lengths = [len(rows) for rows in groups.values()]
        return Labelled(cells, lengths, [], list(groups), {}, self._times_of(frame, names, order))

    def _times_of(self, frame: Any, names: list[str], order: list[int]) -> Tensor | None:
        """The times of the rows of a DataFrame."""
        if not self.elapsed or self.elapsed not in names:
            return None
        return times_of(np.asarray(frame[self.elapsed].to_numpy())[order], self.elapsed)

    def memory(self) -> dict[str, Any]:
        """The classes, and the encoding of the columns."""
        return {"encoding": self.encoding}

    def restore(self, memory: dict[str, Any]) -> None:  # noqa: D102
        self._known = memory["encoding"]
        vars(self).pop("encoding", None)

    def data_digest(self) -> str:
        """SHA-256 of all inputs and classes, in order."""
        digest = hashlib.sha256("\n".join(self.encoding["classes"]).encode())
        for tensor in (*self.inputs, self.labels, *(self.times or ())):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def _example() -> Labelled:
    """300 walks of 10 to 30 steps: rising, falling or flat, with a column of numbers and one of categories."""
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    lengths = torch.randint(10, 31, (300,), generator=generator).tolist()
    labels = [("falling", "flat", "rising")[i % 3] for i in range(300)]
    values, weather = [], []
    for i, length in enumerate(lengths):
        walk = (torch.randn(length, generator=generator) + 0.3 * (i % 3 - 1)).cumsum(0)
        values.append(walk.double())
        weather += [("dry", "wet")[int(x > 0)] for x in torch.randn(length, generator=generator)]
    return Labelled({"value": torch.cat(values), "weather": weather}, lengths, labels, [str(i) for i in range(300)], {})
