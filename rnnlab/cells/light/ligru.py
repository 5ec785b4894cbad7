"""Li-GRU: GRU without reset gate, with ReLU and normalisation."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from rnnlab.cells.base import Cell, bias_vector, check_choice, input_weights, recurrent_weights
from rnnlab.trees import State


class LiGRU(Cell):
    """Light gated recurrent unit, Li-GRU (Ravanelli et al., 2018, arXiv:1803.10225).

    A GRU without reset gate, with a ReLU instead of the tanh, and with normalisation to keep the ReLU stable:

        z_t = σ(LN(W_z x_t) + U_z h_{t-1} + b_z)
        n_t = relu(LN(W_n x_t) + U_n h_{t-1} + b_n)
        h_t = z_t ⊙ h_{t-1} + (1 - z_t) ⊙ n_t

    LN is layer normalisation with gains g and without shift; ``norm="none"`` leaves it out.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W, U, b, g hold z, n in this order.
    Differs from the paper: layer normalisation instead of batch normalisation, so that the sequences of a batch stay
    independent and a step does not depend on later steps. Recurrent dropout is an option of the layer.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        norm: normalisation of W_z x_t and W_n x_t, ``layer`` or ``none``.
        bias: whether the cell has biases.
    """

    gates = ("z", "n")
    remembers = {"z": 1}
    verified = "torchrecurrent 0.2.5"

    def __init__(self, input_size: int, hidden_size: int, *, norm: str = "layer", bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        self.norm = check_choice("norm", norm, ("layer", "none"))
        self.W = input_weights(2, hidden_size, input_size)
        self.U = recurrent_weights(2, hidden_size)
        self.b = bias_vector(2 * hidden_size, bias)
        self.g = nn.Parameter(torch.ones(2 * hidden_size)) if norm == "layer" else None

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        gains = () if self.norm == "none" else self.g.chunk(2)
        return (self.U, self.b, gains), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b, gains = constants
        (h,) = state
        if gains:
            parts = zip(x.chunk(2, dim=-1), gains, strict=True)
            x = torch.cat([layer_norm(part, gain.shape, gain) for part, gain in parts], dim=-1)
        z, n = (x + linear(h, U, b)).chunk(2, dim=-1)
        z = z.sigmoid()
        h = z * h + (1 - z) * n.relu()
        return h, (h,)
