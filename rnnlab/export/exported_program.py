"""Export a model with ``torch.export``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.export.check import random_inputs
from rnnlab.export.interface import carries, check_exportable
from rnnlab.interface import Batch, InputError
from rnnlab.models import Model
from rnnlab.trees import map_state, tensors_of


class Flat(nn.Module):
    """A model whose states are separate arguments and results, ``(inputs, *states) -> (outputs, *states)``.

    Args:
        model: the model.
        step: whether to compute one time step.
    """

    def __init__(self, model: Model, step: bool) -> None:
        super().__init__()
        self.model, self.step = model, step
        self.nesting = model.begin(batch_size=1) if carries(model) else None

    def forward(self, inputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs and the final states."""
        left = iter(states)
        state = None if self.nesting is None else map_state(lambda _: next(left), self.nesting)
        outputs, after = self.model.step(inputs, state) if self.step else self.model(Batch(inputs, inputs), state)
        return (outputs, *(() if state is None else tensors_of(after)))


def build(model: Model, step: bool = False, steps: int = 32) -> torch.export.ExportedProgram:
    """Return a model as an exported program with a dynamic number of sequences.

    The program computes ``(inputs, *states) -> (outputs, *states)``. A loop over time has a fixed number of steps.

    Args:
        model: the model, in evaluation mode, on the CPU, with ``backend=reference``.
        step: whether the program computes one time step: inputs ``[B]`` or ``[B, F]``.
        steps: number of steps of the inputs ``[steps, B]`` or ``[steps, B, F]``, without ``step``.

    Raises:
        InputError: torch cannot export the model; the message gives its reason.
    """
    if not step and steps < 1:
        raise InputError(f"steps={steps} must be at least 1")
    check_exportable(model, step)
    batch_size = 3
    generator = torch.Generator().manual_seed(0)
    inputs = random_inputs(model, *([batch_size] if step else [steps, batch_size]), generator=generator)
    flat = Flat(model, step)
    states = () if flat.nesting is None else tuple(map(torch.clone, tensors_of(model.begin(batch_size=batch_size))))
    rows = torch.export.Dim("batch", min=1)
    dynamic: Any = {"inputs": {0 if step else 1: rows}, "states": tuple({0: rows} for _ in states)}
    try:
        # torch warns about its own interfaces; if it fails, it logs and prints the graph.
        with warnings.catch_warnings(action="ignore"), redirect_stderr(StringIO()), _without_logs():
            return torch.export.export(flat.eval(), (inputs, *states), dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # torch.export raises errors of many types
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"torch.export cannot export the model: {type(error).__name__}: {reason}") from error


@contextmanager
def _without_logs() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)
