"""IndRNN: elementwise recurrence with a weight vector."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from rnnlab.cells.base import Cell, bias_vector, biased, check_choice, input_weights
from rnnlab.trees import State


class IndRNN(Cell):
    """Independently recurrent neural network, IndRNN (Li et al., 2018, arXiv:1803.04831).

    The recurrence is elementwise; the input weights of the next layer mix the units.

        h_t = φ(W x_t + u ⊙ h_{t-1} + b)          norm="none"
        h_t = φ(LN(W x_t) + u ⊙ h_{t-1} + b)      norm="layer"

    φ is the ReLU or tanh. LN is layer normalisation with gains g and without shift.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. u has one weight for each unit.
    Differs from the paper: ``norm="layer"`` is layer normalisation instead of batch normalisation, so that the
    sequences of a batch stay independent. u is not clipped; the paper keeps |u| below 2^(1/T) for sequences of T steps.
    u is initialised uniform in [0, 1], as in the authors' code.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        activation: ``relu`` or ``tanh``.
        norm: normalisation of W x_t, ``none`` or ``layer``.
        bias: whether the cell has a bias b.
    """

    verified = "torchrecurrent 0.2.5"

    def __init__(
        self, input_size: int, hidden_size: int, *, activation: str = "relu", norm: str = "none", bias: bool = True
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.activation = check_choice("activation", activation, ("relu", "tanh"))
        self.norm = check_choice("norm", norm, ("none", "layer"))
        self.W = input_weights(1, hidden_size, input_size)
        self.u = nn.Parameter(torch.rand(hidden_size))
        self.b = bias_vector(hidden_size, bias)
        self.g = nn.Parameter(torch.ones(hidden_size)) if norm == "layer" else None

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.u, self.g, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        u, g, b = constants
        (h,) = state
        a = (biased(x, b) if g is None else layer_norm(x, g.shape, g, b)) + u * h
        h = a.relu() if self.activation == "relu" else a.tanh()
        return h, (h,)
