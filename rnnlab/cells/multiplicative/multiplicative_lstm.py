"""Multiplicative LSTM: input-dependent recurrent weights."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class MultiplicativeLSTM(Cell):
    """Multiplicative LSTM (Krause, Lu, Murray and Renals, 2016, arXiv:1609.07959).

        m_t = (W_m x_t + b_m) ⊙ (U_m h_{t-1})
        i, f, g, o = W x_t + U m_t + b
        c_t = σ(f) ⊙ c_{t-1} + σ(i) ⊙ tanh(g)
        h_t = σ(o) ⊙ tanh(c_t)

    Shapes: x [B, input_size]; h, c [B, hidden_size]; output h. W, U, b hold the gates in the order i, f, g, o.
    Differs from the paper: it has a bias b_m, as in torchrecurrent.

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
        self.W_m = input_weights(1, hidden_size, input_size)
        self.U_m = recurrent_weights(1, hidden_size, recurrent_init)
        self.b_m = bias_vector(hidden_size, bias)
        self.W = input_weights(4, hidden_size, input_size)
        self.U = recurrent_weights(4, hidden_size, recurrent_init)
        self.b = bias_vector(4 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, Tensor]]:  # noqa: D102
        return (self.U_m, self.U, self.b), (linear(inputs, self.W_m, self.b_m), linear(inputs, self.W))

    def step(  # noqa: D102
        self, constants: tuple, inputs: tuple[Tensor, Tensor], state: State
    ) -> tuple[Tensor, State]:
        U_m, U, b = constants
        x_m, x = inputs
        h, c = state
        m = x_m * linear(h, U_m)
        i, f, g, o = (x + linear(m, U, b)).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, (h, c)
