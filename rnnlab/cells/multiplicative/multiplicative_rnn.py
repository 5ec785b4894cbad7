"""Multiplicative RNN: input-dependent recurrent weights."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class MultiplicativeRNN(Cell):
    """Multiplicative recurrent network (Sutskever, Martens and Hinton, 2011, ICML, pages 1017-1024).

        m_t = (W_m x_t) ⊙ (U_m h_{t-1})
        h_t = tanh(W x_t + U m_t + b)

    The effective recurrent weights are U diag(W_m x_t) U_m, so they depend on the input.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W_m [factors, input_size], U_m [factors, hidden_size],
    U [hidden_size, factors].
    Differs from the paper: notation (its f is m, W_fx is W_m, W_fh is U_m, W_hx is W, W_hf is U).

    Args:
        input_size: features of x.
        hidden_size: width of h.
        factors: width of m; None for ``hidden_size``.
        bias: whether the cell has a bias b.
    """

    def __init__(self, input_size: int, hidden_size: int, *, factors: int | None = None, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        factors = hidden_size if factors is None else factors
        if factors < 1:
            raise InputError(f"factors={factors} must be at least 1, or null for hidden_size")
        self.W_m = input_weights(1, factors, input_size)
        self.U_m = nn.Parameter(nn.init.orthogonal_(torch.empty(factors, hidden_size)))
        self.W = input_weights(1, hidden_size, input_size)
        self.U = nn.Parameter(nn.init.orthogonal_(torch.empty(hidden_size, factors)))
        self.b = bias_vector(hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, Tensor]]:  # noqa: D102
        return (self.U_m, self.U, self.b), (linear(inputs, self.W_m), linear(inputs, self.W))

    def step(  # noqa: D102
        self, constants: tuple, inputs: tuple[Tensor, Tensor], state: State
    ) -> tuple[Tensor, State]:
        U_m, U, b = constants
        x_m, x = inputs
        (h,) = state
        m = x_m * linear(h, U_m)
        h = (x + linear(m, U, b)).tanh()
        return h, (h,)
