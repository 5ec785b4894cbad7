"""Long short-term memory with peepholes."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class Peephole(Cell):
    """Long short-term memory with peepholes (Gers, Schraudolph and Schmidhuber, 2002, JMLR 3:115-143).

        i_t = σ(W_i x_t + U_i h_{t-1} + p_i ⊙ c_{t-1} + b_i)
        f_t = σ(W_f x_t + U_f h_{t-1} + p_f ⊙ c_{t-1} + b_f)
        g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)
        c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t
        o_t = σ(W_o x_t + U_o h_{t-1} + p_o ⊙ c_t + b_o)
        h_t = o_t ⊙ tanh(c_t)

    Shapes: x [B, input_size]; h, c [B, hidden_size]; output h. W, U, b hold i, f, g, o; p holds p_i, p_f, p_o.
    Differs from the paper: one cell per memory block; the squashing functions are tanh; p is initialised to zero.

    Args:
        input_size: features of x.
        hidden_size: width of h and c.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("h", "c")
    gates = ("i", "f", "g", "o")
    remembers = {"f": 1, "i": -1}
    verified = "torchrecurrent 0.2.5"

    def __init__(
        self, input_size: int, hidden_size: int, *, bias: bool = True, recurrent_init: str = "orthogonal"
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(4, hidden_size, input_size)
        self.U = recurrent_weights(4, hidden_size, recurrent_init)
        self.p = nn.Parameter(torch.zeros(3 * hidden_size))
        self.b = bias_vector(4 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b, *self.p.chunk(3)), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b, p_i, p_f, p_o = constants
        h, c = state
        i, f, g, o = (x + linear(h, U, b)).chunk(4, dim=-1)
        c = (f + p_f * c).sigmoid() * c + (i + p_i * c).sigmoid() * g.tanh()
        h = (o + p_o * c).sigmoid() * c.tanh()
        return h, (h, c)
