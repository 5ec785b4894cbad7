"""Long short-term memory with forget gate."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, Native, bias_vector, input_weights, recurrent_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class LSTM(Cell):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997, doi:10.1162/neco.1997.9.8.1735).

    It includes the forget gate of Gers, Schmidhuber and Cummins (2000, doi:10.1162/089976600300015015).

        i_t = σ(W_i x_t + U_i h_{t-1} + b_i)
        f_t = σ(W_f x_t + U_f h_{t-1} + b_f)
        g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)
        o_t = σ(W_o x_t + U_o h_{t-1} + b_o)
        c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t
        h_t = o_t ⊙ tanh(c_t)

    Shapes: x [B, input_size]; h, c [B, hidden_size]; output h. W, U, b hold the gates in the order i, f, g, o.
    Differs from the papers: no peepholes; one cell per memory block.

    Args:
        input_size: features of x.
        hidden_size: width of h and c.
        bias: whether the cell has biases.
        forget_bias: initial value of b_f. 1 helps with long delays (Jozefowicz, Zaremba and Sutskever, 2015); 0, as in
            ``torch.nn``, learns text faster. A value other than 0 needs ``bias=True``.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("h", "c")
    gates = ("i", "f", "g", "o")
    remembers = {"f": 1, "i": -1}
    verified = "torch.nn, ONNX"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        forget_bias: float = 0.0,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        if not bias and forget_bias != 0.0:
            raise InputError(f"forget_bias={forget_bias} needs bias=true")
        self.W = input_weights(4, hidden_size, input_size)
        self.U = recurrent_weights(4, hidden_size, recurrent_init)
        self.b = bias_vector(4 * hidden_size, bias)
        if self.b is not None:
            nn.init.constant_(self.b[hidden_size : 2 * hidden_size], forget_bias)

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        h, c = state
        i, f, g, o = (x + linear(h, U, b)).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, (h, c)

    def native(self) -> Native:
        """Return the weights for ``torch.nn.LSTM``, in the same order of gates, with zeros as its second bias."""
        biases = () if self.b is None else (self.b, torch.zeros_like(self.b))
        return Native("LSTM", (self.W, self.U, *biases))

    @torch.no_grad()
    def load_native(self, weights: tuple[Tensor, ...]) -> None:
        """Copy weights from ``torch.nn.LSTM``, whose two biases are summed."""
        self.W.copy_(weights[0])
        self.U.copy_(weights[1])
        if self.b is not None:
            self.b.copy_(weights[2] + weights[3])
