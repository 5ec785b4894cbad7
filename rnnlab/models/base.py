"""The contract of a model: all that training, evaluation and generation ask of it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from rnnlab.cells import Cell
from rnnlab.interface import Batch, Images, State, Tokens, Vectors

CellFactory = Callable[[int, int], Cell]
"""``(input_size, hidden_size) -> Cell``: the cell of the configuration, its options bound."""


class Model(nn.Module):
    """Outputs for a batch, and for generation a step at a time.

    The constructor receives what a task says of itself and the cell to build from,
    ``(input, output_size, cell, backend)``; its own options are keyword-only, and the same names stand in its
    file in ``conf/model``. Every model has ``hidden_size`` and ``num_layers``.
    """

    def __init__(
        self, input: Tokens | Vectors | Images, output_size: int, cell: CellFactory, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.input = input
        self.output_size = output_size

    def forward(self, batch: Batch, state: State | None = None) -> tuple[Tensor, State]:
        """Outputs for a batch.

        Args:
            batch: the batch; a model that generates a sequence may read its targets up to, not including, each step.
            state: what the same streams carried out of the batch before; None to begin anew.

        Returns:
            outputs ``[T, B, output_size]``, and the state to carry on with.
        """
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> State:
        """The state that a stream begins with."""
        raise NotImplementedError

    def check_carrying(self) -> None:
        """Nothing, for a model that can go on from a state.

        Raises:
            InputError: it cannot, and is neither for streams nor for generation.
        """

    def encode(self, batch: Batch) -> State:
        """The state from which `step` goes on, after reading the batch's inputs."""
        raise NotImplementedError

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of generation: tokens ``[B]`` or vectors ``[B, F]`` to outputs ``[B, output_size]``."""
        raise NotImplementedError
