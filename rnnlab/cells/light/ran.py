"""RAN: recurrent additive network, an LSTM whose cell state is a weighted sum of inputs."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, check_choice, input_weights, recurrent_weights
from rnnlab.trees import State


class RAN(Cell):
    """Recurrent additive network, RAN (Lee, Levy and Zettlemoyer, 2017, arXiv:1705.07393).

    An LSTM whose cell state is a weighted sum of the inputs:

        i_t = σ(W_i x_t + U_i h_{t-1} + b_i)
        f_t = σ(W_f x_t + U_f h_{t-1} + b_f)
        c_t = f_t ⊙ c_{t-1} + i_t ⊙ (W_c x_t)
        h_t = g(c_t)

    g is tanh or the identity.

    Shapes: x [B, input_size]; h, c [B, hidden_size]; output h. W stacks i, f, c; U and b stack i, f.
    Differs from the paper: nothing.

    Args:
        input_size: features of x.
        hidden_size: width of h and c.
        activation: g, ``tanh`` or ``identity``.
        bias: whether the cell has biases.
    """

    states = ("h", "c")
    gates = ("i", "f")
    remembers = {"f": 1, "i": -1}
    verified = "torchrecurrent 0.2.5"

    def __init__(self, input_size: int, hidden_size: int, *, activation: str = "tanh", bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.activation = check_choice("activation", activation, ("tanh", "identity"))
        self.W = input_weights(3, hidden_size, input_size)
        self.U = recurrent_weights(2, hidden_size)
        self.b = bias_vector(2 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        h, c = state
        x_if, x_c = x.split([2 * self.hidden_size, self.hidden_size], dim=-1)
        i, f = (x_if + linear(h, U, b)).sigmoid().chunk(2, dim=-1)
        c = f * c + i * x_c
        h = c.tanh() if self.activation == "tanh" else c
        return h, (h, c)
