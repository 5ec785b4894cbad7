"""LSTM with coupled input and forget gates: i = 1 - f."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class CIFG(Cell):
    """LSTM with coupled input and forget gate (Greff et al., 2017, arXiv:1503.04069).

        f_t = σ(W_f x_t + U_f h_{t-1} + b_f)
        c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ tanh(W_g x_t + U_g h_{t-1} + b_g)
        h_t = σ(W_o x_t + U_o h_{t-1} + b_o) ⊙ tanh(c_t)

    Shapes: x [B, input_size]; h, c [B, hidden_size]; output h. W, U, b hold f, g, o.
    Differs from the paper: no peepholes (``lstm_ablation`` with ``coupled`` has them), and
    the equations use f where the paper uses i = 1 - f.

    Args:
        input_size: features of x.
        hidden_size: width of h and c.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("h", "c")
    gates = ("f", "g", "o")
    remembers = {"f": 1}
    verified = "torch.nn"

    def __init__(
        self, input_size: int, hidden_size: int, *, bias: bool = True, recurrent_init: str = "orthogonal"
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(3, hidden_size, input_size)
        self.U = recurrent_weights(3, hidden_size, recurrent_init)
        self.b = bias_vector(3 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        h, c = state
        f, g, o = (x + linear(h, U, b)).chunk(3, dim=-1)
        f = f.sigmoid()
        c = f * c + (1 - f) * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, (h, c)
