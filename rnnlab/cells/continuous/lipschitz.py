"""Lipschitz RNN: linear part plus tanh, with weights between symmetric and skew-symmetric."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import bias_vector
from rnnlab.cells.continuous._timed import Timed, time_of
from rnnlab.trees import State


class LipschitzRNN(Timed):
    """Lipschitz recurrent network (Erichson et al., 2021, arXiv:2006.12070).

    A forward Euler step of dh/dt = A h + tanh(U h + W x + b), with a linear part and a Lipschitz nonlinearity:

        A   = (1 - β)(M_A + M_Aᵀ) + β(M_A - M_Aᵀ) - γ I
        U   = (1 - β)(M_U + M_Uᵀ) + β(M_U - M_Uᵀ) - γ I
        h_t = h_{t-1} + ε (A h_{t-1} + tanh(W x_t + U h_{t-1} + b))

    β = 1/2 gives A = M_A - γ I, and β = 1 a skew-symmetric matrix minus γ I; U likewise. γ > 0 decreases the real parts
    of the eigenvalues.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h.
    Differs from the paper: notation (its U is W, its W is U). A and U share β and γ, as in the authors' code. M_A and
    M_U are initialised normal with standard deviation 1/H, W Glorot normal. There is no two-stage Runge-Kutta step.

    Args:
        input_size: features of x.
        hidden_size: H, the width of h.
        beta: β, from 0 (symmetric) to 1 (skew-symmetric).
        gamma: γ, damping.
        eps: ε, the time step; ``elapsed`` multiplies it at every step.
        bias: whether the cell has a bias b.
    """

    verified = "official code"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        beta: float = 0.75,
        gamma: float = 0.001,
        eps: float = 0.03,
        bias: bool = True,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.beta, self.gamma, self.eps = beta, gamma, eps
        self.W = nn.Parameter(nn.init.xavier_normal_(torch.empty(hidden_size, input_size)))
        self.M_A = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size)
        self.M_U = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size)
        self.b = bias_vector(hidden_size, bias)

    def prepare(self, inputs: Tensor, elapsed: Tensor | None = None) -> tuple[tuple, Any]:  # noqa: D102
        return (self._built(self.M_A), self._built(self.M_U), self.b), self.timed(linear(inputs, self.W), elapsed)

    def step(self, constants: tuple, x: Any, state: State) -> tuple[Tensor, State]:  # noqa: D102
        x, eps = time_of(x, self.eps)
        A, U, b = constants
        (h,) = state
        h = h + eps * (linear(h, A) + (x + linear(h, U, b)).tanh())
        return h, (h,)

    def _built(self, M: Tensor) -> Tensor:
        eye = torch.eye(self.hidden_size, dtype=M.dtype, device=M.device)
        return (1 - self.beta) * (M + M.t()) + self.beta * (M - M.t()) - self.gamma * eye
