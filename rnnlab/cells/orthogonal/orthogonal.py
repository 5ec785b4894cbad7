"""Orthogonal RNN (expRNN, scoRNN): orthogonal recurrent weights from a skew-symmetric matrix."""

from math import ceil, factorial, isfinite, log2, pi

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, check_choice
from rnnlab.interface import InputError
from rnnlab.trees import State


class OrthogonalRNN(Cell):
    """Orthogonal recurrent network, expRNN (Lezcano-Casado and Martínez-Rubio, 2019, arXiv:1901.08428).

    U is a function of a skew-symmetric matrix A, so it is orthogonal at every training step for every optimizer. The
    parameters are the entries of A above the diagonal:

        U   = exp(A) D                                   map="matrix_exp"
        U   = (I + A)⁻¹ (I - A) D                        map="cayley"
        z_t = W x_t + U h_{t-1}
        h_t = sign(z_t) ⊙ relu(|z_t| + b)                activation="modrelu"
        h_t = φ(z_t + b)                                 activation="tanh", "relu", "abs"

    D is diagonal, with -1 in its first ρ entries and 1 in the others. The Cayley map with D is scoRNN (Helfrich,
    Willmott and Ye, 2018, arXiv:1707.09520). modReLU (Arjovsky, Shah and Bengio, 2016, arXiv:1511.06464) is used in its
    real form. U is initialised to rotations in planes. The authors use a tenth of the learning rate for A.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. The parameter ``U_skew`` holds A above the diagonal, row
    by row.
    Differs from the paper: nothing with the default options. W is initialised He normal and the modReLU's b uniform
    within 0.01, as in the authors' code.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        map: map from A to U, ``matrix_exp`` or ``cayley``.
        activation: ``modrelu``, ``tanh``, ``relu`` or ``abs``.
        recurrent_init: angles of the initial U: ``henaff``, uniform in (-π, π) (Henaff, Szlam and LeCun, 2016,
            arXiv:1602.06662); ``cayley``, uniform in (0, π/2) (Helfrich et al.); or ``identity``, zero.
        rho: ρ, number of entries of D that are -1. With ρ = 0, the Cayley map gives no eigenvalue of -1, and neither
            map gives a determinant of -1.
    """

    verified = "official code"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        map: str = "matrix_exp",
        activation: str = "modrelu",
        recurrent_init: str = "henaff",
        rho: int = 0,
    ) -> None:
        super().__init__(input_size, hidden_size)
        if not 0 <= rho <= hidden_size:
            raise InputError(f"rho={rho} must be between 0 and hidden_size={hidden_size}")
        self.map = check_choice("map", map, ("matrix_exp", "cayley"))
        self.activation = check_choice("activation", activation, ("modrelu", "tanh", "relu", "abs"))
        self.keeps_norm = activation != "tanh"
        self.rho = rho
        self.W = nn.Parameter(nn.init.kaiming_normal_(torch.empty(hidden_size, input_size), nonlinearity="relu"))
        self.U_skew = nn.Parameter(self._rotations(recurrent_init))
        self.b = nn.Parameter(torch.zeros(hidden_size))
        if activation == "modrelu":
            nn.init.uniform_(self.b, -0.01, 0.01)

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:  # noqa: D102
        if self.activation == "modrelu":
            return (self.recurrent_matrix(), self.b), linear(inputs, self.W)
        return (self.recurrent_matrix(), self.b), linear(inputs, self.W, self.b)

    def step(self, constants: tuple[Tensor, Tensor], x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        (h,) = state
        z = x + linear(h, U)
        h = z.sign() * (z.abs() + b).relu() if self.activation == "modrelu" else getattr(z, self.activation)()
        return h, (h,)

    def recurrent_matrix(self) -> Tensor:
        """Return U, ``[hidden_size, hidden_size]``."""
        like = {"dtype": self.U_skew.dtype, "device": self.U_skew.device}
        row, column = torch.triu_indices(self.hidden_size, self.hidden_size, 1, device=self.U_skew.device)
        A = torch.zeros(self.hidden_size, self.hidden_size, **like).index_put((row, column), self.U_skew)
        A = A - A.t()
        if self.map == "matrix_exp":
            U = exponential(A)
        else:
            eye = torch.eye(self.hidden_size, **like)
            # Not `solve`, which makes the host wait for a GPU to check for singular matrices; I + A never is.
            U, _ = torch.linalg.solve_ex(eye + A, eye - A)
        D = torch.ones(self.hidden_size, **like)
        D[: self.rho] = -1
        return U * D

    def _rotations(self, init: str) -> Tensor:
        """Return the entries above the diagonal of an A whose U rotates the plane of each pair of neurons."""
        check_choice("recurrent_init", init, ("henaff", "cayley", "identity"))
        low, high = {"henaff": (-pi, pi), "cayley": (0.0, pi / 2), "identity": (0.0, 0.0)}[init]
        angles = torch.empty(self.hidden_size // 2).uniform_(low, high)
        A = torch.zeros(self.hidden_size, self.hidden_size)
        first = torch.arange(0, self.hidden_size - 1, 2)
        A[first, first + 1] = angles if self.map == "matrix_exp" else (angles / 2).tan()
        return A[tuple(torch.triu_indices(self.hidden_size, self.hidden_size, 1))]


def exponential(A: Tensor) -> Tensor:
    """Return exp(A) of a matrix ``[n, n]``.

    It uses scaling and squaring with a Taylor polynomial of degree 12 in five matrix products (Paterson and Stockmeyer,
    1973; Moler and Van Loan, 2003, method 3). The backward pass of ``torch.matrix_exp`` computes the exponential of a
    matrix of twice the size. This function takes a fifth of the time for forward and backward pass together.
    """
    norm = A.detach().abs().sum(0).max()
    near = 1.2 if A.dtype == torch.float32 else 0.33  # near^13 / 13! is below half a unit in the last place
    if A.device.type == "cpu" and not torch.compiler.is_exporting():
        norm = float(norm)
        halvings = ceil(log2(norm / near)) if isfinite(norm) and norm > near else 0
        A = A / 2**halvings
    else:  # the number stays a tensor: the host would wait for a GPU, and an exported program cannot branch on it
        halvings = (norm / near).log2().ceil().nan_to_num(0).clamp(0, _MOST + 1).long()
        A = A / (torch.ones_like(halvings) << halvings)  # a power of floats could be inexact
    A_2 = A @ A
    A_3, A_4 = A_2 @ A, A_2 @ A_2
    powers = (torch.eye(len(A), dtype=A.dtype, device=A.device), A, A_2, A_3)

    def part(first: int) -> Tensor:
        return sum(power / factorial(first + i) for i, power in enumerate(powers))

    U = part(8) + A_4 / factorial(12)
    U = part(4) + A_4 @ U
    U = part(0) + A_4 @ U
    if isinstance(halvings, int):
        for _ in range(halvings):
            U = U @ U
        return U
    for i in range(_MOST):
        U = torch.where(i < halvings, U @ U, U)
    return torch.where(halvings <= _MOST, U, torch.nan)


_MOST = 12
"""Largest number of halvings on a GPU. It suffices for a norm of 4900 in float32; above, the result is NaN."""
