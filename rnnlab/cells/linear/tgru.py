"""T-GRU: strongly typed GRU; gates depend on the last two inputs."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased, input_weights
from rnnlab.trees import State


class TGRU(Cell):
    """Strongly typed gated recurrent unit, T-GRU (Balduzzi and Ghifary, 2016, arXiv:1602.02218).

    The gates read the previous input instead of the previous state, and no matrix multiplies the state:

        z_t = W_z x_t + V_z x_{t-1} + b_z
        f_t = σ(W_f x_t + V_f x_{t-1} + b_f)
        o_t = tanh(W_o x_t + V_o x_{t-1} + b_o)
        h_t = f_t ⊙ h_{t-1} + z_t ⊙ o_t

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W, V and b stack z, f, o. The
    state also contains v = V x_{t-1} [B, 3 hidden_size], which is initially zero.
    Differs from the paper: nothing; τ is the tanh.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
    """

    states = ("h", "v")
    gates = ("z", "f", "o")
    remembers = {"f": 1}
    verified = "torchrecurrent 0.2.5"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(3, hidden_size, input_size)
        self.V = input_weights(3, hidden_size, input_size)
        self.b = bias_vector(3 * hidden_size, bias)

    def initial_state(self, batch_size: int) -> State:
        """Return zeros: there is no input before the first step."""
        return tuple(self.W.new_zeros(batch_size, width) for width in (self.hidden_size, 3 * self.hidden_size))

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, Tensor]]:  # noqa: D102
        return (self.b,), (linear(inputs, self.W), linear(inputs, self.V))

    def step(self, constants: tuple, inputs: tuple[Tensor, Tensor], state: State) -> tuple[Tensor, State]:  # noqa: D102
        (b,) = constants
        x, v_new = inputs
        h, v = state
        z, f, o = biased(x + v, b).chunk(3, dim=-1)
        h = f.sigmoid() * h + z * o.tanh()
        return h, (h, v_new)
