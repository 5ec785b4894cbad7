"""LSTM with multiplicative integration of input and state."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased, input_weights, recurrent_weights
from rnnlab.trees import State


class MILSTM(Cell):
    """LSTM with multiplicative integration (Wu et al., 2016, arXiv:1606.06630).

        i, f, g, o = α ⊙ W x_t ⊙ U h_{t-1} + β_1 ⊙ U h_{t-1} + β_2 ⊙ W x_t + b
        c_t = σ(f) ⊙ c_{t-1} + σ(i) ⊙ tanh(g)
        h_t = σ(o) ⊙ tanh(c_t)

    With α = 0 and β_1 = β_2 = 1 it is the LSTM.

    Shapes: x [B, input_size]; h, c [B, hidden_size]; output h. W, U, α, β_1, β_2 and b hold the gates in the order
    i, f, g, o.
    Differs from the paper: nothing. The paper chooses the initial α, β_1 and β_2 for each task.

    Args:
        input_size: features of x.
        hidden_size: width of h and c.
        alpha: initial value of α.
        beta: initial value of β_1 and β_2.
        bias: whether the cell has biases b.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("h", "c")
    gates = ("i", "f", "g", "o")
    remembers = {"f": 1, "i": -1}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        alpha: float = 1.0,
        beta: float = 0.5,
        bias: bool = True,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(4, hidden_size, input_size)
        self.U = recurrent_weights(4, hidden_size, recurrent_init)
        self.alpha = nn.Parameter(torch.full((4 * hidden_size,), float(alpha)))
        self.beta_1 = nn.Parameter(torch.full((4 * hidden_size,), float(beta)))
        self.beta_2 = nn.Parameter(torch.full((4 * hidden_size,), float(beta)))
        self.b = bias_vector(4 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.alpha, self.beta_1, self.beta_2, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, alpha, beta_1, beta_2, b = constants
        h, c = state
        factor, added = alpha * x + beta_1, biased(beta_2 * x, b)
        i, f, g, o = (factor * linear(h, U) + added).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, (h, c)
