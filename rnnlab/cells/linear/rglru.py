"""RG-LRU: gated linear recurrence of Griffin and Hawk, normalised by sqrt(1 - a²)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, logsigmoid

from rnnlab.cells.base import Cell, bias_vector, biased, input_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class RGLRU(Cell):
    """Real-gated linear recurrent unit, RG-LRU (De et al., 2024, arXiv:2402.19427).

    The recurrence of Griffin and Hawk; equations 1 to 4 of section 2.4:

        r_t = σ(W_r x_t + b_r)
        i_t = σ(W_i x_t + b_i)
        a_t = σ(Λ)^(c r_t)
        h_t = a_t ⊙ h_{t-1} + sqrt(1 - a_t²) ⊙ (i_t ⊙ x_t)

    x_t and h_t need the same width. If the widths differ, P x_t replaces x_t in all equations.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h; P [hidden_size, input_size], None if the widths are
    equal; W and b stack r, i.
    Differs from the paper: notation (its W_a is W_r, its W_x is W_i). W is dense and not block-diagonal. Λ is
    initialised so that σ(Λ)^c is uniform in [0.9, 0.999], as in the paper; in its code σ(Λ) is in that interval.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        c: exponent of σ(Λ) for a fully open gate r_t.
        bias: whether the cell has biases.
    """

    gates = ("r", "i")
    verified = "official code"

    def __init__(self, input_size: int, hidden_size: int, *, c: float = 8.0, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        if c <= 0:
            raise InputError(f"c={c} must be above 0")
        self.c = c
        self.P = input_weights(1, hidden_size, input_size) if input_size != hidden_size else None
        self.W = nn.Parameter(torch.randn(2 * hidden_size, hidden_size) / hidden_size**0.5)
        self.b = bias_vector(2 * hidden_size, bias)
        log_a = torch.empty(hidden_size).uniform_(0.9, 0.999).log() / c
        self.Lambda = nn.Parameter(log_a - (-log_a.expm1()).log())  # the logit of a

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, Tensor]]:  # noqa: D102
        x = inputs if self.P is None else linear(inputs, self.P)
        return (self.c * logsigmoid(self.Lambda), self.b), (linear(x, self.W), x)

    def step(self, constants: tuple, inputs: tuple[Tensor, Tensor], state: State) -> tuple[Tensor, State]:  # noqa: D102
        slowest, b = constants
        gates, x = inputs
        (h,) = state
        r, i = biased(gates, b).sigmoid().chunk(2, dim=-1)
        log_a = r * slowest
        # expm1: 1 - a² would round to 0 for a near 1. Clamped: r may be 0, where the root has no derivative.
        rest = (-(2 * log_a).expm1()).clamp_min(torch.finfo(x.dtype).tiny)
        h = log_a.exp() * h + rest.sqrt() * i * x
        return h, (h,)
