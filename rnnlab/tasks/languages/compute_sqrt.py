"""Square root: of a binary number, rounded down. Context-sensitive."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from rnnlab.tasks.languages._binary import Binary, digits, limbs, product


class ComputeSqrt(Binary):
    """The square root of a binary number, rounded down (Delétang et al., 2023, arXiv:2207.02098, section A.3).

        inputs   1 0 0 1 0 1 | | |        37; the marker | = 2
        targets  - - - - - - 1 1 0        6; - is not scored

    The root has half as many digits as the number, rounded up; both may have zeros in front. The highest digit comes
    first, as in the authors' code; the paper says the lowest. A guess is right in half of the steps.
    """

    symbols = 2
    output_size = 2

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """Any number is as probable as any other but zero, which there is not."""
        words = torch.empty(length + (length + 1) // 2, 0, dtype=torch.int64)
        while words.shape[1] < self.batch_size:  # three times as many are hardly ever too few: half of them fit
            number, root = _numbers_and_roots(generator, length, 3 * self.batch_size)
            fits = number[:length].any(0) & ~number[length:].any(0)
            words = torch.cat([words, torch.cat([number[:length], root])[:, fits]], 1)
        number, root = words[:, : self.batch_size].split([length, len(words) - length])
        return number.flip(0), root.flip(0)


def _numbers_and_roots(generator: torch.Generator, length: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Numbers of an even number of digits, at least ``length``, each as probable as any other, and their roots.

    No root is taken. Every number belongs to exactly one pair x, y, of which the larger is its root: it is y² + x if
    x < y, else x² + x + y (Szudzik, An Elegant Pairing Function, 2006). So two numbers of half the length are drawn.
    """
    size = (length + 1) // 2
    x, y = torch.randint(2, (2, size, batch_size), generator=generator)
    highest = ((x != y) * torch.arange(1, size + 1)[:, None]).argmax(0, keepdim=True)
    smaller = x.gather(0, highest) < y.gather(0, highest)
    root = torch.where(smaller, y, x)
    columns = product(limbs(root), limbs(root))
    rest = limbs(x) + limbs(y * ~smaller)
    return digits(columns + pad(rest, (0, 0, 0, len(columns) - len(rest))), 2 * size), root
