"""LMU: linear memory of the last theta steps as Legendre coefficients, and a nonlinear state."""

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell
from rnnlab.interface import InputError
from rnnlab.trees import State


class LMU(Cell):
    """Legendre memory unit, LMU (Voelker, Kajić and Eliasmith, 2019, NeurIPS 32).

    A linear memory m stores the last θ steps of a scalar u as coefficients of Legendre polynomials. A nonlinear state h
    reads the memory and contributes to u:

        u_t = e_xᵀ x_t + e_hᵀ h_{t-1} + e_mᵀ m_{t-1}           (equation 7)
        m_t = Ā m_{t-1} + B̄ u_t                                (equation 4)
        h_t = tanh(W x_t + U h_{t-1} + V m_t)                  (equation 6)

    Ā and B̄ are fixed: the zero-order-hold discretisation of m' = (A m + B u) / θ with, for i, j = 0 .. order - 1,

        A_ij = (2i + 1) (-1 if i < j else (-1)^(i-j+1)),  B_i = (2i + 1) (-1)^i      (equations 2)

    Shapes: x [B, input_size]; h [B, hidden_size]; m [B, order]; output h. W [hidden_size, input_size],
    U [hidden_size, hidden_size], V [hidden_size, order]; e_x, e_h and e_m are rows.
    Differs from the paper: notation (its W_x, W_h, W_m are W, U, V). As in the paper, e_x and e_h are initialised LeCun
    uniform, e_m to zero, and W, U, V Glorot normal.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        order: number of polynomials, d in the paper.
        theta: θ, length of the memory in steps.
    """

    states = ("h", "m")
    verified = "official code"

    def __init__(self, input_size: int, hidden_size: int, *, order: int = 32, theta: float = 100.0) -> None:
        super().__init__(input_size, hidden_size)
        if order < 1:
            raise InputError(f"order={order} must be at least 1")
        if theta <= 0:
            raise InputError(f"theta={theta} must be above 0")
        self.order, self.theta = order, theta
        self.e_x = nn.Parameter(_lecun(input_size))
        self.e_h = nn.Parameter(_lecun(hidden_size))
        self.e_m = nn.Parameter(torch.zeros(1, order))
        self.W = nn.Parameter(nn.init.xavier_normal_(torch.empty(hidden_size, input_size)))
        self.U = nn.Parameter(nn.init.xavier_normal_(torch.empty(hidden_size, hidden_size)))
        self.V = nn.Parameter(nn.init.xavier_normal_(torch.empty(hidden_size, order)))
        self.register_fixed(persistent=True)

    def fixed(self) -> dict[str, Tensor]:
        """Return Ā ``[order, order]`` and B̄ ``[order]`` in float64.

        Both are blocks of the exponential of [[A, B], [0, 0]] / θ.
        """
        i = torch.arange(self.order, dtype=torch.float64).unsqueeze(1)
        j = i.t()
        signs = torch.where(i < j, -1.0, (-1.0) ** (i - j + 1))
        block = torch.zeros(self.order + 1, self.order + 1, dtype=torch.float64)
        block[: self.order, : self.order] = (2 * i + 1) * signs
        block[: self.order, self.order :] = (2 * i + 1) * (-1.0) ** i
        step = torch.matrix_exp(block / self.theta)
        return {"A": step[: self.order, : self.order], "B": step[: self.order, self.order]}

    def initial_state(self, batch_size: int) -> State:
        """Return zeros."""
        return tuple(self.W.new_zeros(batch_size, width) for width in (self.hidden_size, self.order))

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:  # noqa: D102
        x = linear(inputs, torch.cat([self.e_x, self.W])).split([1, self.hidden_size], dim=-1)
        return (self.e_h, self.e_m, self.A, self.B, self.U, self.V), x

    def step(  # noqa: D102
        self, constants: tuple[Tensor, ...], inputs: tuple[Tensor, ...], state: State
    ) -> tuple[Tensor, State]:
        e_h, e_m, A, B, U, V = constants
        x_u, x_h = inputs
        h, m = state
        u = x_u + linear(h, e_h) + linear(m, e_m)
        m = linear(m, A) + u * B
        h = (x_h + linear(h, U) + linear(m, V)).tanh()
        return h, (h, m)


def _lecun(size: int) -> Tensor:
    """Return a row of uniform random numbers with variance 1/size."""
    return torch.empty(1, size).uniform_(-sqrt(3 / size), sqrt(3 / size))
