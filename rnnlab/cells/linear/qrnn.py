"""QRNN: convolution over the last inputs, and gated pooling that is linear in the state."""

from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased, check_choice, input_weights
from rnnlab.interface import InputError
from rnnlab.trees import State

_GATES = {"f": ("z", "f"), "fo": ("z", "f", "o"), "ifo": ("z", "f", "o", "i")}


class QRNN(Cell):
    """Quasi-recurrent network, QRNN (Bradbury et al., 2017, arXiv:1611.01576).

    A convolution over the last one or two inputs, followed by a pooling that is linear in the state:

        z_t = tanh(W_z x_t + V_z x_{t-1} + b_z)
        f_t = σ(W_f x_t + V_f x_{t-1} + b_f)        o_t and i_t likewise
        c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ z_t       pooling="f" (equation 3) and "fo"
        c_t = f_t ⊙ c_{t-1} + i_t ⊙ z_t             pooling="ifo" (equation 5)
        h_t = o_t ⊙ c_t                             with "fo" (equation 4) and "ifo"; h_t = c_t with "f"

    Shapes: x [B, input_size]; c [B, hidden_size]; output h [B, hidden_size]. W, V and b stack z, f, o, i, without the
    gates that the pooling does not use. With window=1 there is no V and the state is c. With window=2 the state also
    contains v = V x_{t-1}.
    Differs from the paper: it has biases, as in the authors' code. The window is 1 or 2; the paper also uses wider
    ones. With window=2 the step reads the previous input from the state and is not linear in it.

    Args:
        input_size: features of x.
        hidden_size: width of c and h.
        pooling: ``f``, ``fo`` or ``ifo``.
        window: number of inputs that a step reads, 1 or 2.
        bias: whether the cell has biases.
    """

    states = ("c",)
    verified = "official code"

    def __init__(
        self, input_size: int, hidden_size: int, *, pooling: str = "fo", window: int = 1, bias: bool = True
    ) -> None:
        super().__init__(input_size, hidden_size)
        if window not in (1, 2):
            raise InputError(f"window={window} must be 1 or 2")
        self.pooling = check_choice("pooling", pooling, tuple(_GATES))
        self.gates = _GATES[pooling]
        self.remembers = {"f": 1, "i": -1} if pooling == "ifo" else {"f": 1}
        self.states = ("c",) if window == 1 else ("c", "v")
        self.W = input_weights(len(self.gates), hidden_size, input_size)
        self.V = input_weights(len(self.gates), hidden_size, input_size) if window == 2 else None
        self.b = bias_vector(len(self.gates) * hidden_size, bias)

    def initial_state(self, batch_size: int) -> State:
        """Return zeros: there is no input before the first step."""
        widths = (self.hidden_size, len(self.gates) * self.hidden_size)
        return tuple(self.W.new_zeros(batch_size, width) for _, width in zip(self.states, widths, strict=False))

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, ...]]:  # noqa: D102
        x = linear(inputs, self.W)
        return (self.b,), (x,) if self.V is None else (x, linear(inputs, self.V))

    def step(self, constants: tuple, inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:  # noqa: D102
        (b,) = constants
        c, *v = state
        x, *v_new = inputs
        z, f, *more = biased(x + v[0] if v else x, b).chunk(len(self.gates), dim=-1)
        z, f, more = z.tanh(), f.sigmoid(), [gate.sigmoid() for gate in more]
        c = f * c + (more[1] if self.pooling == "ifo" else 1 - f) * z
        return more[0] * c if more else c, (c, *v_new)
