"""Long short-term memory without forget gate, as first published."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, check_choice, input_weights, recurrent_weights
from rnnlab.trees import State


class LSTM1997(Cell):
    """Long short-term memory without forget gate (Hochreiter and Schmidhuber, 1997, doi:10.1162/neco.1997.9.8.1735).

        i_t = σ(W_i x_t + U_i h_{t-1} + b_i)
        o_t = σ(W_o x_t + U_o h_{t-1} + b_o)
        c_t = c_{t-1} + i_t ⊙ g(W_g x_t + U_g h_{t-1} + b_g)
        h_t = o_t ⊙ h(c_t)

    g is 4σ(a) - 2 and h is 2σ(a) - 1 in the paper (equations 4 and 5); both are tanh in most later work.

    Shapes: x [B, input_size]; h, c [B, hidden_size]; output h. W, U, b hold i, g, o.
    Differs from the paper: one cell per memory block; the gradient is not truncated.

    Args:
        input_size: features of x.
        hidden_size: width of h and c.
        squashing: ``tanh`` for g and h, or ``paper`` for the paper's functions.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("h", "c")
    gates = ("i", "g", "o")
    verified = "torchrecurrent 0.2.5"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        squashing: str = "tanh",
        bias: bool = True,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.squashing = check_choice("squashing", squashing, ("tanh", "paper"))
        self.W = input_weights(3, hidden_size, input_size)
        self.U = recurrent_weights(3, hidden_size, recurrent_init)
        self.b = bias_vector(3 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        h, c = state
        i, g, o = (x + linear(h, U, b)).chunk(3, dim=-1)
        if self.squashing == "paper":
            c = c + i.sigmoid() * (4 * g.sigmoid() - 2)
            h = o.sigmoid() * (2 * c.sigmoid() - 1)
        else:
            c = c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h, (h, c)
