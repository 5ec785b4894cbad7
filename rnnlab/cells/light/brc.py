"""BRC: bistable recurrent cell with an elementwise recurrence."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased, input_weights
from rnnlab.trees import State


class BRC(Cell):
    """Bistable recurrent cell, BRC (Vecoven et al., 2021, arXiv:2006.05252).

    If a > 1, a unit has two stable states and keeps its current one. The recurrence is elementwise:

        a_t = 1 + tanh(W_a x_t + u_a ⊙ h_{t-1} + b_a)
        c_t = σ(W_c x_t + u_c ⊙ h_{t-1} + b_c)
        h_t = c_t ⊙ h_{t-1} + (1 - c_t) ⊙ tanh(W_h x_t + a_t ⊙ h_{t-1})

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W stacks a, c, h; u and b stack a, c.
    Differs from the paper: notation (its U is W, its w is u). The biases and the initial value 1 of u follow the
    authors' code.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
    """

    gates = ("a", "c")
    remembers = {"c": 1}
    verified = "torchrecurrent 0.2.5"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(3, hidden_size, input_size)
        self.u = nn.Parameter(torch.ones(2 * hidden_size))
        self.b = bias_vector(2 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (*self.u.chunk(2), self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        u_a, u_c, b = constants
        (h,) = state
        x_ac, x_h = x.split([2 * self.hidden_size, self.hidden_size], dim=-1)
        x_a, x_c = biased(x_ac, b).chunk(2, dim=-1)
        a = 1 + (x_a + u_a * h).tanh()
        c = (x_c + u_c * h).sigmoid()
        h = c * h + (1 - c) * (x_h + a * h).tanh()
        return h, (h,)
