"""Simple gated unit: input and state are multiplied; one gate."""

from torch import Tensor
from torch.nn.functional import linear, softplus

from rnnlab.cells.base import Cell, bias_vector, biased, input_weights, recurrent_weights
from rnnlab.trees import State


class SGU(Cell):
    """Simple gated unit, SGU (Gao and Glowacka, 2016, arXiv:1604.02910).

    The candidate is the state, scaled by a gate in which input and state are multiplied:

        x_g = W_g x_t + b_g
        z_g = tanh(U_g (x_g ⊙ h_{t-1}))
        z_t = clip(0.2 (W_z x_t + U_z h_{t-1} + b_z) + 0.5, 0, 1)
        h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ softplus(z_g ⊙ h_{t-1})

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W, U, b hold g, z.
    Differs from the paper: notation (its W_xh is W_g, W_zxh is U_g, W_xz is W_z, W_hz is U_z). The hard sigmoid has
    slope 0.2, as in libraries of that time.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    gates = ("g", "z")
    verified = "torchrecurrent 0.2.5"

    def __init__(
        self, input_size: int, hidden_size: int, *, bias: bool = True, recurrent_init: str = "orthogonal"
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(2, hidden_size, input_size)
        self.U = recurrent_weights(2, hidden_size, recurrent_init)
        self.b = bias_vector(2 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (*self.U.chunk(2), self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U_g, U_z, b = constants
        (h,) = state
        x_g, x_z = biased(x, b).chunk(2, dim=-1)
        z_g = linear(x_g * h, U_g).tanh()
        z = (0.2 * (x_z + linear(h, U_z)) + 0.5).clamp(0, 1)
        h = (1 - z) * h + z * softplus(z_g * h)
        return h, (h,)
