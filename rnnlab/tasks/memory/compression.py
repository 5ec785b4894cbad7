"""Compression: recover a whole sequence from the last output."""

from __future__ import annotations

from functools import partialmethod
from math import log
from typing import Any

import torch
from torch import Tensor

from rnnlab.heads.categorical import categorical_accuracy, categorical_loss
from rnnlab.interface import Batch, Mean, Metric, Tokens
from rnnlab.tasks._repeated import Repeated
from rnnlab.tasks.base import check_least


class Compression(Repeated):
    """Recover all symbols from the output at the marker (compression task of MAD, Poli et al., 2024, arXiv:2403.17844).

    The input consists of random symbols and a marker. The output at the marker has a distribution for each position.
    With an alphabet of three symbols:

        inputs   a c b b |        a, b, c = 0, 1, 2, the marker | = 3
        targets  a c b b          all from the output at the marker

    The defaults are those of the paper, whose vocabulary of 16 includes the marker. Differences: the paper's code
    decodes the last output with an MLP that reads a sinusoidal code of the position; here, a linear readout has
    ``alphabet`` outputs for each position. The code also scores the marker, a constant. Chance is 1 / alphabet.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of steps, including the marker.
        examples: see `Repeated`.
        alphabet: number of different symbols.
    """

    metrics = {
        "loss": Metric("nats per symbol"),
        "accuracy": Metric("of the symbols of a sequence recovered", "higher"),
    }
    length_metric = "accuracy"
    shortest = 2

    def __init__(self, seed: int = 0, data_root: str = "data", *, alphabet: int = 15, **shared: Any) -> None:
        super().__init__(seed, data_root, **shared)
        check_least(2, alphabet=alphabet)
        self.alphabet = alphabet
        self.input = Tokens(alphabet + 1)
        self.output_size = alphabet * (max(lengths[-1] for lengths in self.ranges.values()) - 1)

    __init__ = partialmethod(__init__, lengths=(32, 32), test_lengths=(32, 32), batch_size=128, eval_batches=10)

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Random symbols and the marker; the targets are the symbols."""
        symbols = torch.randint(self.alphabet, (length - 1, self.batch_size), generator=generator)
        return Batch(torch.cat([symbols, torch.full_like(symbols[:1], self.alphabet)]), symbols)

    def loss(self, outputs: Tensor, batch: Batch) -> Mean:  # noqa: D102
        return categorical_loss(self._by_position(outputs, batch), batch.targets)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The fraction of the symbols of each sequence that are recovered."""
        return {"accuracy": categorical_accuracy(self._by_position(outputs, batch), batch.targets)}

    def _by_position(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The logits of each position, ``[T - 1, B, alphabet]``, from the last step's outputs."""
        return outputs[-1].unflatten(-1, (-1, self.alphabet)).transpose(0, 1)[: len(batch.targets)]

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Baseline ``chance``: all symbols are equally probable."""
        return {"chance": {"loss": log(self.alphabet), "accuracy": 1 / self.alphabet}}
