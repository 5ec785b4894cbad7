"""Minimal gated unit: GRU with one gate for reset and update."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class MGU(Cell):
    """Minimal gated unit (Zhou et al., 2016, arXiv:1603.09420).

        f_t = σ(W_f x_t + U_f h_{t-1} + b_f)
        n_t = tanh(W_n x_t + U_n (f_t ⊙ h_{t-1}) + b_n)
        h_t = (1 - f_t) ⊙ h_{t-1} + f_t ⊙ n_t

    A GRU with a single gate that serves as reset and update gate.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W, U, b hold f, n.
    Differs from the paper: nothing.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    gates = ("f", "n")
    remembers = {"f": -1}
    verified = "torchrecurrent 0.2.5"

    def __init__(
        self, input_size: int, hidden_size: int, *, bias: bool = True, recurrent_init: str = "orthogonal"
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(2, hidden_size, input_size)
        self.U = recurrent_weights(2, hidden_size, recurrent_init)
        self.b = bias_vector(2 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:  # noqa: D102
        return self.U.chunk(2), linear(inputs, self.W, self.b)

    def step(self, constants: tuple[Tensor, ...], x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U_f, U_n = constants
        (h,) = state
        x_f, x_n = x.chunk(2, dim=-1)
        f = (x_f + linear(h, U_f)).sigmoid()
        n = (x_n + linear(f * h, U_n)).tanh()
        h = (1 - f) * h + f * n
        return h, (h,)
