"""SRU as first published: linear in the state; gates depend on the input only."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased, check_choice
from rnnlab.trees import State


class SRUv1(Cell):
    """Simple recurrent unit, first version (Lei and Zhang, 2017, arXiv:1709.02755v1).

        f_t = σ(W_f x_t + b_f)
        r_t = σ(W_r x_t + b_r)
        c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ (W_c x_t)
        h_t = r_t ⊙ g(c_t) + (1 - r_t) ⊙ x_t

    The recurrence is linear in the state. x_t and c_t need the same width. If the widths differ, P x_t replaces x_t in
    the last equation. ``sru`` is the form published in 2018, whose gates read c.

    Shapes: x [B, input_size]; c [B, hidden_size]; output h [B, hidden_size]. W stacks c, f, r; b stacks f, r;
    P [hidden_size, input_size], None if the widths are equal.
    Differs from the paper: it has a projection P, as in the authors' code. W and P are initialised uniform with
    variance 1/input_size, as in that code.

    Args:
        input_size: features of x.
        hidden_size: width of c and h.
        activation: g, ``tanh``, ``relu`` or ``identity``.
        bias: whether the cell has biases.
    """

    states = ("c",)
    gates = ("f", "r")
    remembers = {"f": 1}
    verified = "official code"

    def __init__(self, input_size: int, hidden_size: int, *, activation: str = "tanh", bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.activation = check_choice("activation", activation, ("tanh", "relu", "identity"))
        bound = (3 / input_size) ** 0.5
        self.W = nn.Parameter(torch.empty(3 * hidden_size, input_size).uniform_(-bound, bound))
        self.b = bias_vector(2 * hidden_size, bias)
        self.P = None
        if input_size != hidden_size:
            self.P = nn.Parameter(torch.empty(hidden_size, input_size).uniform_(-bound, bound))

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, ...]]:  # noqa: D102
        W_c, W_fr = self.W.split([self.hidden_size, 2 * self.hidden_size])
        x = inputs if self.P is None else linear(inputs, self.P)
        return (self.b,), (linear(inputs, W_c), linear(inputs, W_fr), x)

    def step(self, constants: tuple, inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:  # noqa: D102
        (b,) = constants
        new, gates, x = inputs
        (c,) = state
        f, r = biased(gates, b).sigmoid().chunk(2, dim=-1)
        c = f * c + (1 - f) * new
        g = c if self.activation == "identity" else getattr(c, self.activation)()
        return r * g + (1 - r) * x, (c,)
