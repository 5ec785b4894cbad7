"""Structurally constrained network: hidden units and slow linear context units."""

from torch import Tensor, cat
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class SCRN(Cell):
    """Structurally constrained recurrent network (Mikolov et al., 2014, arXiv:1412.7753).

        s_t = (1 - α) B x_t + α s_{t-1}                    (3)
        h_t = σ(P s_t + W x_t + U h_{t-1} + b)             (4)

    Shapes: x [B, input_size]; h [B, hidden_size]; s [B, context_size]; the output is h and s,
    [B, hidden_size + context_size], as equation 5 reads both.
    Differs from the paper: h has a bias; ``bias=False`` removes it.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        context_size: width of s; None for two fifths of ``hidden_size``, such as 40 for 100.
        alpha: α, fraction of s that each step keeps.
        bias: whether the cell has a bias b.
        recurrent_init: initialisation of U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("h", "s")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        context_size: int | None = None,
        alpha: float = 0.95,
        bias: bool = True,
        recurrent_init: str = "orthogonal",
    ) -> None:
        self.context_size = max(1, 2 * hidden_size // 5) if context_size is None else context_size
        if self.context_size < 1:
            raise InputError(f"context_size={context_size} must be at least 1, or null")
        if not 0 <= alpha < 1:
            raise InputError(f"alpha={alpha} must be at least 0 and below 1")
        super().__init__(input_size, hidden_size, output_size=hidden_size + self.context_size)
        self.alpha = alpha
        self.B = input_weights(1, self.context_size, input_size)
        self.P = input_weights(1, hidden_size, self.context_size)
        self.W = input_weights(1, hidden_size, input_size)
        self.U = recurrent_weights(1, hidden_size, recurrent_init)
        self.b = bias_vector(hidden_size, bias)

    def initial_state(self, batch_size: int) -> State:
        """Return zeros ``[B, hidden_size]`` and ``[B, context_size]``."""
        return tuple(self.W.new_zeros(batch_size, width) for width in (self.hidden_size, self.context_size))

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:  # noqa: D102
        return (self.P, self.U), (linear(inputs, self.W, self.b), (1 - self.alpha) * linear(inputs, self.B))

    def step(  # noqa: D102
        self, constants: tuple[Tensor, ...], inputs: tuple[Tensor, ...], state: State
    ) -> tuple[Tensor, State]:
        P, U = constants
        x, fresh = inputs
        h, s = state
        s = fresh + self.alpha * s
        h = (x + linear(s, P) + linear(h, U)).sigmoid()
        return cat([h, s], dim=-1), (h, s)
