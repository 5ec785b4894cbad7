"""JANET: LSTM with the forget gate as its only gate."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class JANET(Cell):
    """Just another network (van der Westhuizen and Lasenby, 2018, arXiv:1804.04849).

    An LSTM with the forget gate as its only gate:

        s_t = W_f x_t + U_f h_{t-1} + b_f
        n_t = tanh(W_n x_t + U_n h_{t-1} + b_n)
        h_t = σ(s_t) ⊙ h_{t-1} + (1 - σ(s_t - β)) ⊙ n_t

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W, U, b hold f, n.
    Differs from the paper: nothing. ``model.gate_init=chrono`` initialises b_f as in the paper.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
        beta: β, shift that reduces the amount written; 1 in the paper.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    gates = ("f", "n")
    remembers = {"f": 1}
    verified = "torchrecurrent 0.2.5"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        beta: float = 1.0,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.beta = beta
        self.W = input_weights(2, hidden_size, input_size)
        self.U = recurrent_weights(2, hidden_size, recurrent_init)
        self.b = bias_vector(2 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        (h,) = state
        s, n = (x + linear(h, U, b)).chunk(2, dim=-1)
        h = s.sigmoid() * h + (1 - (s - self.beta).sigmoid()) * n.tanh()
        return h, (h,)
