"""Edit distance between two sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def edit_distance(written: Sequence[Any], reference: Sequence[Any]) -> int:
    """The smallest number of insertions, deletions and substitutions that turn one sequence into the other.

    This is the distance of Levenshtein (1966), by the dynamic programme of Wagner and Fischer (1974).
    """
    row = list(range(len(reference) + 1))
    for i, one in enumerate(written, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(reference, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (one != other))
    return row[-1]
