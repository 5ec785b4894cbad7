"""FastRNN: vanilla network with a weighted residual connection."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, check_choice
from rnnlab.trees import State


class FastRNN(Cell):
    """FastRNN, a vanilla network with a weighted residual connection (Kusupati et al., 2018, arXiv:1901.02358).

        n_t = φ(W x_t + U h_{t-1} + b)
        h_t = σ(α) n_t + σ(β) h_{t-1}

    α and β are learned scalars; φ is the tanh, ReLU or sigmoid.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h; α and β [1].
    Differs from the paper: notation (its α and β are σ(α) and σ(β) here). The initialisation is that of the authors'
    code: α = -3 and β = 3 (0.05 and 0.95 after σ), W and U normal with standard deviation 0.1, b = 1.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        activation: φ, ``tanh``, ``relu`` or ``sigmoid``.
        bias: whether the cell has a bias b.
    """

    verified = "torchrecurrent 0.2.5"

    def __init__(self, input_size: int, hidden_size: int, *, activation: str = "tanh", bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.activation = check_choice("activation", activation, ("tanh", "relu", "sigmoid"))
        self.W = nn.Parameter(0.1 * torch.randn(hidden_size, input_size))
        self.U = nn.Parameter(0.1 * torch.randn(hidden_size, hidden_size))
        self.b = nn.Parameter(torch.ones(hidden_size)) if bias else None
        self.alpha = nn.Parameter(torch.tensor([-3.0]))
        self.beta = nn.Parameter(torch.tensor([3.0]))

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b, self.alpha.sigmoid(), self.beta.sigmoid()), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b, alpha, beta = constants
        (h,) = state
        n = getattr(x + linear(h, U, b), self.activation)()
        h = alpha * n + beta * h
        return h, (h,)
