"""The word problem of a finite group: what is the product of all elements so far? Regular."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.tasks.base import Generated, Labelling

GROUPS = ("S3", "S5", "A5", "A4xZ5", "Z60")


class WordProblem(Generated, Labelling):
    """Say at every step what the product of all elements of a group so far is (Merrill et al., 2024, arXiv:2404.08819).

    With the group S3, whose elements 0 to 5 are the permutations 012, 021, 102, 120, 201 and 210,

        inputs   3 3 1 1
        targets  3 4 2 4        120 twice is 201; then 021 makes 102 of it

    In a product the left permutation comes first. Merrill et al. compare groups of sixty elements: Z60 is commutative,
    A4xZ5 solvable, A5 neither. The word problems of A5 and S5 are complete for NC1; transformers, S4 and Mamba are in
    TC0, and can solve them for words of any length only if TC0 is NC1. Which eigenvalues a linear recurrence needs for
    which group is in Grazzi et al., 2025 (arXiv:2411.12537).

    Merrill et al. train and test on words of one length; here the test is on longer ones. A guess is right in one of
    as many cases as there are elements; who repeats the last element is, in addition, right at the first step.

    Args:
        group: S3, S5, A5, A4xZ5 or Z60.
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of elements in a word.

    Raises:
        InputError: there is no such group.
    """

    def __init__(self, seed: int = 0, data_root: str = "data", *, group: str = "S5", **shared: Any) -> None:
        super().__init__(seed, data_root, **shared)
        if group not in GROUPS:
            raise InputError(f"task.group is {group!r}; it must be one of {', '.join(GROUPS)}")
        # Every row of the table is a permutation; sorting finds what makes the one product of the other.
        self._quotients = multiplication(group).argsort(1)

    @property
    def input(self) -> Tokens:  # noqa: D102
        return Tokens(len(self._quotients))

    @property
    def output_size(self) -> int:  # noqa: D102
        return len(self._quotients)

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Any word is as probable as any other.

        So is, then, any sequence of products: those are drawn, and each word follows from its products.
        """
        products = torch.randint(self.output_size, (length, self.batch_size), generator=generator)
        before = torch.cat([torch.zeros_like(products[:1]), products[:-1]])  # 0 is the neutral element
        return Batch(self._quotients[before, products], products)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, and ``last element``: right at the first step, and where the product before was neutral."""
        lengths = self.ranges[split]
        guess = 1 / self.output_size
        right = sum(guess + (1 - guess) / length for length in lengths) / len(lengths)
        return {**super().baselines(split), "last element": {"accuracy": right}}


def multiplication(group: str) -> Tensor:
    """The multiplication table of a group, ``[G, G]``: row by column. Element 0 is neutral."""
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
    products = elements[:, elements].transpose(0, 1)  # place i goes where the right one takes left[i]
    places = n ** torch.arange(n).flip(0)
    return torch.searchsorted((elements * places).sum(1), (products * places).sum(2))
