"""coRNN: coupled, damped and driven oscillators."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import bias_vector, check_choice
from rnnlab.cells.continuous._timed import Timed, time_of
from rnnlab.trees import State


class CoRNN(Timed):
    """Coupled oscillatory recurrent network, coRNN (Rusch and Mishra, 2021, arXiv:2010.00951).

    Damped, driven oscillators with positions y and velocities z; equation 3 of the paper:

        z_t = z_{t-1} + Δt tanh(W x_t + U_y y_{t-1} + U_z z_{t-1} + b) - Δt γ y_{t-1} - Δt ε z_n̄
        y_t = y_{t-1} + Δt z_t

    z_n̄ is z_{t-1} with ``damping="explicit"``, as in the authors' code, and z_t with ``implicit``. With ``implicit``,
    solving for z_t divides the other terms of the right side by 1 + Δt ε.

    Shapes: x [B, input_size]; y, z [B, hidden_size]; output y.
    Differs from the paper: notation (its V is W, its W and 𝒲 are U_y and U_z). γ, ε and Δt, which the paper tunes for
    each task, have defaults. The weights are initialised as in the authors' code.

    Args:
        input_size: features of x.
        hidden_size: width of y and z.
        dt: Δt, the time step; ``elapsed`` multiplies it at every step.
        gamma: γ, squared frequency of the oscillators.
        epsilon: ε, damping of the oscillators.
        damping: ``explicit`` or ``implicit``.
        bias: whether the cell has a bias b.
    """

    states = ("y", "z")
    verified = "torchrecurrent 0.2.5"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        dt: float = 0.1,
        gamma: float = 1.0,
        epsilon: float = 1.0,
        damping: str = "explicit",
        bias: bool = True,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.dt, self.gamma, self.epsilon = dt, gamma, epsilon
        self.damping = check_choice("damping", damping, ("explicit", "implicit"))
        self.W = nn.Parameter(torch.empty(hidden_size, input_size))
        self.U_y = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.U_z = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.b = bias_vector(hidden_size, bias)
        bound = (input_size + 2 * hidden_size) ** -0.5  # the bound of one torch.nn.Linear over x, y and z
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def prepare(self, inputs: Tensor, elapsed: Tensor | None = None) -> tuple[tuple, Any]:  # noqa: D102
        return (self.U_y, self.U_z, self.b), self.timed(linear(inputs, self.W), elapsed)

    def step(self, constants: tuple, x: Any, state: State) -> tuple[Tensor, State]:  # noqa: D102
        x, dt = time_of(x, self.dt)
        U_y, U_z, b = constants
        y, z = state
        force = (x + linear(y, U_y, b) + linear(z, U_z)).tanh() - self.gamma * y
        if self.damping == "explicit":
            z = z + dt * (force - self.epsilon * z)
        else:
            z = (z + dt * force) / (1 + dt * self.epsilon)
        y = y + dt * z
        return y, (y, z)
