"""LSTM with working memory connections: gates read a projection of the cell state."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class WMCLSTM(Cell):
    """LSTM with working memory connections (Landi et al., 2021, arXiv:2109.00020).

        i_t = σ(W_i x_t + U_i h_{t-1} + tanh(V_i c_{t-1}) + b_i)
        f_t = σ(W_f x_t + U_f h_{t-1} + tanh(V_f c_{t-1}) + b_f)
        c_t = f_t ⊙ c_{t-1} + i_t ⊙ tanh(W_g x_t + U_g h_{t-1} + b_g)
        o_t = σ(W_o x_t + U_o h_{t-1} + tanh(V_o c_t) + b_o)
        h_t = o_t ⊙ tanh(c_t)

    Shapes: x [B, input_size]; h, c [B, hidden_size]; output h. W, U, b hold i, f, g, o; V holds i, f, o.
    Differs from the paper: nothing known. Other implementations have an additional bias inside each tanh.

    Args:
        input_size: features of x.
        hidden_size: width of h and c.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each gate's U and V: ``orthogonal``, ``identity`` or ``uniform``.
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
        self.V = recurrent_weights(3, hidden_size, recurrent_init)
        self.b = bias_vector(4 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        V = self.V.split([2 * self.hidden_size, self.hidden_size])
        return (self.U, self.b, *V), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b, V_if, V_o = constants
        h, c = state
        i, f, g, o = (x + linear(h, U, b)).chunk(4, dim=-1)
        v_i, v_f = linear(c, V_if).tanh().chunk(2, dim=-1)
        c = (f + v_f).sigmoid() * c + (i + v_i).sigmoid() * g.tanh()
        h = (o + linear(c, V_o).tanh()).sigmoid() * c.tanh()
        return h, (h, c)
