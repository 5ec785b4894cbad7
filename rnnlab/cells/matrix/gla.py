"""GLA: linear attention with a forget gate for every key feature."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, logsigmoid

from rnnlab.cells.base import input_weights
from rnnlab.cells.matrix.base import MatrixCell, head_size, joined, outer, read, rms_norm, stacked_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class GLA(MatrixCell):
    """Gated linear attention (Yang et al., 2023, arXiv:2312.06635).

    Equation 3 with the gate of section 4.4, for each head:

        q_t = W_q x_t,  k_t = W_k x_t,  v_t = W_v x_t
        α_t = σ(W_2 W_1 x_t + b)^(1/τ)
        S_t = diag(α_t) S_{t-1} + k_t v_tᵀ
        y_t = S_tᵀ q_t
        h_t = g ⊙ y_t / sqrt(mean(y_t²) + 1e-5)                           norm=True; without it h_t = y_t

    Shapes: x [B, input_size]; S [B, heads, key_size, hidden_size / heads]; output h [B, hidden_size]. W stacks q, k, v;
    W_1 [gate_rank, input_size]; g [hidden_size / heads].
    Differs from the paper: the heads are normalised by their root mean square, as in flash-linear-attention, and not by
    layer norm; that code also divides q by sqrt(key_size). The swish gate and the output projection are left to the
    block.

    Args:
        input_size: features of x.
        hidden_size: width of h, a multiple of ``heads``.
        heads: number of memories.
        key_size: size of a key of one head; None for half of hidden_size / heads, as in the paper.
        gate_rank: rank of the gate's weights.
        tau: τ; large values keep the gate close to 1.
        norm: whether the output of each head is normalised.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        heads: int = 1,
        key_size: int | None = None,
        gate_rank: int = 16,
        tau: float = 16.0,
        norm: bool = True,
    ) -> None:
        keys = head_size(hidden_size, heads, 2) if key_size is None else key_size
        super().__init__(input_size, hidden_size, heads, keys, norm)
        if gate_rank < 1:
            raise InputError(f"gate_rank={gate_rank} must be at least 1")
        if tau <= 0:
            raise InputError(f"tau={tau} must be above 0")
        self.tau = tau
        self.W = stacked_weights(input_size, heads * keys, heads * keys, hidden_size)
        self.W_1 = input_weights(1, gate_rank, input_size)
        self.W_2 = input_weights(1, heads * keys, gate_rank)
        self.b = nn.Parameter(torch.zeros(heads * keys))

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, ...]]:  # noqa: D102
        keys = self.heads * self.key_size
        q, k, v = map(self.by_head, linear(inputs, self.W).split([keys, keys, self.hidden_size], dim=-1))
        gate = linear(linear(inputs, self.W_1), self.W_2, self.b)
        return (self.gain,), (q, k, v, self.by_head(gate))

    def activate(self, constants: tuple, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: D102
        q, k, v, gate = inputs
        return q, k, v, (logsigmoid(gate) / self.tau).exp()

    def step(self, constants: tuple, inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:  # noqa: D102
        (gain,) = constants
        q, k, v, alpha = inputs
        (S,) = state
        S = alpha.unsqueeze(-1) * S + outer(k, v)
        return joined(rms_norm(read(S, q), gain)), (S,)
