"""HGRN: complex linear recurrence with a lower bound on the forget gate."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, silu

from rnnlab.cells.base import Cell, bias_vector, input_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class HGRN(Cell):
    """Hierarchically gated recurrent unit, HGRU of HGRN (Qin et al., 2023, arXiv:2311.04823).

    The complex state rotates by a learned angle. Its forget gate depends on the input only and is at least γ:

        c_t = silu(W_re x_t + b_re) + i silu(W_im x_t + b_im)
        μ_t = σ(W_μ x_t + b_μ)
        λ_t = γ + (1 - γ) ⊙ μ_t
        h_t = λ_t ⊙ exp(iθ) ⊙ h_{t-1} + (1 - λ_t) ⊙ c_t
        g_t = silu(W_g x_t + b_g)
        y_t = V (g_t ⊙ layer_norm([Re h_t, Im h_t])) + b_y

    Shapes: x [B, input_size]; the state h is complex and carried as two real tensors, re and im [B, hidden_size];
    output y [B, hidden_size]. W and b stack re, im, μ and the two halves of g; V [hidden_size, 2 hidden_size].
    Differs from the paper: γ is a fixed number, ``lower_bound``. The paper learns it for every unit and layer, as a
    cumulative softmax over the layers that is 0 in the first layer; a cell has no access to other layers. The output
    gate, the output norm and the initial θ, 10000^(-2k / hidden_size) for unit k, follow the authors' code.

    Args:
        input_size: features of x.
        hidden_size: width of h and y.
        lower_bound: γ, lower bound of the forget gate, from 0 to below 1. The paper uses larger values in higher
            layers.
        bias: whether the cell has biases, including the bias of the norm.
    """

    states = ("re", "im")
    gates = ("re", "im", "mu", "g_re", "g_im")
    verified = "official code"

    def __init__(self, input_size: int, hidden_size: int, *, lower_bound: float = 0.0, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        if not 0 <= lower_bound < 1:
            raise InputError(f"lower_bound={lower_bound} must be at least 0 and below 1")
        self.lower_bound = lower_bound
        self.remembers = {} if lower_bound else {"mu": 1}  # with a lower bound the state keeps more than μ
        self.W = input_weights(5, hidden_size, input_size)
        self.b = bias_vector(5 * hidden_size, bias)
        self.theta = nn.Parameter(10000 ** (-2 / hidden_size * torch.arange(hidden_size)))
        self.norm_gain = nn.Parameter(torch.ones(2 * hidden_size))
        self.norm_bias = bias_vector(2 * hidden_size, bias)
        self.V = input_weights(1, hidden_size, 2 * hidden_size)
        self.b_y = bias_vector(hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, ...]]:  # noqa: D102
        H = self.hidden_size
        turn = (self.theta.cos(), self.theta.sin())
        x = linear(inputs, self.W, self.b).split([H, H, H, 2 * H], dim=-1)
        return (*turn, self.norm_gain, self.norm_bias, self.V, self.b_y), x

    def step(  # noqa: D102
        self, constants: tuple, inputs: tuple[Tensor, ...], state: State
    ) -> tuple[Tensor, State]:
        cos, sin, norm_gain, norm_bias, V, b_y = constants
        new_re, new_im, mu, g = inputs
        re, im = state
        keep = self.lower_bound + (1 - self.lower_bound) * mu.sigmoid()
        a_re, a_im = keep * cos, keep * sin
        re, im = (
            a_re * re - a_im * im + (1 - keep) * silu(new_re),
            a_im * re + a_re * im + (1 - keep) * silu(new_im),
        )
        # Doubling the state and using 4 eps changes nothing, and 1 / (4 eps) does not overflow in float16.
        both = torch.cat([2 * re, 2 * im], dim=-1)
        y = layer_norm(both, (2 * self.hidden_size,), norm_gain, norm_bias, eps=4e-5)
        return linear(silu(g) * y, V, b_y), (re, im)
