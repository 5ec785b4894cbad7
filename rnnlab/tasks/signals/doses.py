"""Doses: the concentration of a drug after doses at irregular times."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import torch
from torch import Tensor

from rnnlab.interface import Batch, InputError, Vectors
from rnnlab.tasks.base import Generated, Regression

TIMES = ("elapsed", "input", "both", "none")
SHORTEST = 0.05
"""The shortest time of a rate: shorter times would give rates of any size."""


class Doses(Generated, Regression):
    """Predict the concentration of a drug at irregular times, from the doses so far and the times between them.

    The one-compartment model of pharmacokinetics with first-order absorption (Bateman, 1910): a dose u enters the gut,
    goes from there into the blood with rate k_a, and is eliminated with rate k_e. Between two events

        da/dt = -k_a a        dc/dt = k_a a - k_e c

    The times between events are exponential with mean 1. At an event, the concentration c is measured, and then, with
    probability 1/2, a dose is given, uniform between 0 and 1. With k_a = 2, k_e = 0.5, a dose of 1, and times 1, 1, 3:

        inputs    1.00  0.00  0.00
        elapsed   1.00  1.00  3.00
        targets   0.00  0.63  0.18

    The target depends on the times: a model that does not know them cannot be exact.

    Args:
        seed, data_root, lengths, test_lengths, curriculum, batch_size, eval_batches: see `Generated`; the length is
            the number of events.
        times: how the times are given: ``elapsed`` to cells that take elapsed times, ``input`` as another feature,
            ``both``, or ``none``.
        inputs: ``doses``, or ``rates``: the dose of the previous event divided by the time since then, at least
            `SHORTEST`. A cell that integrates an input over the elapsed time then takes up the dose, not a multiple of
            it that depends on the time.
        absorption: k_a, per unit of time.
        elimination: k_e, per unit of time, different from k_a.

    Raises:
        InputError: an option is not valid.
    """

    output_size = 1

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        times: str = "input",
        inputs: str = "doses",
        absorption: float = 2.0,
        elimination: float = 0.5,
        **shared: Any,
    ) -> None:
        super().__init__(seed, data_root, **shared)
        if times not in TIMES:
            raise InputError(f"task.times={times!r} is not one of {', '.join(TIMES)}")
        if inputs not in ("doses", "rates"):
            raise InputError(f"task.inputs={inputs!r} is not one of doses, rates")
        if min(absorption, elimination) <= 0 or absorption == elimination:
            raise InputError(
                f"task.absorption={absorption} and task.elimination={elimination} must be above 0 and different"
            )
        self.times, self.inputs, self.absorption, self.elimination = times, inputs, absorption, elimination
        self.input = Vectors(1 + (times in ("input", "both")))
        self.has_elapsed = times in ("elapsed", "both")

    __init__ = partialmethod(__init__, lengths=(50, 50), test_lengths=(50, 50), eval_batches=10)

    def draw(self, generator: torch.Generator, length: int) -> Batch:
        """Doses, times and concentrations."""
        shape = (length, self.batch_size)
        elapsed = -torch.log1p(-torch.rand(shape, generator=generator))
        doses = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.5)
        targets = self.concentrations(doses, elapsed).unsqueeze(-1)
        if self.inputs == "rates":
            doses = torch.cat([torch.zeros_like(doses[:1]), doses[:-1]]) / elapsed.clamp(min=SHORTEST)
        features = [doses, elapsed] if self.input.size == 2 else [doses]
        return Batch(torch.stack(features, -1), targets, elapsed=elapsed if self.has_elapsed else None)

    def concentrations(self, doses: Tensor, elapsed: Tensor) -> Tensor:
        """The concentration at every event, before its dose, from doses and times ``[T, B]``."""
        k_a, k_e = self.absorption, self.elimination
        in_gut, in_blood, found = torch.zeros_like(doses[0]), torch.zeros_like(doses[0]), []
        for dose, time in zip(doses, elapsed, strict=True):
            absorbed, eliminated = (-k_a * time).exp(), (-k_e * time).exp()
            in_blood = in_blood * eliminated + in_gut * k_a / (k_a - k_e) * (eliminated - absorbed)
            in_gut = in_gut * absorbed + dose
            found.append(in_blood)
        return torch.stack(found)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``mean``: the mean concentration; ``equal times``: the exact solution, had all times been 1."""
        batches = [self.batch(split, step) for step in range(self.num_batches(split))]
        targets = torch.cat([batch.targets.flatten() for batch in batches])
        equal = [self.concentrations(batch.inputs[..., 0], torch.ones(batch.inputs.shape[:2])) for batch in batches]
        errors = {
            "mean": targets - targets.mean(),
            "equal times": targets - torch.cat([one.flatten() for one in equal]),
        }
        return {
            name: {"loss": float(error.square().mean()), "mae": float(error.abs().mean())}
            for name, error in errors.items()
        }
