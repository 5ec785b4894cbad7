"""LEM: long expressive memory, two states with learned time steps."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import bias_vector, biased
from rnnlab.cells.continuous._timed import Timed, time_of
from rnnlab.trees import State


class LEM(Timed):
    """Long expressive memory, LEM (Rusch et al., 2022, arXiv:2110.04744).

    Two states, each with its own learned time step (equation 3 of the paper):

        Δt_t = Δt σ(W_1 x_t + U_1 y_{t-1} + b_1)
        Δt̄_t = Δt σ(W_2 x_t + U_2 y_{t-1} + b_2)
        z_t  = (1 - Δt_t) ⊙ z_{t-1} + Δt_t ⊙ tanh(W_z x_t + U_z y_{t-1} + b_z)
        y_t  = (1 - Δt̄_t) ⊙ y_{t-1} + Δt̄_t ⊙ tanh(W_y x_t + U_y z_t + b_y)

    Shapes: x [B, input_size]; y, z [B, hidden_size]; output y. W and b stack 1, 2, z, y; U stacks 1, 2, z.
    Differs from the paper: notation (its V is W, its W is U).

    Args:
        input_size: features of x.
        hidden_size: width of y and z.
        dt: Δt, the longest time step, at most 1; ``elapsed`` multiplies it at every step.
        bias: whether the cell has biases.
    """

    states = ("y", "z")
    gates = ("dt_z", "dt_y", "z", "y")
    verified = "official code"

    def __init__(self, input_size: int, hidden_size: int, *, dt: float = 1.0, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.dt = dt
        self.remembers = {"dt_z": -1, "dt_y": -1} if dt == 1 else {}  # with dt < 1 the state keeps more than 1 - σ
        self.W = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.U = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.U_y = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.b = bias_vector(4 * hidden_size, bias)
        bound = hidden_size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def prepare(self, inputs: Tensor, elapsed: Tensor | None = None) -> tuple[tuple, Any]:  # noqa: D102
        return (self.U, self.U_y, self.b), self.timed(linear(inputs, self.W), elapsed)

    def step(self, constants: tuple, x: Any, state: State) -> tuple[Tensor, State]:  # noqa: D102
        x, dt = time_of(x, self.dt)
        U, U_y, b = constants
        y, z = state
        x_1, x_2, x_z, x_y = biased(x, b).chunk(4, dim=-1)
        u_1, u_2, u_z = linear(y, U).chunk(3, dim=-1)
        dt_z = dt * (x_1 + u_1).sigmoid()
        dt_y = dt * (x_2 + u_2).sigmoid()
        z = (1 - dt_z) * z + dt_z * (x_z + u_z).tanh()
        y = (1 - dt_y) * y + dt_y * (x_y + linear(z, U_y)).tanh()
        return y, (y, z)
