"""UnICORNN: undamped uncoupled oscillators with learned time steps."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import bias_vector, biased
from rnnlab.cells.continuous._timed import Timed, time_of
from rnnlab.trees import State


class UnICORNN(Timed):
    """Undamped independent controlled oscillatory network, UnICORNN (Rusch and Mishra, 2021, arXiv:2103.05487).

    A symplectic Euler step of a Hamiltonian system of oscillators, with positions y and velocities z. The oscillators
    of a layer are not coupled. Each neuron learns the length of its time step:

        z_t = z_{t-1} - Δt σ(c) ⊙ (tanh(W x_t + u ⊙ y_{t-1} + b) + α y_{t-1})
        y_t = y_{t-1} + Δt σ(c) ⊙ z_t

    Shapes: x [B, input_size]; y, z [B, hidden_size]; output y. u and c are vectors [hidden_size].
    Differs from the paper: notation (its V is W, its w is u). α and Δt, which the paper tunes for each task, have
    defaults. The weights are initialised as in the authors' code. Residual connections are an option of the stack.

    Args:
        input_size: features of x.
        hidden_size: width of y and z.
        dt: Δt, the longest time step; ``elapsed`` multiplies it at every step.
        alpha: α, squared frequency of the uncoupled oscillators.
        bias: whether the cell has a bias b.
    """

    states = ("y", "z")
    verified = "torchrecurrent 0.2.5"

    def __init__(
        self, input_size: int, hidden_size: int, *, dt: float = 0.1, alpha: float = 1.0, bias: bool = True
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.dt, self.alpha = dt, alpha
        self.W = nn.Parameter(torch.empty(hidden_size, input_size))
        self.u = nn.Parameter(torch.empty(hidden_size))
        self.c = nn.Parameter(torch.empty(hidden_size))
        self.b = bias_vector(hidden_size, bias)
        nn.init.kaiming_uniform_(self.W, a=8)
        nn.init.uniform_(self.u)
        nn.init.uniform_(self.c, -0.1, 0.1)

    def prepare(self, inputs: Tensor, elapsed: Tensor | None = None) -> tuple[tuple, Any]:  # noqa: D102
        return (self.u, self.b, self.dt * self.c.sigmoid()), self.timed(linear(inputs, self.W), elapsed)

    def step(self, constants: tuple, x: Any, state: State) -> tuple[Tensor, State]:  # noqa: D102
        u, b, dt = constants
        x, dt = time_of(x, dt)
        y, z = state
        z = z - dt * (biased(x + u * y, b).tanh() + self.alpha * y)
        y = y + dt * z
        return y, (y, z)
