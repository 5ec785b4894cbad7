"""SRU: elementwise recurrence, gates that read their own unit, highway connection."""

from math import exp

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased
from rnnlab.interface import InputError
from rnnlab.trees import State


class SRU(Cell):
    """Simple recurrent unit, SRU (Lei et al., 2018, arXiv:1709.02755).

    The recurrence is elementwise, so a step has no matrix product. The equations are those of section 2, with the
    scaling of section 3.2:

        f_t = σ(W_f x_t + v_f ⊙ c_{t-1} + b_f)
        c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ (W_c x_t)
        r_t = σ(W_r x_t + v_r ⊙ c_{t-1} + b_r)
        h_t = r_t ⊙ c_t + (1 - r_t) ⊙ α x_t         α = sqrt(1 + 2 exp(highway_bias))

    x_t and c_t need the same width. If the widths differ, P x_t replaces x_t in the last equation. ``sru_v1`` is the
    form of the first versions of the paper, whose gates do not read c.

    Shapes: x [B, input_size]; c [B, hidden_size]; output h [B, hidden_size]. W stacks c, f, r; v and b stack f, r;
    P [hidden_size, input_size], None if the widths are equal.
    Differs from the paper: it has a projection P, as in the authors' code. W and P are initialised uniform with
    variance 1/input_size, W_f and W_r with half that variance, and v uniform with variance 1/2, as in that code.

    Args:
        input_size: features of x.
        hidden_size: width of c and h.
        highway_bias: initial value of b_r. Negative values pass more of the input to the output. A value other than 0
            needs ``bias=True``.
        bias: whether the cell has biases.
    """

    states = ("c",)
    gates = ("f", "r")
    remembers = {"f": 1}
    verified = "official code"

    def __init__(self, input_size: int, hidden_size: int, *, highway_bias: float = 0.0, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        if not bias and highway_bias != 0.0:
            raise InputError(f"highway_bias={highway_bias} needs bias=true")
        self.alpha = (1 + 2 * exp(highway_bias)) ** 0.5
        bound = (3 / input_size) ** 0.5
        self.W = nn.Parameter(torch.empty(3 * hidden_size, input_size).uniform_(-bound, bound))
        with torch.no_grad():
            self.W[hidden_size:] *= 0.5**0.5
        self.v = nn.Parameter(torch.empty(2 * hidden_size).uniform_(-(1.5**0.5), 1.5**0.5))
        self.b = bias_vector(2 * hidden_size, bias)
        if self.b is not None:
            nn.init.constant_(self.b[hidden_size:], highway_bias)
        self.P = None
        if input_size != hidden_size:
            self.P = nn.Parameter(torch.empty(hidden_size, input_size).uniform_(-bound, bound))

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:  # noqa: D102
        W_c, W_fr = self.W.split([self.hidden_size, 2 * self.hidden_size])
        x = inputs if self.P is None else linear(inputs, self.P)
        return (*self.v.chunk(2), self.b), (linear(inputs, W_c), linear(inputs, W_fr), x)

    def step(  # noqa: D102
        self, constants: tuple[Tensor, ...], inputs: tuple[Tensor, ...], state: State
    ) -> tuple[Tensor, State]:
        v_f, v_r, b = constants
        new, gates, x = inputs
        (c,) = state
        f, r = biased(gates, b).chunk(2, dim=-1)
        f, r = (f + v_f * c).sigmoid(), (r + v_r * c).sigmoid()
        c = f * c + (1 - f) * new
        return r * c + (1 - r) * self.alpha * x, (c,)
