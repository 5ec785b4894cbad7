"""Antisymmetric RNN: Euler steps with skew-symmetric recurrent weights."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector
from rnnlab.trees import State


class AntisymmetricRNN(Cell):
    """Antisymmetric recurrent network (Chang et al., 2019, arXiv:1902.09689).

    A forward Euler step of a differential equation whose Jacobian has eigenvalues with real parts near zero for small
    γ:

        U   = M - Mᵀ - γ I
        h_t = h_{t-1} + ε tanh(W x_t + U h_{t-1} + b)

    Shapes: x [B, input_size]; h [B, hidden_size]; output h.
    Differs from the paper: notation (its W_h is M, its V_h is W). M is initialised normal with variance 1/hidden_size,
    W with variance 1/input_size. The paper tunes ε and γ for each task.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        eps: ε, the time step.
        gamma: γ, the damping, at least 0.
        bias: whether the cell has a bias b.
    """

    verified = "torchrecurrent 0.2.5"

    def __init__(
        self, input_size: int, hidden_size: int, *, eps: float = 0.1, gamma: float = 0.01, bias: bool = True
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.eps, self.gamma = eps, gamma
        self.W = nn.Parameter(torch.randn(hidden_size, input_size) / input_size**0.5)
        self.M = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)
        self.b = bias_vector(hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        eye = torch.eye(self.hidden_size, dtype=self.M.dtype, device=self.M.device)
        return (self.M - self.M.t() - self.gamma * eye, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        (h,) = state
        h = h + self.eps * (x + linear(h, U, b)).tanh()
        return h, (h,)
