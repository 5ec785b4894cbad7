"""Vanilla recurrent network: h = tanh(W x + U h + b)."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, Native, bias_vector, check_choice, input_weights, recurrent_weights
from rnnlab.trees import State


class RNN(Cell):
    """Vanilla recurrent network (Elman, 1990, doi:10.1207/s15516709cog1402_1).

        h_t = tanh(W x_t + U h_{t-1} + b)

    W is often called W_xh, and U W_hh. The readout y_t = W_hy h_t belongs to the sequence model. With
    ``activation="relu"`` and ``recurrent_init="identity"`` the cell is the IRNN (Le, Jaitly and Hinton, 2015,
    arXiv:1504.00941).

    Shapes: x [B, input_size]; h [B, hidden_size]; output h.
    Differs from the paper: nothing.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        activation: ``tanh`` or ``relu``.
        bias: whether the cell has a bias b.
        recurrent_init: initialisation of U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    verified = "torch.nn, ONNX"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        activation: str = "tanh",
        bias: bool = True,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.activation = check_choice("activation", activation, ("tanh", "relu"))
        self.W = input_weights(1, hidden_size, input_size)
        self.U = recurrent_weights(1, hidden_size, recurrent_init)
        self.b = bias_vector(hidden_size, bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        (h,) = state
        a = x + linear(h, U, b)
        h = a.tanh() if self.activation == "tanh" else a.relu()
        return h, (h,)

    def native(self) -> Native:
        """Return the weights for ``torch.nn.RNN``, with zeros as its second bias."""
        biases = () if self.b is None else (self.b, torch.zeros_like(self.b))
        return Native(f"RNN_{self.activation.upper()}", (self.W, self.U, *biases))

    @torch.no_grad()
    def load_native(self, weights: tuple[Tensor, ...]) -> None:
        """Copy weights from ``torch.nn.RNN``, whose two biases are summed."""
        self.W.copy_(weights[0])
        self.U.copy_(weights[1])
        if self.b is not None:
            self.b.copy_(weights[2] + weights[3])
