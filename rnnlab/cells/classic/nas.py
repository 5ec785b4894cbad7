"""NAS cell: found by neural architecture search."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class NAS(Cell):
    """NAS cell, found by reinforcement learning (Zoph and Le, 2017, arXiv:1611.01578).

        x^k = W_k x_t,   h^k = U_k h_{t-1} + b_k,   k = 0 to 7                                (figure 8, right)
        a = σ(x^0 + h^0) ⊙ relu(x^1 + h^1)        b = σ(x^2 + h^2) + relu(x^3 ⊙ h^3)
        d = tanh(x^4 + h^4) ⊙ σ(x^5 + h^5)        e = tanh(x^6 + h^6) + σ(x^7 + h^7)
        c_t = tanh(tanh(a) + c_{t-1}) ⊙ tanh(b)
        h_t = tanh(c_t ⊙ tanh(tanh(d) + σ(e)))

    Shapes: x [B, input_size]; h, c [B, hidden_size]; output h. W, U, b hold the terms k = 0 to 7.
    Differs from the paper: nothing known. The choice of the multiplied pair follows the authors' NASCell in TensorFlow.

    Args:
        input_size: features of x.
        hidden_size: width of h and c.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("h", "c")
    gates = ("0", "1", "2", "3", "4", "5", "6", "7")
    verified = "official code"

    def __init__(
        self, input_size: int, hidden_size: int, *, bias: bool = True, recurrent_init: str = "orthogonal"
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(8, hidden_size, input_size)
        self.U = recurrent_weights(8, hidden_size, recurrent_init)
        self.b = bias_vector(8 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        h, c = state
        x0, x1, x2, x3, x4, x5, x6, x7 = x.chunk(8, dim=-1)
        h0, h1, h2, h3, h4, h5, h6, h7 = linear(h, *constants).chunk(8, dim=-1)
        a = (x0 + h0).sigmoid() * (x1 + h1).relu()
        b = (x2 + h2).sigmoid() + (x3 * h3).relu()
        d = (x4 + h4).tanh() * (x5 + h5).sigmoid()
        e = (x6 + h6).tanh() + (x7 + h7).sigmoid()
        c = (a.tanh() + c).tanh() * b.tanh()
        h = (c * (d.tanh() + e.sigmoid()).tanh()).tanh()
        return h, (h, c)
