"""LSTM with a recurrent projection layer."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class LSTMP(Cell):
    """LSTM with a recurrent projection layer (Sak, Senior and Beaufays, 2014, arXiv:1402.1128).

        i, f, g, o = W x_t + U r_{t-1} + b                              (7, 8, 10)
        c_t = σ(f) ⊙ c_{t-1} + σ(i) ⊙ tanh(g)                           (9)
        r_t = P (σ(o) ⊙ tanh(c_t))                                      (11, 12)

    Shapes: x [B, input_size]; r [B, projection_size]; c [B, hidden_size]; output r. W, U, b hold i, f, g, o.
    Differs from the paper: no peepholes and no non-recurrent projection, as in torch.nn.

    Args:
        input_size: features of x.
        hidden_size: width of c.
        projection_size: width of r; None for half of ``hidden_size``.
        bias: whether the cell has biases.
    """

    states = ("r", "c")
    gates = ("i", "f", "g", "o")
    remembers = {"f": 1, "i": -1}
    verified = "torch.nn"

    def __init__(
        self, input_size: int, hidden_size: int, *, projection_size: int | None = None, bias: bool = True
    ) -> None:
        width = max(1, hidden_size // 2) if projection_size is None else projection_size
        if width < 1:
            raise InputError(f"projection_size={width} must be at least 1")
        super().__init__(input_size, hidden_size, output_size=width)
        self.W = input_weights(4, hidden_size, input_size)
        self.U = input_weights(4, hidden_size, width)
        self.P = input_weights(1, width, hidden_size)
        self.b = bias_vector(4 * hidden_size, bias)

    def initial_state(self, batch_size: int) -> State:
        """Return zeros ``[B, projection_size]`` and ``[B, hidden_size]``."""
        return tuple(self.W.new_zeros(batch_size, width) for width in (self.output_size, self.hidden_size))

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b, self.P), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b, P = constants
        r, c = state
        i, f, g, o = (x + linear(r, U, b)).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        r = linear(o.sigmoid() * c.tanh(), P)
        return r, (r, c)

    @torch.no_grad()
    def load_native(self, weights: tuple[Tensor, ...]) -> None:
        """Copy weights from ``torch.nn.LSTM`` with ``proj_size``, whose two biases are summed; the last are P."""
        W, U, *biases, P = weights
        for target, source in zip((self.W, self.U, self.P), (W, U, P), strict=True):
            target.copy_(source)
        if self.b is not None:
            self.b.copy_(biases[0] + biases[1])
