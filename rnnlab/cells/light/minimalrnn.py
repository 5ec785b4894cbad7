"""MinimalRNN: one update gate between the state and the mapped input."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class MinimalRNN(Cell):
    """MinimalRNN, an update gate between state and mapped input (Chen, 2017, arXiv:1711.06788).

        z_t = tanh(W x_t + b_z)
        u_t = σ(U_z z_t + U h_{t-1} + b_u)
        h_t = u_t ⊙ h_{t-1} + (1 - u_t) ⊙ z_t

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. b stacks u, z.
    Differs from the paper: notation (its U_h is U). The paper allows any map from x_t to z_t; the map here is that of
    its experiments.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
    """

    gates = ("u", "z")
    remembers = {"u": 1}
    verified = "torchrecurrent 0.2.5"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(1, hidden_size, input_size)
        self.U = recurrent_weights(1, hidden_size)
        self.U_z = input_weights(1, hidden_size, hidden_size)
        self.b = bias_vector(2 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # noqa: D102
        b_u, b_z = (None, None) if self.b is None else self.b.chunk(2)
        z = linear(inputs, self.W, b_z).tanh()
        return self.U, (linear(z, self.U_z, b_u), z)

    def step(self, U: Tensor, inputs: tuple[Tensor, Tensor], state: State) -> tuple[Tensor, State]:  # noqa: D102
        x, z = inputs
        (h,) = state
        u = (x + linear(h, U)).sigmoid()
        h = u * h + (1 - u) * z
        return h, (h,)
