"""The contract of a model: all that training, evaluation and generation ask of it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from rnnlab.cells import Cell
from rnnlab.interface import Batch, Images, Tokens, Vectors
from rnnlab.trees import State

CellFactory = Callable[[int, int], Cell]
"""``(input_size, hidden_size) -> Cell``: the cell of the configuration, its options bound."""


class Model(nn.Module):
    """Outputs for a batch, and for generation one step at a time.

    The constructor receives what the task declares and the cell to build from, ``(input, output_size, cell, backend,
    source)``, ``source`` only if the task has one. A model that reads no source leaves the parameter out. The model's
    own options are keyword-only. Each model has ``hidden_size`` and ``num_layers``.

    Args:
        input: what the inputs are.
        output_size: features of an output, those of the task's head.
        cell: makes the cells.
        backend: how the cells are run, one of `rnnlab.engine.BACKENDS`.
        source: what the model is conditioned on; None where the task has no source.
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
        """Outputs for a batch.

        Args:
            batch: the batch; the outputs at a step depend on the source and on the inputs up to and including it.
            state: the final state of the same streams in the previous batch; None to start from `begin`.

        Returns:
            outputs ``[T, B, output_size]``, and the final state.
        """
        raise NotImplementedError

    def begin(self, source: Tensor | None = None, source_lengths: Tensor | None = None, batch_size: int = 1) -> State:
        """The state before the first step, a nested tuple of tensors ``[B, ...]``.

        What a model reads from its source at each step, an attention memory say, is part of the state.

        Args:
            source: ``[S, B, ...]``, see `rnnlab.interface.Batch`; None where there is none.
            source_lengths: int64 ``[B]``; None where all are S.
            batch_size: B.
        """
        if source is None and hasattr(self, "initial_state"):  # models written for earlier versions
            return self.initial_state(batch_size)
        raise NotImplementedError

    def check_carrying(self) -> None:
        """Raise an InputError if the model cannot start from a given state, as streams and generation need it."""

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of generation: tokens ``[B]`` or vectors ``[B, F]`` to outputs ``[B, output_size]``."""
        raise NotImplementedError
