"""Gated recurrent unit; the reset gate is applied after or before the recurrent product."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, Native, bias_vector, biased, check_choice, input_weights, recurrent_weights
from rnnlab.trees import State


class GRU(Cell):
    """Gated recurrent unit (Cho et al., 2014, arXiv:1406.1078).

        r_t = σ(W_r x_t + U_r h_{t-1} + b_r)
        z_t = σ(W_z x_t + U_z h_{t-1} + b_z)
        n_t = tanh(W_n x_t + r_t ⊙ (U_n h_{t-1} + b_u) + b_n)     reset="after"
        n_t = tanh(W_n x_t + U_n (r_t ⊙ h_{t-1}) + b_n)           reset="before"
        h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}

    ``before`` applies the reset gate before the matrix product, as in the paper. ``after`` applies it after the
    product, as cuDNN and ``torch.nn.GRU`` do; it needs one matrix product per step instead of two.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W, U, b hold the gates in the order r, z, n.
    Differs from the paper: it has biases; the default is ``after``.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        reset: whether the reset gate is applied ``after`` or ``before`` the recurrent product of the candidate.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    gates = ("r", "z", "n")
    remembers = {"z": 1}
    verified = "torch.nn, ONNX"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        reset: str = "after",
        bias: bool = True,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.reset = check_choice("reset", reset, ("after", "before"))
        self.W = input_weights(3, hidden_size, input_size)
        self.U = recurrent_weights(3, hidden_size, recurrent_init)
        self.b = bias_vector(3 * hidden_size, bias)
        self.b_u = bias_vector(hidden_size, bias and reset == "after")

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        U = self.U if self.reset == "after" else self.U.split([2 * self.hidden_size, self.hidden_size])
        return (U, self.b, self.b_u), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b, b_u = constants
        (h,) = state
        x_r, x_z, x_n = biased(x, b).chunk(3, dim=-1)
        if self.reset == "after":
            u_r, u_z, u_n = linear(h, U).chunk(3, dim=-1)
            r, z = (x_r + u_r).sigmoid(), (x_z + u_z).sigmoid()
            n = (x_n + r * biased(u_n, b_u)).tanh()
        else:
            U_rz, U_n = U
            u_r, u_z = linear(h, U_rz).chunk(2, dim=-1)
            r, z = (x_r + u_r).sigmoid(), (x_z + u_z).sigmoid()
            n = (x_n + linear(r * h, U_n)).tanh()
        h = (1 - z) * n + z * h
        return h, (h,)

    def native(self) -> Native | None:
        """Return the weights for ``torch.nn.GRU`` if ``reset="after"``, with zeros as its second bias of r and z."""
        if self.reset == "before":
            return None
        if self.b is None:
            return Native("GRU", (self.W, self.U))
        bias_hh = torch.cat([self.b.new_zeros(2 * self.hidden_size), self.b_u])
        return Native("GRU", (self.W, self.U, self.b, bias_hh))

    @torch.no_grad()
    def load_native(self, weights: tuple[Tensor, ...]) -> None:
        """Copy weights from ``torch.nn.GRU``. The two biases of r and z are summed; those of n stay separate."""
        if self.reset == "before":
            super().load_native(weights)
        self.W.copy_(weights[0])
        self.U.copy_(weights[1])
        if self.b is not None:
            rz = slice(0, 2 * self.hidden_size)
            self.b.copy_(weights[2])
            self.b[rz] += weights[3][rz]
            self.b_u.copy_(weights[3][2 * self.hidden_size :])
