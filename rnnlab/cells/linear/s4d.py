"""S4D: diagonal complex state space model per channel, linear in the state."""

from math import log, pi

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, check_choice, input_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class S4D(Cell):
    """Diagonal state space model, S4D (Gu et al., 2022, arXiv:2206.11893).

    Each channel has its own linear differential equation with N complex states in conjugate pairs; the state contains
    one of each pair. With B = 1 and a zero-order hold of u over a step of length Δ:

        A   = -exp(α) + i ω
        h_t = exp(Δ A) ⊙ h_{t-1} + (exp(Δ A) - 1) / A ⊙ u_t
        y_t = 2 Re(Σ_n C_n h_{t,n}) + D ⊙ u_t

    u_t is x_t, or P x_t if x and y have different widths.

    Shapes: x [B, input_size]; the state h is complex and carried as two real tensors, re and im
    [B, hidden_size, N / 2]; output y [B, hidden_size]. α, ω, ``C_re`` and ``C_im`` [hidden_size, N / 2]; D and log_dt,
    the logarithm of Δ, [hidden_size]; P [hidden_size, input_size], None if the widths are equal. A state with
    three axes is not compiled to C: the cell runs as Python, with `scan` for all steps at once.
    Differs from the paper: only the state space model; the nonlinearity and the channel mixing after it belong to the
    model. The initialisation is that of the authors' code: α = log(1/2), C and D normal, Δ log-uniform between dt_min
    and dt_max. The authors use a lower learning rate for A and Δ.

    Args:
        input_size: features of x.
        hidden_size: number of channels, the width of y.
        state_size: N, an even number.
        init: initialisation of A: ``lin``, -1/2 + iπn; ``inv``, -1/2 + i (N/π) (N / (2n + 1) - 1).
        dt_min: smallest initial Δ.
        dt_max: largest initial Δ.
    """

    states = ("re", "im")
    verified = "official code"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        state_size: int = 64,
        init: str = "lin",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__(input_size, hidden_size)
        check_choice("init", init, ("lin", "inv"))
        if state_size < 2 or state_size % 2:
            raise InputError(f"state_size={state_size} must be even and at least 2")
        if not 0 < dt_min <= dt_max:
            raise InputError(f"dt_min={dt_min} and dt_max={dt_max} must satisfy 0 < dt_min <= dt_max")
        pairs = state_size // 2
        n = torch.arange(pairs).to(torch.get_default_dtype())
        omega = pi * n if init == "lin" else state_size / pi * (state_size / (2 * n + 1) - 1)
        self.log_dt = nn.Parameter(torch.empty(hidden_size).uniform_(log(dt_min), log(dt_max)))
        self.alpha = nn.Parameter(torch.full((hidden_size, pairs), log(0.5)))
        self.omega = nn.Parameter(omega.repeat(hidden_size, 1))
        self.C_re = nn.Parameter(torch.randn(hidden_size, pairs) / 2**0.5)
        self.C_im = nn.Parameter(torch.randn(hidden_size, pairs) / 2**0.5)
        self.D = nn.Parameter(torch.randn(hidden_size))
        self.P = input_weights(1, hidden_size, input_size) if input_size != hidden_size else None

    def initial_state(self, batch_size: int) -> State:
        """Return zeros."""
        return tuple(self.C_re.new_zeros(batch_size, *self.C_re.shape) for _ in self.states)

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:  # noqa: D102
        dt = self.log_dt.exp().unsqueeze(-1)
        decay, angle = -dt * self.alpha.exp(), dt * self.omega
        a_re, a_im = decay.exp() * angle.cos(), decay.exp() * angle.sin()
        # (exp(ΔA) - 1) / A; a direct difference from 1 would lose digits of the real part for small Δ.
        less = decay.expm1() * angle.cos() - 2 * (angle / 2).sin() ** 2
        A_re, A_im = -self.alpha.exp(), self.omega
        square = A_re**2 + A_im**2
        b_re, b_im = (less * A_re + a_im * A_im) / square, (a_im * A_re - less * A_im) / square
        u = inputs if self.P is None else linear(inputs, self.P)
        channels = (a_re, a_im, b_re, b_im, self.C_re, self.C_im)  # one number per state, not a matrix
        return (*(part.unsqueeze(0) for part in channels), self.D), u

    def step(self, constants: tuple[Tensor, ...], u: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        a_re, a_im, b_re, b_im, C_re, C_im, D = constants
        re, im = state
        held = u.unsqueeze(-1)  # [B, H, 1]
        re, im = a_re * re - a_im * im + b_re * held, a_im * re + a_re * im + b_im * held
        return 2 * (C_re * re - C_im * im).sum(-1) + D * u, (re, im)
