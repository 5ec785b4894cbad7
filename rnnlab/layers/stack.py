"""A stack of layers, each of which reads the outputs of the layer below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from rnnlab.cells.base import Cell, check_choice
from rnnlab.interface import InputError
from rnnlab.layers import norms
from rnnlab.layers.recurrent import Recurrent
from rnnlab.trees import State

NORMS = {"none": nn.Identity, **norms.NORMS}


class Composite(nn.Module):
    """Base class of layers that consist of layers: `forward` and `trajectory` by one method, ``run``."""

    def forward(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None, **context: Any
    ) -> tuple[Tensor, State]:
        """Run all layers on inputs ``[T, B, F]``, with the same ``fresh`` and ``context``; see `Recurrent.forward`."""
        outputs, final, _ = self.run(_outputs_of, inputs, state, lengths, context)
        return outputs, final

    def trajectory(
        self, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None, **context: Any
    ) -> tuple[Tensor, State, State]:
        """Run all layers, and also return their states after every step; see `Recurrent.trajectory`."""
        return self.run(_trajectory_of, inputs, state, lengths, context)

    def run(
        self, call: Callable, inputs: Tensor, state: State | None, lengths: Tensor | None, context: dict[str, Any]
    ) -> tuple[Tensor, State, State]:
        """Run all layers.

        Args:
            call: function ``(layer, inputs, state, lengths, **context) -> (outputs, state)`` or ``(outputs, state,
                states)``, which runs a layer.
            inputs: ``[T, B, F]``.
            state: the state before the first step, or None.
            lengths: int64 ``[B]`` or None.
            context: additional arguments of ``call``.

        Returns:
            outputs, final state, and the states of all steps; these are empty if ``call`` returns none.
        """
        raise NotImplementedError


def _outputs_of(layer: nn.Module, *arguments: Any, **context: Any) -> tuple[Tensor, State]:
    return layer(*arguments, **context)


def _trajectory_of(layer: Any, *arguments: Any, **context: Any) -> tuple[Tensor, State, State]:
    return layer.trajectory(*arguments, **context)


class Bidirectional(Composite):
    """A bidirectional layer: a forward and a backward layer (Schuster and Paliwal, 1997, doi:10.1109/78.650093).

    It has the interface of a layer; its state is the pair of the two states. Each output depends on the whole sequence,
    so splitting a sequence changes the results.

    Args:
        forward_layer: a layer that reads from the first step.
        backward_layer: a layer with ``reverse=True``.
        merge: how to combine the outputs, ``concatenate`` or ``sum``.
    """

    def __init__(self, forward_layer: Recurrent, backward_layer: Recurrent, merge: str = "concatenate") -> None:
        super().__init__()
        self.merge = check_choice("bidirectional", merge, ("concatenate", "sum"))
        self.forward_layer, self.backward_layer = forward_layer, backward_layer

    @property
    def output_size(self) -> int:
        """Number of output features."""
        sizes = (self.forward_layer.output_size, self.backward_layer.output_size)
        return sum(sizes) if self.merge == "concatenate" else sizes[0]

    def initial_state(self, batch_size: int) -> State:
        """Return the initial states of the forward and the backward layer."""
        return self.forward_layer.initial_state(batch_size), self.backward_layer.initial_state(batch_size)

    def run(  # noqa: D102
        self, call: Callable, inputs: Tensor, state: State | None, lengths: Tensor | None, context: dict[str, Any]
    ) -> tuple[Tensor, State, State]:
        first, second = (None, None) if state is None else state
        ahead, first, *early = call(self.forward_layer, inputs, first, lengths, **context)
        back, second, *late = call(self.backward_layer, inputs, second, lengths, **context)
        outputs = torch.cat([ahead, back], -1) if self.merge == "concatenate" else ahead + back
        return outputs, (first, second), (*early, *late)


class Connection(nn.Module):
    """A residual or highway connection around a layer.

    ``residual``: y + x (He et al., 2016, arXiv:1512.03385). ``highway``: g ⊙ y + (1 - g) ⊙ x with g = σ(W x + b), b
    initialised to -1 (Srivastava, Greff and Schmidhuber, 2015, arXiv:1505.00387).

    Args:
        kind: ``residual`` or ``highway``.
        width: number of features of inputs and outputs.
    """

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.gate = nn.Linear(width, width) if kind == "highway" else None
        if self.gate is not None:
            nn.init.constant_(self.gate.bias, -1.0)

    def forward(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Combine inputs and outputs of a layer, each ``[T, B, width]``."""
        if self.gate is None:
            return inputs + outputs
        g = self.gate(inputs).sigmoid()
        return g * outputs + (1 - g) * inputs


