"""Base classes of the binary arithmetic tasks, and batched arithmetic on numbers of any size."""

from __future__ import annotations

from functools import cached_property, partialmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from rnnlab.tasks.languages.base import Language

WIDTH = 24
"""Binary digits per limb: an int64 can hold the sum of 2**15 products of two limbs."""


def limbs(digits: Tensor) -> Tensor:
    """Convert binary digits ``[D, B]`` to limbs ``[ceil(D / WIDTH), B]``, both with the lowest first."""
    rows = pad(digits, (0, 0, 0, -len(digits) % WIDTH)).unflatten(0, (-1, WIDTH))
    return (rows << torch.arange(WIDTH)[:, None]).sum(1)


def digits(columns: Tensor, count: int) -> Tensor:
    """The lowest ``count`` binary digits of numbers; ``columns`` are their limbs before carry propagation."""
    carry, sums = 0, []
    for column in columns.unbind():
        carry = column + carry
        sums.append(carry)
        carry = carry >> WIDTH
    return (torch.stack(sums)[:, None] >> torch.arange(WIDTH)[:, None] & 1).flatten(0, 1)[:count]


def product(a: Tensor, b: Tensor) -> Tensor:
    """The columns (see `digits`) of the product of two numbers with limbs ``a`` and ``b``."""
    columns = torch.zeros(len(a) + len(b), a.shape[1], dtype=a.dtype)
    for place, limb in enumerate(a.unbind()):
        columns[place : place + len(b)] += limb * b
    return columns


class Binary(Language):
    """A task whose answers consist of binary digits."""

    @cached_property
    def _always_one(self) -> dict[str, float]:
        return {}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, and ``always 1``: the fraction of ones, counted once in the split itself."""
        if split not in self._always_one:
            batches = [self.batch(split, step).targets for step in range(self.num_batches(split))]
            shares = [(targets == 1).sum() / self.scored(targets).sum().double() for targets in batches]
            self._always_one[split] = float(torch.stack(shares).mean())
        return {**super().baselines(split), "always 1": {"accuracy": self._always_one[split]}}


class Arithmetic(Binary):
    """Two binary numbers with an operator between them; the answer is a binary number and an end symbol.

    All numbers are written with the lowest digit first.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of symbols of both numbers and the operator, at least 3.
    """

    symbols = 3
    output_size = 3
    shortest = 3
    operator: ClassVar[int] = 2
    end = 2
    spare: ClassVar[int] = 0
    """The length of an answer, with its end symbol and padding, minus the length of its word."""

    __init__ = partialmethod(Binary.__init__, lengths=(3, 40))

    def columns(self, a: Tensor, b: Tensor) -> Tensor:
        """The columns (see `digits`) of the answer, which has fewer digits than the word has symbols."""
        raise NotImplementedError

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """The operator position is uniform; so are the numbers on both sides, except that zero is excluded."""
        step = torch.arange(length)[:, None]
        operator = torch.randint(1, length - 1, (self.batch_size,), generator=generator)
        word = torch.randint(2, (length, self.batch_size), generator=generator)
        while (zero := ~((word * (step < operator)).any(0) & (word * (step > operator)).any(0))).any():
            word[:, zero] = torch.randint(2, (length, int(zero.sum())), generator=generator)
        behind = step + operator + 1
        second = word.gather(0, behind.clamp_max(length - 1)) * (behind < length)
        answer = digits(self.columns(limbs(word * (step < operator)), limbs(second)), length)
        answer = pad(answer, (0, 0, 0, self.spare))
        place = torch.arange(len(answer))[:, None]
        answer = answer.masked_fill(place == (answer * (place + 1)).amax(0), self.end)
        return word.masked_fill(step == operator, self.operator), answer
