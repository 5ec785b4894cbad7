"""MUT1: GRU variant with an update gate that depends on the input only."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased, input_weights, recurrent_weights
from rnnlab.trees import State


class MUT1(Cell):
    """MUT1, found by search (Jozefowicz, Zaremba and Sutskever, 2015, PMLR 37:2342-2350).

        z_t = σ(W_z x_t + b_z)
        r_t = σ(W_r x_t + U_r h_{t-1} + b_r)
        h_t = tanh(U_n (r_t ⊙ h_{t-1}) + tanh(x_t) + b_n) ⊙ z_t + h_{t-1} ⊙ (1 - z_t)

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W holds z, r; U holds r, n; b holds z, r, n.
    Differs from the paper: if x and h have different widths, P x replaces x in tanh(x_t).

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
        self.W = input_weights(2, hidden_size, input_size)
        self.P = input_weights(1, hidden_size, input_size) if input_size != hidden_size else None
        self.U = recurrent_weights(2, hidden_size, recurrent_init)
        self.b = bias_vector(3 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, Tensor]]:  # noqa: D102
        seen = inputs if self.P is None else linear(inputs, self.P)
        sizes = [2 * self.hidden_size, self.hidden_size]
        biases = (None, None) if self.b is None else self.b.split(sizes)
        return (*self.U.chunk(2), *biases), (linear(inputs, self.W), seen)

    def step(  # noqa: D102
        self, constants: tuple, inputs: tuple[Tensor, Tensor], state: State
    ) -> tuple[Tensor, State]:
        U_r, U_n, b_gates, b_n = constants
        x, seen = inputs
        (h,) = state
        z, r = biased(x, b_gates).chunk(2, dim=-1)
        z, r = z.sigmoid(), (r + linear(h, U_r)).sigmoid()
        h = (seen.tanh() + linear(r * h, U_n, b_n)).tanh() * z + h * (1 - z)
        return h, (h,)
