"""The independently recurrent network."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from rnnlab.cells.base import Cell, bias_vector, biased, check_choice, input_weights
from rnnlab.interface import State


class IndRNN(Cell):
    """Independently recurrent neural network, IndRNN (Li et al., 2018, arXiv:1803.04831).

    A unit sees of the state only itself; layers on top mix the units.

        h_t = φ(W x_t + u ⊙ h_{t-1} + b)          norm="none"
        h_t = φ(LN(W x_t) + u ⊙ h_{t-1} + b)      norm="layer"

    φ is the ReLU or tanh; LN subtracts the mean of the features, divides by their deviation and has gains g.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. u has one weight for each unit.
    Differs from the paper: where that has batch norm, ``layer`` has layer norm, which keeps the sequences of a batch
    apart. Nothing clips u; the paper keeps |u| below 2^(1/T), for sequences of T steps. u begins uniform from 0 to 1,
    as in the authors' code.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        activation: ``relu`` or ``tanh``.
        norm: of W x_t, ``none`` or ``layer``.
        bias: whether there is a bias b.
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
