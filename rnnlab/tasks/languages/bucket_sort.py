"""Bucket sort: sort a word over five symbols. Context-sensitive; five counters are sufficient."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language


class BucketSort(Language):
    """Write the symbols of a word in order (Delétang et al., 2023, arXiv:2207.02098, section A.3).

        inputs   4 0 2 0 | | | |        the marker | = 5
        targets  - - - - 0 0 2 4        - is not scored

    Chance is 1/5. However, the length of the word and the position in the answer alone predict most symbols: the
    longer a word, the less the fractions of its symbols vary.
    """

    symbols = 5
    output_size = 5

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """All words are equally probable."""
        word = torch.randint(self.symbols, (length, self.batch_size), generator=generator)
        return word, word.sort(0).values

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, and ``by position``: the best prediction from the length and the position in the answer."""
        lengths = self.ranges[split]
        places = [_places(length, self.symbols) for length in lengths]
        by_position = {
            "loss": float(sum(torch.special.entr(p).sum() for p in places)) / sum(lengths),
            "accuracy": float(sum(p.amax(1).mean() for p in places)) / len(places),
        }
        return {**super().baselines(split), "by position": by_position}


def _places(length: int, symbols: int) -> Tensor:
    """The probability of each symbol at each position of a sorted word, ``[length, symbols]``.

    Position i, counted from 0, holds a symbol of at most k if more than i symbols of the word are at most k; the
    number of these symbols is binomial.
    """
    share = torch.arange(1, symbols, dtype=torch.float64) / symbols
    count = torch.arange(length, dtype=torch.float64)[:, None]
    total = torch.tensor(length + 1.0, dtype=torch.float64)
    ways = total.lgamma() - (count + 1).lgamma() - (total - count).lgamma()
    up_to = 1 - (ways + count * share.log() + (length - count) * (1 - share).log()).exp().cumsum(0)
    ends = torch.zeros(length, 1, dtype=torch.float64)
    return torch.cat([ends, up_to, ends + 1], 1).diff().clamp_min(0)
