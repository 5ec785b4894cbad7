"""T-RNN: strongly typed vanilla network, linear in the state."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased, input_weights
from rnnlab.trees import State


class TRNN(Cell):
    """Strongly typed recurrent network, T-RNN (Balduzzi and Ghifary, 2016, arXiv:1602.02218).

    The state is an average of projected inputs, and no matrix multiplies the state:

        z_t = W_z x_t
        f_t = σ(W_f x_t + b)
        h_t = f_t ⊙ h_{t-1} + (1 - f_t) ⊙ z_t

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W stacks z, f; b belongs to f.
    Differs from the paper: notation (its W is W_z, its V is W_f).

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has a bias b.
    """

    gates = ("f",)
    remembers = {"f": 1}
    verified = "torchrecurrent 0.2.5"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(2, hidden_size, input_size)
        self.b = bias_vector(hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.b,), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        (b,) = constants
        (h,) = state
        z, f = x.chunk(2, dim=-1)
        f = biased(f, b).sigmoid()
        h = f * h + (1 - f) * z
        return h, (h,)
