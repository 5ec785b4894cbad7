"""LRU: diagonal complex linear recurrence, with eigenvalues initialised on a ring in the unit disc."""

from math import tau

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, input_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class LRU(Cell):
    """Linear recurrent unit, LRU (Orvieto et al., 2023, arXiv:2303.06349).

    Each unit is a complex number with a learned rotation and decay:

        λ   = exp(-exp(ν) + i exp(θ))
        h_t = λ ⊙ h_{t-1} + exp(γ) ⊙ (B x_t)
        y_t = Re(C h_t) + D x_t

    |λ| is below 1 for every ν. λ is initialised uniformly on the ring r_min <= |λ| <= r_max with angles up to
    max_phase. exp(γ) is initialised to sqrt(1 - |λ|²), so that h has the scale of the input.

    Shapes: x [B, input_size]; the state h is complex and carried as two real tensors, re and im [B, hidden_size];
    output y [B, hidden_size]. B and C are ``B_re`` + i ``B_im`` and ``C_re`` + i ``C_im``. ν, θ and γ are the
    paper's ν^log, θ^log and γ^log.
    Differs from the paper: h and y have the same width. D is a matrix, as in equation 1 of the paper, and initialised
    Glorot uniform; in the paper's code it is a vector, because x and y have the same width.

    Args:
        input_size: features of x.
        hidden_size: width of h and y.
        r_min: smallest initial |λ|.
        r_max: largest initial |λ|.
        max_phase: largest initial angle of λ, in radians.
    """

    states = ("re", "im")
    verified = "minimal-LRU"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 6.28,
    ) -> None:
        super().__init__(input_size, hidden_size)
        if not 0 <= r_min < r_max <= 1:
            raise InputError(f"r_min={r_min} and r_max={r_max} must satisfy 0 <= r_min < r_max <= 1")
        if not 0 < max_phase <= tau:
            raise InputError(f"max_phase={max_phase} must be above 0 and at most 2π")
        # 0 and 1 are excluded: ν, θ or γ would be infinite there.
        radius = torch.empty(hidden_size).uniform_(1e-4, 1 - 1e-4) * (r_max**2 - r_min**2) + r_min**2
        phase = max_phase * torch.empty(hidden_size).uniform_(1e-4, 1)
        self.nu = nn.Parameter((-0.5 * radius.log()).log())
        self.theta = nn.Parameter(phase.log())
        self.gamma = nn.Parameter(0.5 * (1 - radius).log())
        self.B_re = nn.Parameter(torch.randn(hidden_size, input_size) / (2 * input_size) ** 0.5)
        self.B_im = nn.Parameter(torch.randn(hidden_size, input_size) / (2 * input_size) ** 0.5)
        self.C_re = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)
        self.C_im = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)
        self.D = input_weights(1, hidden_size, input_size)

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:  # noqa: D102
        radius, phase = (-self.nu.exp()).exp(), self.theta.exp()
        scale = self.gamma.exp().unsqueeze(-1)
        weight = torch.cat([scale * self.B_re, scale * self.B_im, self.D])
        constants = (radius * phase.cos(), radius * phase.sin(), self.C_re, self.C_im)
        return constants, linear(inputs, weight).chunk(3, dim=-1)

    def step(  # noqa: D102
        self, constants: tuple[Tensor, ...], inputs: tuple[Tensor, ...], state: State
    ) -> tuple[Tensor, State]:
        a_re, a_im, C_re, C_im = constants
        b_re, b_im, d = inputs
        re, im = state
        re, im = a_re * re - a_im * im + b_re, a_im * re + a_re * im + b_im
        return linear(re, C_re) - linear(im, C_im) + d, (re, im)
