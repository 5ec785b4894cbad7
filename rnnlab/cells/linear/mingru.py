"""minGRU: linear in the state; gate and candidate depend on the input only."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased, input_weights
from rnnlab.trees import State


class MinGRU(Cell):
    """minGRU, a GRU with input-dependent gates only (Feng et al., 2024, arXiv:2410.01201).

        z_t = σ(W_z x_t + b_z)
        n_t = W_n x_t + b_n
        h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ n_t

    The recurrence is linear in the state, with coefficients between 0 and 1 that depend on the inputs only.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W and b stack z and n.
    Differs from the paper: the candidate is the linear map of section 3.1.3. The paper's experiments are in log-space,
    where the candidate must be positive.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
    """

    gates = ("z", "n")
    remembers = {"z": -1}
    verified = "official code"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(2, hidden_size, input_size)
        self.b = bias_vector(2 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.b,), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        (b,) = constants
        (h,) = state
        z, n = biased(x, b).chunk(2, dim=-1)
        z = z.sigmoid()
        h = (1 - z) * h + z * n
        return h, (h,)
