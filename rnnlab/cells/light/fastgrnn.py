"""FastGRNN: gate and candidate share their weights, which may have low rank."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell
from rnnlab.interface import InputError
from rnnlab.trees import State


class FastGRNN(Cell):
    """FastGRNN, a gated network whose gate reuses the candidate's weights (Kusupati et al., 2018, arXiv:1901.02358).

        a_t = W x_t + U h_{t-1}
        z_t = σ(a_t + b_z)
        n_t = tanh(a_t + b_n)
        h_t = (σ(ζ)(1 - z_t) + σ(ν)) ⊙ n_t + z_t ⊙ h_{t-1}

    ζ and ν are learned scalars. W and U may have low rank: W = W_1 W_2 and U = U_1 U_2.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h; b stacks z, n; ζ and ν [1]. With low rank,
    W_1 [hidden_size, w_rank] and W_2 [w_rank, input_size] replace W, and U_1 and U_2 replace U.
    Differs from the paper: notation (its ζ and ν are σ(ζ) and σ(ν) here). Weights are neither sparse nor quantised. The
    initialisation is that of the authors' code: ζ = 1, ν = -4, weights normal with standard deviation 0.1, biases 1.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        w_rank: rank of W; None for a full matrix.
        u_rank: rank of U; None for a full matrix.
        bias: whether the cell has biases.
    """

    gates = ("z", "n")
    remembers = {"z": 1}
    verified = "torchrecurrent 0.2.5, official code"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        w_rank: int | None = None,
        u_rank: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.w_rank, self.u_rank = w_rank, u_rank
        self.zeta = nn.Parameter(torch.tensor([1.0]))
        self.nu = nn.Parameter(torch.tensor([-4.0]))
        self._make("W", input_size, w_rank)
        self._make("U", hidden_size, u_rank)
        self.b = nn.Parameter(torch.ones(2 * hidden_size)) if bias else None

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:  # noqa: D102
        for W in self._factors("W", self.w_rank):
            inputs = linear(inputs, W)
        b = inputs.new_zeros(2 * self.hidden_size) if self.b is None else self.b
        scalars = (self.zeta.sigmoid(), self.nu.sigmoid())
        return (*b.chunk(2), *scalars, *self._factors("U", self.u_rank)), inputs

    def step(self, constants: tuple[Tensor, ...], x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        b_z, b_n, zeta, nu, *factors = constants
        (h,) = state
        u = h
        for U in factors:
            u = linear(u, U)
        a = x + u
        z, n = (a + b_z).sigmoid(), (a + b_n).tanh()
        h = (zeta * (1 - z) + nu) * n + z * h
        return h, (h,)

    def _make(self, name: str, columns: int, rank: int | None) -> None:
        if rank is not None and rank < 1:
            raise InputError(f"{name.lower()}_rank={rank} must be at least 1, or null for a full matrix")
        shapes = {"": (self.hidden_size, columns)}
        if rank is not None:
            shapes = {"_1": (self.hidden_size, rank), "_2": (rank, columns)}
        for part, shape in shapes.items():
            setattr(self, name + part, nn.Parameter(0.1 * torch.randn(shape)))

    def _factors(self, name: str, rank: int | None) -> list[Tensor]:
        """Return the factors of a weight matrix, in the order in which they are applied."""
        return [getattr(self, name + part) for part in ([""] if rank is None else ["_2", "_1"])]
