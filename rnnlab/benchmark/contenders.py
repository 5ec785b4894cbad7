"""Contenders: implementations of a cell behind one interface for timing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnnlab.benchmark.settings import Size
from rnnlab.cells import Cell
from rnnlab.layers import Recurrent, Stack, to_torch


class Missing(Exception):
    """A peer or the floor cannot be measured; the message gives the reason."""


class Contender(NamedTuple):
    """One implementation of a cell.

    name: its name in the tables.
    module: set to training or evaluation mode before each call, and its gradients cleared; None if there is none.
    training: performs a training step and returns the gradient of the inputs.
    inference: returns the outputs.
    """

    name: str
    module: nn.Module | None
    training: Callable[[], Any]
    inference: Callable[[], Any]


class Work(NamedTuple):
    """The work of all contenders: cell, inputs ``[T, B, F]``, gradient of the outputs, number of threads, lengths."""

    cell: Cell
    inputs: Tensor
    upstream: Tensor
    threads: int
    lengths: Tensor | None = None


def work_of(cell: Cell, size: Size, threads: int, device: torch.device, lengths: bool = False) -> Work:
    """Draw random inputs, a gradient of the outputs and, with ``lengths``, random lengths for a cell."""
    inputs = torch.randn(*size, device=device, requires_grad=True)
    upstream = torch.randn(*size[:2], cell.output_size, device=device)
    drawn = torch.randint(1, size.steps + 1, (size.batch_size,)) if lengths else None
    return Work(cell.to(device), inputs, upstream, threads, drawn)


def of_layer(name: str, module: nn.Module, work: Work) -> Contender:
    """Return the contender of a layer called as ``module(inputs)`` or ``module(inputs, lengths=lengths)``."""
    plain = work.inputs.detach()
    more = {} if work.lengths is None else {"lengths": work.lengths}

    def training() -> Tensor:
        outputs, _ = module(work.inputs, **more)
        torch.autograd.backward(outputs, work.upstream)
        return work.inputs.grad

    def inference() -> Tensor:
        with torch.no_grad():
            return module(plain, **more)[0]

    return Contender(name, module, training, inference)


def native(cell: Cell) -> nn.Module:
    """Return ``torch.nn``'s layer with the weights of a cell.

    Raises:
        Missing: ``torch.nn`` has no such layer.
    """
    if cell.native() is None:
        raise Missing(f"torch.nn has no layer for {type(cell).__name__} as configured")
    return Packed(to_torch(Stack([Recurrent(cell, "reference")])))


class Packed(nn.Module):
    """A layer of ``torch.nn`` that receives lengths as a packed sequence."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """Return outputs ``[T, B, H]``, zero past the end of each sequence, and the final state."""
        if lengths is None:
            return self.layer(inputs)
        packed, state = self.layer(pack_padded_sequence(inputs, lengths, enforce_sorted=False))
        return pad_packed_sequence(packed, total_length=len(inputs))[0], state
