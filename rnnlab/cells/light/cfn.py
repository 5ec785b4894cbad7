"""CFN: chaos-free network; the state decays to zero without input."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights
from rnnlab.trees import State


class CFN(Cell):
    """Chaos-free network, CFN (Laurent and von Brecht, 2016, arXiv:1612.06212).

    Without input, the state decays to zero:

        θ_t = σ(W_θ x_t + U_θ h_{t-1} + b_θ)
        η_t = σ(W_η x_t + U_η h_{t-1} + b_η)
        h_t = θ_t ⊙ tanh(h_{t-1}) + η_t ⊙ tanh(W_h x_t)

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W stacks θ, η, h; U and b stack θ, η.
    Differs from the paper: notation (its V is W_θ and W_η, its W is W_h). W and U are initialised Glorot uniform; the
    paper uses uniform in [-0.07, 0.07], which is close at its widths. b_θ is initialised to 1 and b_η to -1.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
    """

    gates = ("theta", "eta")
    remembers = {"theta": 1, "eta": -1}
    verified = "torchrecurrent 0.2.5"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(3, hidden_size, input_size)
        self.U = input_weights(2, hidden_size, hidden_size)
        self.b = bias_vector(2 * hidden_size, bias)
        if self.b is not None:
            with torch.no_grad():
                self.b[:hidden_size], self.b[hidden_size:] = 1, -1

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        (h,) = state
        gates, new = x.split([2 * self.hidden_size, self.hidden_size], dim=-1)
        theta, eta = (gates + linear(h, U, b)).sigmoid().chunk(2, dim=-1)
        h = theta * h.tanh() + eta * new.tanh()
        return h, (h,)
