"""Clockwork RNN: modules that run every 1, 2, 4, ... steps."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class Clockwork(Cell):
    """Clockwork RNN (Koutník, Greff, Gomez and Schmidhuber, 2014, arXiv:1402.3511).

        h_t^i = tanh(W^i x_t + Σ_{j: T_j ≥ T_i} U^ij h_{t-1}^j + b^i)   if t mod T_i = 0       (1)
        h_t^i = h_{t-1}^i                                               at other steps

    Module i of the units has the period T_i = 2^i. t starts at 0, so all modules run at the first step.

    Shapes: x [B, input_size]; h, wait [B, hidden_size]; output h. ``wait`` is the number of steps until each unit
    runs again, so that a split sequence continues with the right clocks. Modules have equal sizes up to one unit.
    Differs from the paper: nothing.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        clocks: number of modules; the slowest runs every 2^(clocks - 1) steps.
        bias: whether the cell has a bias b.
        recurrent_init: initialisation of U, before masking: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("h", "wait")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        clocks: int = 4,
        bias: bool = True,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        if clocks < 1:
            raise InputError(f"clocks={clocks} must be at least 1")
        self.clocks = clocks
        self.W = input_weights(1, hidden_size, input_size)
        self.U = recurrent_weights(1, hidden_size, recurrent_init)
        self.b = bias_vector(hidden_size, bias)
        self.register_fixed(persistent=False)

    def fixed(self) -> dict[str, Tensor]:
        """Return the period of each unit ``[H]``, and a mask ``[H, H]``: 1 if a unit (row) reads another (column)."""
        period = 2.0 ** (torch.arange(self.hidden_size) * self.clocks // self.hidden_size)
        return {"period": period, "seen": (period >= period.unsqueeze(1)).to(period.dtype)}

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U * self.seen, self.b, self.period), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b, period = constants
        h, wait = state
        runs = wait < 0.5
        h = torch.where(runs, (x + linear(h, U, b)).tanh(), h)
        return h, (h, torch.where(runs, period - 1, wait - 1))
