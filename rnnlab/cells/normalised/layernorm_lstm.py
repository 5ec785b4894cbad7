"""LSTM with layer normalisation of both projections and of the cell state."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class LayerNormLSTM(Cell):
    """LSTM with layer normalisation (Ba, Kiros and Hinton, 2016, arXiv:1607.06450).

        i, f, g, o = LN(U h_{t-1}; α_1) + LN(W x_t; α_2) + b            (20)
        c_t = σ(f) ⊙ c_{t-1} + σ(i) ⊙ tanh(g)                           (21)
        h_t = σ(o) ⊙ tanh(LN(c_t; α_3, β_3))                            (22)

    LN(z; α, β) normalises z to mean 0 and variance 1 over its features, multiplies by α and adds β. The first two are
    computed over all four gates together.

    Shapes: x [B, input_size]; h, c [B, hidden_size]; output h. W, U, b hold the gates in the order i, f, g, o; gain_h,
    gain_x and gain_c are α_1 to α_3, b_c is β_3.
    Differs from the paper: b includes β_1 and β_2, as only their sum matters; 1e-5 is added to the variance, as in the
    authors' code.

    Args:
        input_size: features of x.
        hidden_size: width of h and c.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("h", "c")
    gates = ("i", "f", "g", "o")
    remembers = {"f": 1, "i": -1}
    verified = "official code"

    def __init__(self, input_size: int, hidden_size: int, *, recurrent_init: str = "orthogonal") -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(4, hidden_size, input_size)
        self.U = recurrent_weights(4, hidden_size, recurrent_init)
        self.b = bias_vector(4 * hidden_size)
        self.gain_x = nn.Parameter(torch.ones(4 * hidden_size))
        self.gain_h = nn.Parameter(torch.ones(4 * hidden_size))
        self.gain_c = nn.Parameter(torch.ones(hidden_size))
        self.b_c = bias_vector(hidden_size)

    def prepare(self, inputs: Tensor) -> tuple[Any, Tensor]:  # noqa: D102
        return (self.U, self.gain_h, self.gain_x, self.b, self.gain_c, self.b_c), linear(inputs, self.W)

    def step(self, constants: Any, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, gain_h, gain_x, b, gain_c, b_c = constants
        h, c = state
        sums = layer_norm(linear(h, U), gain_h.shape, gain_h) + layer_norm(x, gain_x.shape, gain_x, b)
        i, f, g, o = sums.chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * layer_norm(c, gain_c.shape, gain_c, b_c).tanh()
        return h, (h, c)
