"""τ-GRU: gated recurrent unit with delayed feedback."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class TauGRU(Cell):
    """Gated recurrent unit with time-delay feedback, τ-GRU (Erichson, Lim and Mahoney, 2022, arXiv:2212.00228).

    Euler steps of size 1 of a delay differential equation with a delay of d steps:

        u_t = tanh(W_u x_t + U_u h_{t-1} + b_u)
        z_t = tanh(W_z x_t + U_z h_{t-1-d} + b_z)
        g_t = σ(W_g x_t + U_g h_{t-1} + b_g)
        a_t = σ(W_a x_t + U_a h_{t-1} + b_a)
        h_t = (1 - g_t) ⊙ h_{t-1} + g_t ⊙ (u_t + a_t ⊙ z_t)

    Shapes: x [B, input_size]; h [B, hidden_size]; past [B, d * hidden_size], the d states before h, the oldest first;
    output h. W, U, b hold u, g, a, z.
    Differs from the paper: notation (its W is U, its U is W). It has biases, as in the authors' code. In that code, z_t
    and a_t read the input and the state of d steps ago. The paper tunes d for each task.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        delay: d, in steps.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("h", "past")
    gates = ("u", "g", "a", "z")
    remembers = {"g": -1}
    verified = "torchrecurrent 0.2.5"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        delay: int = 5,
        bias: bool = True,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        if delay < 1:
            raise InputError(f"delay={delay} must be at least 1")
        self.delay = delay
        self.W = input_weights(4, hidden_size, input_size)
        self.U = recurrent_weights(4, hidden_size, recurrent_init)
        self.b = bias_vector(4 * hidden_size, bias)

    def initial_state(self, batch_size: int) -> State:
        """Return zeros, also for the states before the first step."""
        return tuple(self.U.new_zeros(batch_size, count * self.hidden_size) for count in (1, self.delay))

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (*self.U.split([3 * self.hidden_size, self.hidden_size]), self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U_uga, U_z, b = constants
        h, past = state
        now, x_z = (x if b is None else x + b).split([3 * self.hidden_size, self.hidden_size], dim=-1)
        u, g, a = (now + linear(h, U_uga)).chunk(3, dim=-1)
        z = (x_z + linear(past[:, : self.hidden_size], U_z)).tanh()
        g = g.sigmoid()
        new = (1 - g) * h + g * (u.tanh() + a.sigmoid() * z)
        return new, (new, torch.cat([past[:, self.hidden_size :], h], dim=-1))
