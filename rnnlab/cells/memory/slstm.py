"""sLSTM: cell of xLSTM with an exponential input gate and a normalised memory."""

import torch
from torch import Tensor
from torch.nn.functional import linear, logsigmoid

from rnnlab.cells.base import Cell, bias_vector, check_choice, input_weights, recurrent_weights, scale_of
from rnnlab.trees import State


class SLSTM(Cell):
    """sLSTM, the scalar memory of xLSTM (Beck et al., 2024, arXiv:2405.04517).

    An LSTM with an exponential input gate and a memory c that is normalised by n (equations 8 to 14):

        i_t = exp(ĩ_t),  ĩ_t = W_i x_t + U_i h_{t-1} + b_i
        f_t = σ(f̃_t),  f̃_t = W_f x_t + U_f h_{t-1} + b_f       forget_gate="sigmoid"; exp in place of σ with "exp"
        z_t = tanh(W_z x_t + U_z h_{t-1} + b_z)
        o_t = σ(W_o x_t + U_o h_{t-1} + b_o)
        c_t = f_t ⊙ c_{t-1} + i_t ⊙ z_t
        n_t = f_t ⊙ n_{t-1} + i_t
        h_t = o_t ⊙ c_t / n_t

    To avoid overflow of the exponential, the state holds c / exp(m) and n / exp(m), equations 15 to 17, which leaves h
    unchanged:

        m_t = max(log f_t + m_{t-1}, ĩ_t)
        f'_t = exp(log f_t + m_{t-1} - m_t)
        i'_t = exp(ĩ_t - m_t)

    Shapes: x [B, input_size]; h, c, n, m [B, hidden_size]; output h. W, U and b stack i, f, z, o.
    Differs from the paper: notation (its R is U). There is one head, so that all units are connected. With the sigmoid,
    b_f is initialised from 5 for the first unit to -7 for the last, as in the authors' code for one block. That code
    initialises U to zero.

    Args:
        input_size: features of x.
        hidden_size: width of h, c, n and m.
        forget_gate: ``sigmoid`` or ``exp``.
        bias: whether the cell has biases.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("h", "c", "n", "m")
    gates = ("i", "f", "z", "o")
    verified = "official code"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        forget_gate: str = "sigmoid",
        bias: bool = True,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.forget_gate = check_choice("forget_gate", forget_gate, ("sigmoid", "exp"))
        self.remembers = {"f": 1} if forget_gate == "sigmoid" else {}
        self.W = input_weights(4, hidden_size, input_size)
        self.U = recurrent_weights(4, hidden_size, recurrent_init)
        self.b = bias_vector(4 * hidden_size, bias)
        if self.b is not None and forget_gate == "sigmoid":
            with torch.no_grad():
                self.b[hidden_size : 2 * hidden_size] = 5 - 12 * torch.linspace(0, 1, hidden_size) ** 0.3

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return (self.U, self.b), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, b = constants
        h, c, n, m = state
        log_i, f, z, o = (x + linear(h, U, b)).chunk(4, dim=-1)
        log_f = logsigmoid(f) if self.forget_gate == "sigmoid" else f
        kept = scale_of(log_f + m, log_i, n == 0)  # avoids 0 / 0
        m_new = torch.maximum(kept, log_i)
        f, i = (kept - m_new).exp(), (log_i - m_new).exp()
        c = f * c + i * z.tanh()
        n = f * n + i
        h = o.sigmoid() * c / n
        return h, (h, c, n, m_new)
