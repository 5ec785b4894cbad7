"""The word problem of a finite group: the running product of its elements. Regular."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from rnnlab.interface import Batch, InputError, Mean, Metric, Tokens
from rnnlab.tasks.base import Generated, Labelling

GROUPS = ("S3", "S4", "S5", "A5", "A4xZ5", "Z60")


class WordProblem(Generated, Labelling):
    """Predict the product of all group elements so far, at each step (Merrill et al., 2024, arXiv:2404.08819).

    With the group S3, whose elements 0 to 5 are the permutations 012, 021, 102, 120, 201 and 210,

        inputs   3 3 1 1
        targets  3 4 2 4        120 applied twice gives 201; 021 after that gives 102

    In a product, the left permutation is applied first. Merrill et al. compare groups of sixty elements: Z60 is
    commutative, A4xZ5 is solvable, A5 is neither. The word problems of A5 and S5 are complete for NC1; transformers, S4
    and Mamba are in TC0, and can solve them for words of any length only if TC0 = NC1. Grazzi et al., 2025
    (arXiv:2411.12537) show which eigenvalues a linear recurrence requires for each group.

    Merrill et al. train and test on words of the same length; here the test words are longer. Chance is one over the
    number of elements. The baseline that repeats the last element is also correct at the first step.

    The accuracy is the mean over all steps. ``last`` is the accuracy at the last step, and ``whole`` the fraction of
    words with the correct product at every step.

    Args:
        group: name of the group: S3, S4, S5, A5, A4xZ5 or Z60.
        by_length: metric that is reported for each length: ``accuracy``, ``last`` or ``whole``. ``last`` at the length
            n is the accuracy at the n-th position.
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of elements in a word.

    Raises:
        InputError: an option is not valid.
    """

    metrics = Labelling.metrics | {
        "accuracy": Metric("of the steps right", "higher"),
        "last": Metric("of the last steps right", "higher"),
        "whole": Metric("of the words right at every step", "higher"),
    }

    def __init__(
        self, seed: int = 0, data_root: str = "data", *, group: str = "S5", by_length: str = "accuracy", **shared: Any
    ) -> None:
        super().__init__(seed, data_root, **shared)
        if by_length not in ("accuracy", "last", "whole"):
            raise InputError(f"task.by_length={by_length!r} must be accuracy, last or whole")
        self.length_metric = by_length
        if group not in GROUPS:
            raise InputError(f"task.group={group!r} must be one of {', '.join(GROUPS)}")
        # Each row of the table is a permutation; argsort gives the factor from one product to the next.
        self._quotients = multiplication(group).argsort(1)

    @property
    def input(self) -> Tokens:  # noqa: D102
        return Tokens(len(self._quotients))

    @property
    def output_size(self) -> int:  # noqa: D102
        return len(self._quotients)

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """All words are equally probable.

        Therefore all sequences of products are too: the products are drawn, and the words are computed from them.
        """
        products = torch.randint(self.output_size, (length, self.batch_size), generator=generator)
        before = torch.cat([torch.zeros_like(products[:1]), products[:-1]])  # 0 is the identity
        return Batch(self._quotients[before, products], products)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The accuracy of each word over all steps, at the last step, and whether all steps are right."""
        right = (outputs.argmax(-1) == batch.targets).to(torch.float64)
        values = {"accuracy": right.mean(0), "last": right[-1], "whole": right.amin(0)}
        return {name: Mean(value, torch.ones_like(value)) for name, value in values.items()}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, and ``last element``: correct at the first step and after a product that is the identity."""
        lengths = self.ranges[split]
        guess = 1 / self.output_size
        right = sum(guess + (1 - guess) / length for length in lengths) / len(lengths)
        last = guess + (1 - guess) * (1 in lengths) / len(lengths)
        whole = sum(guess**length for length in lengths) / len(lengths)
        (_, chance), *_ = super().baselines(split).items()
        return {
            "chance": {**chance, "last": guess, "whole": whole},
            "last element": {"accuracy": right, "last": last, "whole": whole * self.output_size},
        }


def multiplication(group: str) -> Tensor:
    """The multiplication table of a group, ``[G, G]``: row by column. Element 0 is the identity."""
    if "x" in group:
        one, other = map(multiplication, group.split("x"))
        table = one[:, None, :, None] * len(other) + other[:, None, :]
        return table.reshape(len(one) * len(other), -1)
    family, n = group[0], int(group[1:])
    if family == "Z":
        return (torch.arange(n)[:, None] + torch.arange(n)) % n
    elements = torch.tensor(list(permutations(range(n))))
    if family == "A":
        inversions = (elements[:, :, None] > elements[:, None, :]).triu(1).sum((1, 2))
        elements = elements[inversions % 2 == 0]
    products = elements[:, elements].transpose(0, 1)  # product[i] = right[left[i]]
    places = n ** torch.arange(n).flip(0)
    return torch.searchsorted((elements * places).sum(1), (products * places).sum(2))
