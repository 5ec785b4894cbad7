"""Square root of a binary number, rounded down. Context-sensitive."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from rnnlab.tasks.languages._binary import Binary, digits, limbs, product


class ComputeSqrt(Binary):
    """The square root of a binary number, rounded down (Delétang et al., 2023, arXiv:2207.02098, section A.3).

        inputs   1 0 0 1 0 1 | | |        37; the marker | = 2
        targets  - - - - - - 1 1 0        6; - is not scored

    The root has half as many digits as the number, rounded up; both may have leading zeros. The highest digit comes
    first, as in the authors' code; in the paper, the lowest does. Chance is 1/2.
    """

    symbols = 2
    output_size = 2

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """All numbers except zero are equally probable; zero is excluded."""
        words = torch.empty(length + (length + 1) // 2, 0, dtype=torch.int64)
        while words.shape[1] < self.batch_size:  # about half of the numbers fit, so 3 * batch_size are usually enough
            number, root = _numbers_and_roots(generator, length, 3 * self.batch_size)
            fits = number[:length].any(0) & ~number[length:].any(0)
            words = torch.cat([words, torch.cat([number[:length], root])[:, fits]], 1)
        number, root = words[:, : self.batch_size].split([length, len(words) - length])
        return number.flip(0), root.flip(0)


def _numbers_and_roots(generator: torch.Generator, length: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Uniformly random numbers and their roots; the number of digits is ``length``, rounded up to an even number.

    No root is computed. Every number belongs to exactly one pair x, y, whose larger element is its root: the number is
    y² + x if x < y, else x² + x + y (Szudzik, An Elegant Pairing Function, 2006). Drawing x and y, each of half the
    length, therefore gives a uniform number and its root.
    """
    size = (length + 1) // 2
    x, y = torch.randint(2, (2, size, batch_size), generator=generator)
    highest = ((x != y) * torch.arange(1, size + 1)[:, None]).argmax(0, keepdim=True)
    smaller = x.gather(0, highest) < y.gather(0, highest)
    root = torch.where(smaller, y, x)
    columns = product(limbs(root), limbs(root))
    rest = limbs(x) + limbs(y * ~smaller)
    return digits(columns + pad(rest, (0, 0, 0, len(columns) - len(rest))), 2 * size), root