class Stack(Composite):
    """A stack of layers with the interface of a layer; its state is a tuple of the layers' states.

    The inputs of each layer but the lowest go through the norm, then the dropout. The connection is around norm,
    dropout and layer.

    Args:
        layers: the layers, from the lowest to the highest: each a `Recurrent`, a `Bidirectional` or another module with
            their interface, such as `rnnlab.layers.Block`.
        dropout: dropout rate between layers in training (Zaremba, Sutskever and Vinyals, 2014,
            arXiv:1409.2329); the outputs of the highest layer are not dropped.
        norm: normalisation of the inputs of each layer but the lowest: ``none``, ``layer`` (Ba, Kiros and Hinton, 2016,
            arXiv:1607.06450) or ``rms`` (Zhang and Sennrich, 2019, arXiv:1910.07467).
        connection: ``none``, ``residual`` or ``highway``, around every layer but the lowest; see `Connection`.

    Raises:
        InputError: there is no layer, an option is invalid, or a connection joins different widths.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        dropout: float = 0.0,
        norm: str = "none",
        connection: str = "none",
    ) -> None:
        super().__init__()
        if not layers:
            raise InputError("a stack needs at least one layer; num_layers must be at least 1")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout={dropout} must be at least 0 and below 1")
        check_choice("norm", norm, tuple(NORMS))
        check_choice("connection", connection, ("none", "residual", "highway"))
        if len(layers) == 1 and (norm, connection) != ("none", "none"):
            raise InputError(f"norm={norm}, connection={connection} needs num_layers >= 2, got 1")
        self.layers: Any = nn.ModuleList(layers)  # their attributes differ: see `Recurrent` and `Bidirectional`
        self.dropout = dropout
        widths = [layer.output_size for layer in self.layers[:-1]]
        self.norms = nn.ModuleList(NORMS[norm](width) if norm != "none" else nn.Identity() for width in widths)
        self.connections = nn.ModuleList()
        if connection != "none":
            for below, layer in pairwise(self.layers):
                if below.output_size != layer.output_size:
                    raise InputError(
                        f"connection={connection} joins {below.output_size} and {layer.output_size} features; "
                        "the numbers must be equal"
                    )
                self.connections.append(Connection(connection, layer.output_size))

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
        bidirectional: str = "none",
        **between: Any,
    ) -> Stack:
        """Return a stack of ``num_layers`` layers with cells made by ``cell(input_size, hidden_size)``.

        Args:
            cell: function that makes a cell.
            input_size: number of input features of the lowest layer.
            hidden_size: width of every layer, in each direction.
            num_layers: number of layers.
            dropout: see `Stack`.
            backend: one of `rnnlab.engine.BACKENDS`.
            initial_state: ``zero`` or ``learned``.
            bidirectional: ``none``, ``concatenate`` or ``sum``; see `Bidirectional`.
            between: ``norm`` and ``connection``; see `Stack`.
        """
        check_choice("bidirectional", bidirectional, ("none", "concatenate", "sum"))
        layers: list[Recurrent | Bidirectional] = []
        for _ in range(num_layers):
            width = layers[-1].output_size if layers else input_size
            one = Recurrent(cell(width, hidden_size), backend, initial_state)
            if bidirectional != "none":
                other = Recurrent(cell(width, hidden_size), backend, initial_state, reverse=True)
                one = Bidirectional(one, other, bidirectional)
            layers.append(one)
        return cls(layers, dropout, **between)

    @property
    def output_size(self) -> int:
        """Number of output features of the highest layer."""
        return self.layers[-1].output_size

    def initial_state(self, batch_size: int) -> State:
        """Return the states before the first step, one per layer."""
        return tuple(layer.initial_state(batch_size) for layer in self.layers)

    def run(  # noqa: D102
        self, call: Callable, inputs: Tensor, state: State | None, lengths: Tensor | None, context: dict[str, Any]
    ) -> tuple[Tensor, State, State]:
        states = [None] * len(self.layers) if state is None else state
        if len(states) != len(self.layers):
            raise InputError(f"the state is for {len(states)} layers, the stack has {len(self.layers)}")
        final, found = [], []
        outputs = inputs
        for depth, (layer, before) in enumerate(zip(self.layers, states, strict=True)):
            below = outputs
            if depth:
                outputs = dropout(self.norms[depth - 1](outputs), self.dropout, self.training)
            outputs, after, *of_steps = call(layer, outputs, before, lengths, **context)
            if depth and self.connections:
                outputs = self.connections[depth - 1](below, outputs)
            final.append(after)
            found += of_steps
        return outputs, tuple(final), tuple(found)
