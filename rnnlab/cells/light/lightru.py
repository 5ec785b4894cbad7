"""Light recurrent unit: one gate, and a candidate that depends on the input only."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class LightRU(Cell):
    """Light recurrent unit (Ye et al., 2024, doi:10.3390/electronics13163204).

    One gate, and a candidate that depends on the input only:

        n_t = tanh(W_n x_t)
        f_t = σ(W_f x_t + U h_{t-1} + b)
        h_t = (1 - f_t) ⊙ h_{t-1} + f_t ⊙ n_t

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W stacks f and n; U and b belong to f.
    Differs from the paper: nothing.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has a bias b.
    """

    gates = ("f",)
    remembers = {"f": -1}
    verified = "torchrecurrent 0.2.5"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(2, hidden_size, input_size)
        self.U = recurrent_weights(1, hidden_size)
        self.b = bias_vector(hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        (h,) = state
        f, n = x.chunk(2, dim=-1)
        f = (f + linear(h, U, b)).sigmoid()
        h = (1 - f) * h + f * n.tanh()
        return h, (h,)
