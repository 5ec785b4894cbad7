"""Ways to the same outputs and gradients, such that they can be timed alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnnlab.benchmark.settings import Size
from rnnlab.cells import Cell
from rnnlab.layers import Recurrent, Stack, to_torch


class Missing(Exception):
    """A peer, or the floor, cannot take part; the message says why."""


class Contender(NamedTuple):
    """One way to the same outputs and gradients.

    name: what it is called.
    module: what is put into training or evaluation before it is timed, and whose gradients are cleared.
    training: does a training step and returns the gradient of the inputs.
    inference: returns the outputs.
    """

    name: str
    module: nn.Module | None
    training: Callable[[], Any]
    inference: Callable[[], Any]


class Work(NamedTuple):
    """What every contender gets: the cell, inputs ``[T, B, F]``, the gradient of the outputs, and threads."""

    cell: Cell
    inputs: Tensor
    upstream: Tensor
    threads: int


def work_of(cell: Cell, size: Size, threads: int, device: torch.device) -> Work:
    """The work of a cell at a size: random inputs and a random gradient of the outputs."""
    inputs = torch.randn(*size, device=device, requires_grad=True)
    upstream = torch.randn(*size[:2], cell.output_size, device=device)
    return Work(cell.to(device), inputs, upstream, threads)


def of_layer(name: str, module: nn.Module, work: Work) -> Contender:
    """A layer of torch: ``module(inputs) -> (outputs, state)``."""
    plain = work.inputs.detach()

    def training() -> Tensor:
        outputs, _ = module(work.inputs)
        torch.autograd.backward(outputs, work.upstream)
        return work.inputs.grad

    def inference() -> Tensor:
        with torch.no_grad():
            return module(plain)[0]

    return Contender(name, module, training, inference)


def native(cell: Cell) -> nn.Module:
    """``torch.nn``'s layer of a cell with its weights; raises `Missing` where there is none."""
    if cell.native() is None:
        raise Missing(f"torch.nn has no layer for {type(cell).__name__} as configured")
    return to_torch(Stack([Recurrent(cell, "reference")]))
