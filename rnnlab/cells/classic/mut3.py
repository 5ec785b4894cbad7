"""MUT3: GRU variant with an update gate that reads the tanh of the state."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class MUT3(Cell):
    """MUT3, found by search (Jozefowicz, Zaremba and Sutskever, 2015, PMLR 37:2342-2350).

        z_t = σ(W_z x_t + U_z tanh(h_{t-1}) + b_z)
        r_t = σ(W_r x_t + U_r h_{t-1} + b_r)
        h_t = tanh(U_n (r_t ⊙ h_{t-1}) + W_n x_t + b_n) ⊙ z_t + h_{t-1} ⊙ (1 - z_t)

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W, U, b hold z, r, n.
    Differs from the paper: nothing.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    gates = ("z", "r", "n")
    remembers = {"z": -1}
    verified = "torchrecurrent 0.2.5"

    def __init__(
        self, input_size: int, hidden_size: int, *, bias: bool = True, recurrent_init: str = "orthogonal"
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(3, hidden_size, input_size)
        self.U = recurrent_weights(3, hidden_size, recurrent_init)
        self.b = bias_vector(3 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:  # noqa: D102
        return self.U.chunk(3), linear(inputs, self.W, self.b)

    def step(self, constants: tuple[Tensor, ...], x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U_z, U_r, U_n = constants
        (h,) = state
        z, r, n = x.chunk(3, dim=-1)
        z, r = (z + linear(h.tanh(), U_z)).sigmoid(), (r + linear(h, U_r)).sigmoid()
        h = (n + linear(r * h, U_n)).tanh() * z + h * (1 - z)
        return h, (h,)
