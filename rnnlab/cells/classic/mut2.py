"""MUT2: GRU variant with a reset gate that reads the input without weights."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, biased, input_weights, recurrent_weights
from rnnlab.trees import State


class MUT2(Cell):
    """MUT2, found by search (Jozefowicz, Zaremba and Sutskever, 2015, PMLR 37:2342-2350).

        z_t = σ(W_z x_t + U_z h_{t-1} + b_z)
        r_t = σ(x_t + U_r h_{t-1} + b_r)
        h_t = tanh(U_n (r_t ⊙ h_{t-1}) + W_n x_t + b_n) ⊙ z_t + h_{t-1} ⊙ (1 - z_t)

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W holds z, n; U and b hold z, r, n.
    Differs from the paper: if x and h have different widths, P x replaces x in r_t.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    gates = ("z", "r", "n")
    remembers = {"z": -1}
    verified = "torchrecurrent 0.2.5"

    def __init__(
        self, input_size: int, hidden_size: int, *, bias: bool = True, recurrent_init: str = "orthogonal"
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(2, hidden_size, input_size)
        self.P = input_weights(1, hidden_size, input_size) if input_size != hidden_size else None
        self.U = recurrent_weights(3, hidden_size, recurrent_init)
        self.b = bias_vector(3 * hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, Tensor]]:  # noqa: D102
        U, r = (
            self.U.split([2 * self.hidden_size, self.hidden_size]),
            inputs if self.P is None else linear(inputs, self.P),
        )
        return (*U, self.b), (linear(inputs, self.W), r)

    def step(  # noqa: D102
        self, constants: tuple, inputs: tuple[Tensor, Tensor], state: State
    ) -> tuple[Tensor, State]:
        U_zr, U_n, b = constants
        (h,) = state
        zn, r = inputs
        z, n = zn.chunk(2, dim=-1)
        z, r, n = biased(torch.cat([z, r, n], dim=-1), b).chunk(3, dim=-1)
        u_z, u_r = linear(h, U_zr).chunk(2, dim=-1)
        z, r = (z + u_z).sigmoid(), (r + u_r).sigmoid()
        h = (n + linear(r * h, U_n)).tanh() * z + h * (1 - z)
        return h, (h,)
