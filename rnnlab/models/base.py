"""The contract of a model: the interface that training, evaluation and generation use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from rnnlab.cells import Cell
from rnnlab.interface import Batch, Images, Tokens, Vectors
from rnnlab.layers import initialise, regularise
from rnnlab.trees import State

CellFactory = Callable[[int, int], Cell]
"""``(input_size, hidden_size) -> Cell``: constructor of the configured cell, with its options bound."""


def customised(
    cell: CellFactory, *, recurrent_init: str, gate_init: str, memory_length: int, **regularisers: Any
) -> CellFactory:
    """A constructor of cells like ``cell`` that also initialises and regularises each cell.

    Args:
        cell: constructor of the cells.
        recurrent_init: initialisation of the recurrent weights, see `rnnlab.layers.initialise`.
        gate_init: initialisation of the gates that control memory.
        memory_length: maximum time dependency for ``gate_init=chrono``, in steps.
        regularisers: see `rnnlab.layers.regularise`.
    """

    def make(input_size: int, hidden_size: int) -> Cell:
        made = initialise(cell(input_size, hidden_size), recurrent_init, gate_init, memory_length)
        return regularise(made, **regularisers)

    return make


class Model(nn.Module):
    """A sequence model: computes the outputs of a batch, and of a single step for generation.

    The constructor receives the positional arguments ``(input, output_size, cell, backend)``, and also ``source`` if
    the task has a source. A model without a source omits this parameter. The model's own options are keyword-only. Each
    model has the options ``hidden_size`` and ``num_layers``.

    Args:
        input: type of the inputs.
        output_size: number of features of an output, given by the task's head.
        cell: constructor of the cells.
        backend: backend of the layers, one of `rnnlab.engine.BACKENDS`.
        source: type of the source; None if the task has no source.
    """

    def __init__(
        self,
        input: Tokens | Vectors | Images,
        output_size: int,
        cell: CellFactory,
        backend: str = "auto",
        source: Tokens | Vectors | Images | None = None,
    ) -> None:
        super().__init__()
        self.input = input
        self.output_size = output_size
        self.source = source

    def forward(self, batch: Batch, state: State | None = None) -> tuple[Tensor, State]:
        """Compute the outputs of a batch.

        Args:
            batch: batch of sequences. The outputs at a step depend only on the source and on the inputs up to and
                including this step.
            state: final state of the same streams in the previous batch; None to start from `begin`.

        Returns:
            outputs ``[T, B, output_size]`` and the final state.
        """
        raise NotImplementedError

    def begin(self, source: Tensor | None = None, source_lengths: Tensor | None = None, batch_size: int = 1) -> State:
        """The initial state, a nested tuple of tensors ``[B, ...]``.

        The state includes the encoded source if the model reads it at each step, as attention does.

        Args:
            source: ``[S, B, ...]``, see `rnnlab.interface.Batch`; None if the task has no source.
            source_lengths: length of each source, int64 ``[B]``; None if all are S.
            batch_size: batch size B.
        """
        initial_state = getattr(self, "initial_state", None)  # of models written for earlier versions
        if source is None and initial_state is not None:
            return initial_state(batch_size)
        raise NotImplementedError

    def attention_weights(self, batch: Batch) -> Tensor | None:
        """The attention weights of each step of a batch; None for a model without attention.

        Returns:
            weights ``[T, B, S]`` over the steps of the source, or ``[T, B, h, w]`` over the grid of a single image.
        """
        return None

    def check_carrying(self) -> None:
        """Raise an InputError if the model cannot start from a given state, which streams and generation require."""

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: inputs are tokens ``[B]`` or vectors ``[B, F]``; returns outputs ``[B, output_size]`` and state."""
        raise NotImplementedError
