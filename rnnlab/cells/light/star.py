"""STAR: stackable recurrent cell, for deep stacks."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased, recurrent_weights
from rnnlab.trees import State


class STAR(Cell):
    """Stackable recurrent cell, STAR (Turkoglu et al., 2019, arXiv:1911.11033).

    Designed to preserve the gradient norm over depth and over time:

        k_t = σ(W_k x_t + U h_{t-1} + b_k)
        z_t = tanh(W_z x_t + b_z)
        h_t = tanh((1 - k_t) ⊙ h_{t-1} + k_t ⊙ z_t)

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W and b stack k, z; U belongs to k.
    Differs from the paper: nothing. The authors' code adds 1 within the σ of the k_t that multiplies z_t; the paper
    does not. W is initialised orthogonal, as in that code.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
    """

    gates = ("k", "z")
    remembers = {"k": -1}
    verified = "torchrecurrent 0.2.5"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        parts = [nn.init.orthogonal_(torch.empty(hidden_size, input_size)) for _ in self.gates]
        self.W = nn.Parameter(torch.cat(parts))
        self.U = recurrent_weights(1, hidden_size)
        self.b = bias_vector(2 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        (h,) = state
        k, z = biased(x, b).chunk(2, dim=-1)
        k = (k + linear(h, U)).sigmoid()
        h = ((1 - k) * h + k * z.tanh()).tanh()
        return h, (h,)
