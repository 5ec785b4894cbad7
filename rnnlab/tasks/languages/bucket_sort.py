"""Bucket sort: sort a word over five symbols. Context-sensitive; five counters are enough."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language


class BucketSort(Language):
    """Write the symbols of a word in order (Delétang et al., 2023, arXiv:2207.02098, section A.3).

        inputs   4 0 2 0 | | | |        the marker | = 5
        targets  - - - - 0 0 2 4        - is not scored

    A guess is right in a fifth of the steps. But who counts steps alone, and knows nothing of the word but its length,
    is right in most: the longer a word is, the better its symbols' shares are known.
    """

    symbols = 5
    output_size = 5

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """Any word is as probable as any other."""
        word = torch.randint(self.symbols, (length, self.batch_size), generator=generator)
        return word, word.sort(0).values

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``chance``, and ``by position``: from the length and the place in the answer, the best there is."""
        lengths = self.ranges[split]
        places = [_places(length, self.symbols) for length in lengths]
        by_position = {
            "loss": float(sum(torch.special.entr(p).sum() for p in places)) / sum(lengths),
            "accuracy": float(sum(p.amax(1).mean() for p in places)) / len(places),
        }
        return {**super().baselines(split), "by position": by_position}


def _places(length: int, symbols: int) -> Tensor:
    """The probability of each symbol at each place of a sorted word, ``[length, symbols]``.

    A place holds a symbol up to k if more of the word's symbols than there are places before it are up to k; how many
    of them are is binomial.
    """
    share = torch.arange(1, symbols, dtype=torch.float64) / symbols
    count = torch.arange(length, dtype=torch.float64)[:, None]
    total = torch.tensor(length + 1.0, dtype=torch.float64)
    ways = total.lgamma() - (count + 1).lgamma() - (total - count).lgamma()
    up_to = 1 - (ways + count * share.log() + (length - count) * (1 - share).log()).exp().cumsum(0)
    ends = torch.zeros(length, 1, dtype=torch.float64)
    return torch.cat([ends, up_to, ends + 1], 1).diff().clamp_min(0)
