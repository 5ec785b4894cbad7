"""Vanilla network with multiplicative integration of input and state."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased, input_weights, recurrent_weights
from rnnlab.trees import State


class MIRNN(Cell):
    """Recurrent network with multiplicative integration (Wu et al., 2016, arXiv:1606.06630).

        h_t = tanh(α ⊙ W x_t ⊙ U h_{t-1} + β_1 ⊙ U h_{t-1} + β_2 ⊙ W x_t + b)

    This is the paper's general form. With α = 0 and β_1 = β_2 = 1 it is the vanilla network; with α = 1 and
    β_1 = β_2 = 0 it is the paper's simple form.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h; α, β_1, β_2 [hidden_size].
    Differs from the paper: nothing. The paper chooses the initial α, β_1 and β_2 for each task.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        alpha: initial value of α.
        beta: initial value of β_1 and β_2.
        bias: whether the cell has a bias b.
        recurrent_init: initialisation of U: ``orthogonal``, ``identity`` or ``uniform``.
    """

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
        self.W = input_weights(1, hidden_size, input_size)
        self.U = recurrent_weights(1, hidden_size, recurrent_init)
        self.alpha = nn.Parameter(torch.full((hidden_size,), float(alpha)))
        self.beta_1 = nn.Parameter(torch.full((hidden_size,), float(beta)))
        self.beta_2 = nn.Parameter(torch.full((hidden_size,), float(beta)))
        self.b = bias_vector(hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.alpha, self.beta_1, self.beta_2, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, alpha, beta_1, beta_2, b = constants
        (h,) = state
        factor, added = alpha * x + beta_1, biased(beta_2 * x, b)
        h = (factor * linear(h, U) + added).tanh()
        return h, (h,)
