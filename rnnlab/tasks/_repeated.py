"""Generated tasks with a finite training set, for protocols that vary the number of training examples."""

from __future__ import annotations

from typing import Any

import torch

from rnnlab.interface import Batch, InputError
from rnnlab.tasks.base import Generated


class Repeated(Generated):
    """A generated task whose training set may be finite.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`.
        examples: number of training sequences, a multiple of ``batch_size``. Each epoch has all of them, with the
            batches in a new random order. null: every training batch has new sequences.

    Raises:
        InputError: an option is not valid.
    """

    def __init__(self, seed: int = 0, data_root: str = "data", *, examples: int | None = None, **shared: Any) -> None:
        super().__init__(seed, data_root, **shared)
        if examples is not None and (examples < 1 or examples % self.batch_size):
            raise InputError(
                f"task.examples={examples} must be a positive multiple of task.batch_size={self.batch_size}, or null"
            )
        self.examples = examples

    def batch(self, split: str, step: int) -> Batch:
        """Batch number ``step``; with ``examples``, a training batch occurs once in each epoch."""
        if split == "train" and self.examples is not None:
            count = self.examples // self.batch_size
            epoch, place = divmod(step, count)
            # Steps are not negative, so the generator of the order is that of no batch.
            step = int(torch.randperm(count, generator=self.generator(split, -1 - epoch))[place])
        return super().batch(split, step)
