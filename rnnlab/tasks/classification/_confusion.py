"""The confusion matrix of one class per sequence, as means of an evaluation, and the scores that follow from it."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.heads import IGNORE
from rnnlab.interface import Mean
from rnnlab.report.table import aligned

CONFUSION = "confusion/"
"""The prefix of the names of the entries: ``confusion/TRUE/PREDICTED``, with the indices of the classes."""


def counts(outputs: Tensor, targets: Tensor) -> dict[str, Mean]:
    """The fraction of the scored steps of a batch with each pair of true and predicted class, of all that occur.

    Args:
        outputs: logits ``[T, B, C]``.
        targets: class indices ``[T, B]``, with `IGNORE` at steps that are not scored.
    """
    size = outputs.shape[-1]
    pairs = torch.where(targets == IGNORE, size * size, targets * size + outputs.argmax(-1))
    found = torch.zeros(size * size + 1, dtype=torch.int64, device=pairs.device)
    found.index_add_(0, pairs.flatten(), torch.ones_like(pairs).flatten())
    number = found[:-1].sum()
    return {f"{CONFUSION}{i}/{j}": Mean(found[i * size + j], number) for i in range(size) for j in range(size)}


def matrix(means: dict[str, float], size: int) -> list[list[float]]:
    """The confusion matrix in fractions, a row for each true class."""
    return [[means[f"{CONFUSION}{i}/{j}"] for j in range(size)] for i in range(size)]


def f1_scores(fractions: list[list[float]]) -> list[float | None]:
    """The F1 score of each class: twice the hits over the sum of its row and its column; None if it never occurs."""
    scores: list[float | None] = []
    for i, row in enumerate(fractions):
        both = sum(row) + sum(other[i] for other in fractions)
        scores.append(2 * row[i] / both if both else None)
    return scores


def macro_f1(means: dict[str, float], size: int) -> float:
    """The mean F1 score of the classes that occur or are predicted."""
    scores = [score for score in f1_scores(matrix(means, size)) if score is not None]
    return sum(scores) / len(scores)


def report(means: dict[str, float], classes: list[str], number: int) -> str:
    """The confusion matrix in numbers of sequences, and precision, recall and F1 of each class, as text."""
    fractions = matrix(means, len(classes))
    rows = [["true \\ predicted", *classes, "precision", "recall", "F1"]]
    for i, (name, row, f1) in enumerate(zip(classes, fractions, f1_scores(fractions), strict=True)):
        predicted, true = sum(other[i] for other in fractions), sum(row)
        scores = [row[i] / predicted if predicted else None, row[i] / true if true else None, f1]
        shown = ["-" if score is None else f"{score:.3f}" for score in scores]
        rows.append([name, *(str(round(fraction * number)) for fraction in row), *shown])
    return "\n".join(
        [*aligned(rows, str.rjust), "", f"macro F1 {macro_f1(means, len(classes)):.4f}, {number} sequences", ""]
    )
