"""Mogrifier LSTM: input and state gate each other several times before the step."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class Mogrifier(Cell):
    """Mogrifier LSTM (Melis, Kočiský and Blunsom, 2020, arXiv:1909.01792).

    With x^{-1} = x_t and h^0 = h_{t-1}, for i = 1 … rounds:

        x^i = 2σ(Q^i h^{i-1} + b^i) ⊙ x^{i-2}    for odd i
        h^i = 2σ(Q^i x^{i-1} + b^i) ⊙ h^{i-2}    for even i

    The last of these, x and h, are the inputs of an LSTM:

        i, f, g, o = W x + U h + b
        c_t = σ(f) ⊙ c_{t-1} + σ(i) ⊙ tanh(g)
        h_t = σ(o) ⊙ tanh(c_t)

    With rounds=0 it is the LSTM. Each Q^i may have low rank: Q^i = Q_left Q_right. As x depends on h, the input
    projection cannot be computed for all steps at once.

    Shapes: x [B, input_size]; h, c [B, hidden_size]; output h. Q^i [input_size, hidden_size] for odd i,
    [hidden_size, input_size] for even i; b_Q concatenates the b^i; W, U, b hold the gates in the order i, f, g, o.
    Differs from the paper: its R^i is Q^i for even i. The b^i follow the authors' code, which has an additional option
    to keep σ(i) below 1 - σ(f).

    Args:
        input_size: features of x.
        hidden_size: width of h and c.
        rounds: number of gating rounds.
        rank: rank of the Q^i; None for full matrices.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("h", "c")
    gates = ("i", "f", "g", "o")
    remembers = {"f": 1, "i": -1}
    verified = "official code"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rounds: int = 5,
        rank: int | None = None,
        bias: bool = True,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        if rounds < 0:
            raise InputError(f"rounds={rounds} must be at least 0")
        if rank is not None and rank < 1:
            raise InputError(f"rank={rank} must be at least 1, or null for full matrices")
        self.rounds, self.rank = rounds, rank
        shapes = [(hidden_size, input_size) if i % 2 else (input_size, hidden_size) for i in range(rounds)]
        if rank is None:
            self.Q = nn.ParameterList(input_weights(1, rows, columns) for rows, columns in shapes)
        else:
            self.Q_left = nn.ParameterList(input_weights(1, rows, rank) for rows, _ in shapes)
            self.Q_right = nn.ParameterList(input_weights(1, rank, columns) for _, columns in shapes)
        self.b_Q = bias_vector(sum(rows for rows, _ in shapes), bias and rounds > 0)
        self.W = input_weights(4, hidden_size, input_size)
        self.U = recurrent_weights(4, hidden_size, recurrent_init)
        self.b = bias_vector(4 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[Any, Tensor]:  # noqa: D102
        factors = [(Q,) for Q in self.Q] if self.rank is None else list(zip(self.Q_right, self.Q_left, strict=True))
        sizes = [weights[-1].shape[0] for weights in factors]
        b_Q = inputs.new_zeros(sum(sizes)) if self.b_Q is None else self.b_Q
        b = inputs.new_zeros(4 * self.hidden_size) if self.b is None else self.b
        rounds = tuple((*weights, added) for weights, added in zip(factors, b_Q.split(sizes), strict=True))
        return (rounds, self.W, self.U, b), inputs

    def step(self, constants: Any, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        rounds, W, U, b = constants
        h, c = state
        for number, (*weights, added) in enumerate(rounds):
            a = x if number % 2 else h
            for weight in weights:
                a = linear(a, weight)
            scale = 2 * (a + added).sigmoid()
            if number % 2:
                h = scale * h
            else:
                x = scale * x
        i, f, g, o = (linear(x, W) + linear(h, U) + b).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, (h, c)
