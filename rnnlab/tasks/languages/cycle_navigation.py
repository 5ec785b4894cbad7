"""Cycle navigation: the end of a walk on a circle of five positions. A regular language."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.tasks.languages.base import Language


class CycleNavigation(Language):
    """Predict the end of a walk from 0 on a circle of five positions (Delétang et al., 2023, "Cycle Navigation").

        inputs   > > < = > |        back < = 0, stay = = 1, on > = 2, the marker | = 3
        targets  - - - - - 2        - is not scored

    Chance is 1/5.
    """

    symbols = 3
    output_size = 5

    def word(self, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
        """All walks are equally probable."""
        walk = torch.randint(3, (length, self.batch_size), generator=generator)
        return walk, (walk - 1).sum(0, keepdim=True) % 5
