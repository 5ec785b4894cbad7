"""minLSTM: linear in the state; two normalised gates depend on the input only."""

from torch import Tensor
from torch.nn.functional import linear, logsigmoid

from rnnlab.cells.base import Cell, bias_vector, biased, input_weights
from rnnlab.trees import State


class MinLSTM(Cell):
    """minLSTM, an LSTM with input-dependent gates only (Feng et al., 2024, arXiv:2410.01201).

        f_t = σ(W_f x_t + b_f)
        i_t = σ(W_i x_t + b_i)
        n_t = W_n x_t + b_n
        h_t = f_t / (f_t + i_t) ⊙ h_{t-1} + i_t / (f_t + i_t) ⊙ n_t

    The recurrence is linear in the state, with coefficients between 0 and 1 that depend on the inputs only. The two
    gates are normalised to a sum of 1, as in section 3.2, so that the scale of h does not depend on time.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W and b stack f, i, n.
    Differs from the paper: the candidate is the linear map of section 3.2. The paper's experiments are in log-space,
    where the candidate must be positive.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
    """

    gates = ("f", "i", "n")
    remembers = {"f": 1, "i": -1}
    verified = "official code"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(3, hidden_size, input_size)
        self.b = bias_vector(3 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.b,), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        (b,) = constants
        (h,) = state
        f, i, n = biased(x, b).chunk(3, dim=-1)
        # σ(f) / (σ(f) + σ(i)) in a form that is not 0 / 0 if both underflow.
        f = (logsigmoid(f) - logsigmoid(i)).sigmoid()
        h = f * h + (1 - f) * n
        return h, (h,)
