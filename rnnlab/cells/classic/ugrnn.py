"""Update gate RNN: vanilla network with one update gate."""

from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class UGRNN(Cell):
    """Update gate network (Collins, Sohl-Dickstein and Sussillo, 2017, arXiv:1611.09913).

        g_t = σ(W_g x_t + U_g h_{t-1} + b_g)
        n_t = tanh(W_n x_t + U_n h_{t-1} + b_n)
        h_t = g_t ⊙ h_{t-1} + (1 - g_t) ⊙ n_t

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W, U, b hold g, n.
    Differs from the paper: nothing. b_g is initialised to 1, as in the authors' UGRNNCell in TensorFlow.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    gates = ("g", "n")
    remembers = {"g": 1}
    verified = "torchrecurrent 0.2.5"

    def __init__(
        self, input_size: int, hidden_size: int, *, bias: bool = True, recurrent_init: str = "orthogonal"
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(2, hidden_size, input_size)
        self.U = recurrent_weights(2, hidden_size, recurrent_init)
        self.b = bias_vector(2 * hidden_size, bias)
        if self.b is not None:
            nn.init.ones_(self.b[:hidden_size])

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        (h,) = state
        g, n = (x + linear(h, U, b)).chunk(2, dim=-1)
        g = g.sigmoid()
        h = g * h + (1 - g) * n.tanh()
        return h, (h,)
