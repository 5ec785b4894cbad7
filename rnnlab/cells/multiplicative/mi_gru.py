"""GRU with multiplicative integration of input and state."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased, input_weights, recurrent_weights
from rnnlab.trees import State


class MIGRU(Cell):
    """GRU with multiplicative integration (Wu et al., 2016, arXiv:1606.06630).

        r, z = σ(α ⊙ W x_t ⊙ U h_{t-1} + β_1 ⊙ U h_{t-1} + β_2 ⊙ W x_t + b)
        n = tanh(α_n ⊙ W_n x_t ⊙ U_n (r ⊙ h_{t-1}) + β_1n ⊙ U_n (r ⊙ h_{t-1}) + β_2n ⊙ W_n x_t + b_n)
        h_t = (1 - z) ⊙ n + z ⊙ h_{t-1}

    With α = 0 and β_1 = β_2 = 1 it is the GRU with ``reset="before"``.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W, U, α, β_1, β_2 and b hold the gates in the order
    r, z, n.
    Differs from the paper: nothing known. Other implementations disagree on the place of r; some have r ⊙ (U_n
    h_{t-1}). The paper chooses the initial α, β_1 and β_2 for each task.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        alpha: initial value of α.
        beta: initial value of β_1 and β_2.
        bias: whether the cell has biases b.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    gates = ("r", "z", "n")
    remembers = {"z": 1}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        alpha: float = 1.0,
        beta: float = 0.5,
        bias: bool = True,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(3, hidden_size, input_size)
        self.U = recurrent_weights(3, hidden_size, recurrent_init)
        self.alpha = nn.Parameter(torch.full((3 * hidden_size,), float(alpha)))
        self.beta_1 = nn.Parameter(torch.full((3 * hidden_size,), float(beta)))
        self.beta_2 = nn.Parameter(torch.full((3 * hidden_size,), float(beta)))
        self.b = bias_vector(3 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        U = self.U.split([2 * self.hidden_size, self.hidden_size])
        return (*U, self.alpha, self.beta_1, self.beta_2, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U_rz, U_n, alpha, beta_1, beta_2, b = constants
        (h,) = state
        factor, added = alpha * x + beta_1, biased(beta_2 * x, b)
        sizes = [2 * self.hidden_size, self.hidden_size]
        (factor_rz, factor_n), (added_rz, added_n) = factor.split(sizes, dim=-1), added.split(sizes, dim=-1)
        r, z = (factor_rz * linear(h, U_rz) + added_rz).sigmoid().chunk(2, dim=-1)
        n = (factor_n * linear(r * h, U_n) + added_n).tanh()
        h = (1 - z) * n + z * h
        return h, (h,)
