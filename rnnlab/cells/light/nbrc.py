"""nBRC: neuromodulated bistable recurrent cell."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights
from rnnlab.trees import State


class NBRC(Cell):
    """Neuromodulated bistable recurrent cell, nBRC (Vecoven et al., 2021, arXiv:2006.05252).

    The cell ``brc`` with full recurrent matrices in the gates a and c:

        a_t = 1 + tanh(W_a x_t + U_a h_{t-1} + b_a)
        c_t = σ(W_c x_t + U_c h_{t-1} + b_c)
        h_t = c_t ⊙ h_{t-1} + (1 - c_t) ⊙ tanh(W_h x_t + a_t ⊙ h_{t-1})

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W stacks a, c, h; U and b stack a, c.
    Differs from the paper: notation (its U is W, its W is U). The biases and the Glorot uniform initialisation of U
    follow the authors' code.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
    """

    gates = ("a", "c")
    remembers = {"c": 1}
    verified = "torchrecurrent 0.2.5"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(3, hidden_size, input_size)
        self.U = input_weights(2, hidden_size, hidden_size)
        self.b = bias_vector(2 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        (h,) = state
        x_ac, x_h = x.split([2 * self.hidden_size, self.hidden_size], dim=-1)
        a, c = (x_ac + linear(h, U, b)).chunk(2, dim=-1)
        a, c = 1 + a.tanh(), c.sigmoid()
        h = c * h + (1 - c) * (x_h + a * h).tanh()
        return h, (h,)
