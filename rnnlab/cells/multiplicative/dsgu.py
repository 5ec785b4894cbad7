"""Deep simple gated unit: SGU with one more matrix product and a bounded candidate."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased, input_weights, recurrent_weights
from rnnlab.trees import State


class DSGU(Cell):
    """Deep simple gated unit, DSGU (Gao and Glowacka, 2016, arXiv:1604.02910).

    The cell ``sgu`` with one more matrix product, and with a bounded sigmoid instead of the softplus:

        x_g = W_g x_t + b_g
        z_g = tanh(U_g (x_g ⊙ h_{t-1}))
        z_t = clip(0.2 (W_z x_t + U_z h_{t-1} + b_z) + 0.5, 0, 1)
        h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ σ(P (z_g ⊙ h_{t-1}))

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W, U, b hold g, z.
    Differs from the paper: as in ``sgu``; its W_go is P.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each U and P: ``orthogonal``, ``identity`` or ``uniform``.
    """

    gates = ("g", "z")
    verified = "torchrecurrent 0.2.5"

    def __init__(
        self, input_size: int, hidden_size: int, *, bias: bool = True, recurrent_init: str = "orthogonal"
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(2, hidden_size, input_size)
        self.U = recurrent_weights(2, hidden_size, recurrent_init)
        self.P = recurrent_weights(1, hidden_size, recurrent_init)
        self.b = bias_vector(2 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (*self.U.chunk(2), self.P, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U_g, U_z, P, b = constants
        (h,) = state
        x_g, x_z = biased(x, b).chunk(2, dim=-1)
        z_g = linear(x_g * h, U_g).tanh()
        z = (0.2 * (x_z + linear(h, U_z)) + 0.5).clamp(0, 1)
        h = (1 - z) * h + z * linear(z_g * h, P).sigmoid()
        return h, (h,)
