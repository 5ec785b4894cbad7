"""mLSTM: cell of xLSTM with a matrix memory that is accessed by key and query."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, logsigmoid

from rnnlab.cells.base import Cell, bias_vector, check_choice, half_range, input_weights, scale_of
from rnnlab.interface import InputError
from rnnlab.trees import State


class MLSTM(Cell):
    """mLSTM, the matrix memory of xLSTM (Beck et al., 2024, arXiv:2405.04517).

    Equations 19 to 27. The matrix C stores values by keys; a query reads it:

        i_t = exp(ĩ_t),  ĩ_t = w_i x_t + b_i
        f_t = σ(f̃_t),  f̃_t = w_f x_t + b_f                     forget_gate="sigmoid"; exp in place of σ with "exp"
        q_t = W_q x_t + b_q
        k_t = (W_k x_t + b_k) / sqrt(d),  d the width of a head
        v_t = W_v x_t + b_v
        o_t = σ(W_o x_t + b_o)
        C_t = f_t C_{t-1} + i_t v_t k_tᵀ
        n_t = f_t n_{t-1} + i_t k_t
        h_t = o_t ⊙ C_t q_t / max(|n_tᵀ q_t|, 1)

    These equations hold for each head; its gates i and f are scalars. To avoid overflow of the exponential, the state
    holds C' = C / exp(m) and n' = n / exp(m), equations 15 to 17, which leaves h unchanged:

        m_t = max(log f_t + m_{t-1}, ĩ_t)
        f'_t = exp(log f_t + m_{t-1} - m_t)
        i'_t = exp(ĩ_t - m_t)
        h_t = o_t ⊙ C'_t q_t / max(|n'_tᵀ q_t|, exp(-m_t))

    The step adds (f' - 1) C' to C', which is the same and more accurate if f' is near 1.
    exp(-m_t) is clamped to the range of the dtype (e±87 in float32), which changes h only below 1e-37. If nᵀ q is far
    below |n| |q|, both numerator and denominator of h suffer from cancellation.

    C depends linearly on its previous value, but [C', n', m] does not, because of the max; the backend `scan` is
    therefore not available. On a CPU the step is compiled to C, head by head.

    Shapes: x [B, input_size]; C' [B, heads, d, d], n' [B, heads, d], m [B, heads]; output h [B, hidden_size]. W and b
    stack q, k, v, o; W_gates and b_gates stack i, f, one row per head.
    Differs from the paper: only the cell, without the convolution, normalisation and projections of the block. W_gates
    is initialised to zero, b_i near 0 and b_f between 3 and 6, as in the authors' code.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        heads: number of memories; hidden_size must be a multiple of it.
        forget_gate: ``sigmoid`` or ``exp``.
        bias: whether the cell has biases.
    """

    states = ("C", "n", "m")
    gates = ("q", "k", "v", "o")
    verified = "official code"

    @classmethod
    def width_multiple(cls, *, heads: int = 1, **options: object) -> int:  # noqa: D102
        return heads

    def __init__(
        self, input_size: int, hidden_size: int, *, heads: int = 1, forget_gate: str = "sigmoid", bias: bool = True
    ) -> None:
        super().__init__(input_size, hidden_size)
        if heads < 1 or hidden_size % heads:
            raise InputError(f"heads={heads} must divide hidden_size={hidden_size}")
        self.heads = heads
        self.forget_gate = check_choice("forget_gate", forget_gate, ("sigmoid", "exp"))
        self.W = input_weights(4, hidden_size, input_size)
        self.b = bias_vector(4 * hidden_size, bias)
        self.W_gates = nn.Parameter(torch.zeros(2 * heads, input_size))
        self.b_gates = None
        if bias:
            self.b_gates = nn.Parameter(torch.cat([0.1 * torch.randn(heads), torch.linspace(3, 6, heads)]))

    def initial_state(self, batch_size: int) -> State:
        """Return an empty memory: C' and n' are zero, and m is 0."""
        size = self.hidden_size // self.heads
        shapes = ((size, size), (size,), ())
        return tuple(self.W.new_zeros(batch_size, self.heads, *shape) for shape in shapes)

    def prepare(self, inputs: Tensor) -> tuple[tuple[()], tuple[Tensor, ...]]:  # noqa: D102
        shape = (4, self.heads, self.hidden_size // self.heads)
        q, k, v, o = linear(inputs, self.W, self.b).unflatten(-1, shape).unbind(2)
        return (), (q, k, v, o, *linear(inputs, self.W_gates, self.b_gates).chunk(2, dim=-1))

    def step(self, constants: tuple[()], inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:  # noqa: D102
        q, k, v, o, log_i, f = inputs
        C, n, m = state
        log_f = logsigmoid(f) if self.forget_gate == "sigmoid" else f
        kept, half = scale_of(log_f + m, log_i, n.abs().sum(-1) == 0), half_range(m.dtype)
        m_new = torch.maximum(kept, log_i)
        # f' - 1, as the error of rounding f' near 1 would be multiplied by the number of steps that C remembers.
        # m - m_new is nearly exact, so that the rounding of m cancels. The clamp acts on an empty memory only.
        lost = (log_f + (m - m_new)).clamp(max=1.0).expm1().unsqueeze(-1)  # [B, heads, 1]
        i = ((log_i - m_new).exp() / k.shape[-1] ** 0.5).unsqueeze(-1)  # k is not yet divided by sqrt(d)
        C = C + (lost.unsqueeze(-1) * C + (i * v).unsqueeze(-1) * k.unsqueeze(-2))
        n = n + (lost * n + i * k)
        read = (C * q.unsqueeze(-2)).sum(-1)  # [B, heads, d]
        scale = torch.maximum((n * q).sum(-1).abs(), (-m_new).clamp(-2 * half, 2 * half).exp())  # above 0, finite
        h = o.flatten(1).sigmoid() * (read / scale.unsqueeze(-1)).flatten(1)
        return h, (C, n, m_new)
