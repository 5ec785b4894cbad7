"""ATR: input and forget gate from the sum and the difference of the same two products."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class ATR(Cell):
    """Addition-subtraction twin-gated recurrent network, ATR (Zhang et al., 2018, arXiv:1810.12546).

    The two gates are the sum and the difference of the same two matrix products:

        p_t = W x_t
        q_t = U h_{t-1} + b
        i_t = σ(p_t + q_t)
        f_t = σ(p_t - q_t)
        h_t = i_t ⊙ p_t + f_t ⊙ h_{t-1}

    Shapes: x [B, input_size]; h [B, hidden_size]; output h.
    Differs from the paper: it has a bias b, as in the authors' code.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has a bias b.
    """

    gates = ("q",)
    remembers = {"q": -1}  # f decreases as q increases
    verified = "torchrecurrent 0.2.5"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(1, hidden_size, input_size)
        self.U = recurrent_weights(1, hidden_size)
        self.b = bias_vector(hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, p: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        (h,) = state
        q = linear(h, *constants)
        h = (p + q).sigmoid() * p + (p - q).sigmoid() * h
        return h, (h,)
