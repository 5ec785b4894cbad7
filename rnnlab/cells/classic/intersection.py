"""Intersection RNN: coupled gates for the output to the next layer and for the state."""

from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class Intersection(Cell):
    """Intersection RNN, +RNN (Collins, Sohl-Dickstein and Sussillo, 2017, arXiv:1611.09913).

        u_t = relu(W_u x_t + U_u h_{t-1} + b_u)         n_t = tanh(W_n x_t + U_n h_{t-1} + b_n)
        p_t = σ(W_p x_t + U_p h_{t-1} + b_p)            g_t = σ(W_g x_t + U_g h_{t-1} + b_g)
        y_t = p_t ⊙ x_t + (1 - p_t) ⊙ u_t               h_t = g_t ⊙ h_{t-1} + (1 - g_t) ⊙ n_t

    y is the output to the next layer; h is the state of the next step.

    Shapes: x [B, input_size]; h, y [B, hidden_size]; output y. W, U, b hold u, n, p, g.
    Differs from the paper: if x and h have different widths, P x replaces x, as in the paper's first layer. b_p
    and b_g are initialised to 1, as in the authors' IntersectionRNNCell in TensorFlow.

    Args:
        input_size: features of x.
        hidden_size: width of h and y.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    gates = ("u", "n", "p", "g")
    remembers = {"g": 1}
    verified = "torchrecurrent 0.2.5"

    def __init__(
        self, input_size: int, hidden_size: int, *, bias: bool = True, recurrent_init: str = "orthogonal"
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.P = input_weights(1, hidden_size, input_size) if input_size != hidden_size else None
        self.W = input_weights(4, hidden_size, hidden_size)
        self.U = recurrent_weights(4, hidden_size, recurrent_init)
        self.b = bias_vector(4 * hidden_size, bias)
        if self.b is not None:
            nn.init.ones_(self.b[2 * hidden_size :])

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, Tensor]]:  # noqa: D102
        x = inputs if self.P is None else linear(inputs, self.P)
        return (self.U, self.b), (linear(x, self.W), x)

    def step(self, constants: tuple, inputs: tuple[Tensor, Tensor], state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        sums, x = inputs
        (h,) = state
        u, n, p, g = (sums + linear(h, U, b)).chunk(4, dim=-1)
        p, g = p.sigmoid(), g.sigmoid()
        return p * x + (1 - p) * u.relu(), (g * h + (1 - g) * n.tanh(),)
