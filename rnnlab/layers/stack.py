"""A stack: layers over depth, each reading the outputs of the one below."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import dropout

from rnnlab.cells.base import Cell
from rnnlab.interface import InputError, State
from rnnlab.layers.recurrent import Recurrent


class Stack(nn.Module):
    """Layers over depth, with the interface of one layer; its state is a tuple of the layers' states.

    Args:
        layers: from the lowest to the highest.
        dropout: share of the features dropped between layers while training (Zaremba, Sutskever and Vinyals, 2014,
            arXiv:1409.2329); none after the last.
    """

    def __init__(self, layers: list[Recurrent], dropout: float = 0.0) -> None:
        super().__init__()
        if not layers:
            raise InputError("a stack needs at least one layer; num_layers must be at least 1")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout is {dropout}; it is a share, at least 0 and below 1")
        self.layers = nn.ModuleList(layers)
        self.dropout = dropout

    @classmethod
    def build(
        cls,
        cell: Callable[[int, int], Cell],
        input_size: int,
        hidden_size: int,
        num_layers: int,
        *,
        dropout: float = 0.0,
        backend: str = "auto",
        initial_state: str = "zero",
    ) -> Stack:
        """``num_layers`` layers of ``hidden_size`` of the cell made by ``cell(input_size, hidden_size)``."""
        layers: list[Recurrent] = []
        for _ in range(num_layers):
            width = layers[-1].output_size if layers else input_size
            layers.append(Recurrent(cell(width, hidden_size), backend, initial_state))
        return cls(layers, dropout)

    @property
    def output_size(self) -> int:
        """Features of an output of the highest layer."""
        return self.layers[-1].output_size

    def initial_state(self, batch_size: int) -> State:
        """The states before the first step, one per layer."""
        return tuple(layer.initial_state(batch_size) for layer in self.layers)

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """As `Recurrent.forward`: inputs ``[T, B, F]`` to outputs ``[T, B, output_size]``."""
        states = [None] * len(self.layers) if state is None else state
        if len(states) != len(self.layers):
            raise InputError(f"the state is for {len(states)} layers, the stack has {len(self.layers)}")
        final = []
        outputs = inputs
        for depth, (layer, before) in enumerate(zip(self.layers, states, strict=True)):
            if depth:
                outputs = dropout(outputs, self.dropout, self.training)
            outputs, after = layer(outputs, before, lengths)
            final.append(after)
        return outputs, tuple(final)
