"""Gated DeltaNet: a matrix memory that decays and replaces the value of a key."""

from torch import Tensor
from torch.nn.functional import linear, silu

from rnnlab.cells.matrix.base import (
    MatrixCell,
    decay,
    decay_parameters,
    head_size,
    joined,
    outer,
    read,
    rms_norm,
    stacked_weights,
    unit,
)
from rnnlab.trees import State


class GatedDeltaNet(MatrixCell):
    """Gated DeltaNet (Yang, Kautz and Hatamizadeh, 2024, arXiv:2412.06464).

    The gated delta rule, equation 10, with q, k and v of section 3.4 and the decay of Mamba-2, for each head:

        q_t = unit(silu(W_q x_t)),  k_t = unit(silu(W_k x_t)),  v_t = silu(W_v x_t)
        α_t = exp(-exp(log A) softplus(w_α x_t + b))
        β_t = σ(w_β x_t)
        S_t = α_t S_{t-1} + β_t k_t (v_t - α_t S_{t-1}ᵀ k_t)ᵀ
        y_t = S_tᵀ q_t
        h_t = g ⊙ y_t / sqrt(mean(y_t²) + 1e-5)                           norm=True; without it h_t = y_t

    unit(a) = a / sqrt(|a|² + 1e-6). With ``negative_eigenvalues`` (Grazzi et al., 2025, arXiv:2411.12537),
    β = 2 σ(w_β x), and the eigenvalue of the transition matrix along k is between -1 and 1.

    Shapes: x [B, input_size]; S [B, heads, key_size, hidden_size / heads]; output h [B, hidden_size]. W stacks q, k, v,
    α, β; log_A, b [heads]; g [hidden_size / heads].
    Differs from the paper: 1e-6 in `unit` is from flash-linear-attention, which also divides q by sqrt(key_size). The
    short convolutions before silu, the swish gate and the output projection are left to the block.

    Args:
        input_size: features of x.
        hidden_size: width of h, a multiple of ``heads``.
        heads: number of memories.
        key_size: size of a key of one head; None for half of hidden_size / heads, as in flash-linear-attention.
        negative_eigenvalues: whether β is between 0 and 2 instead of 0 and 1.
        norm: whether the output of each head is normalised.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        heads: int = 1,
        key_size: int | None = None,
        negative_eigenvalues: bool = False,
        norm: bool = True,
    ) -> None:
        keys = head_size(hidden_size, heads, 2) if key_size is None else key_size
        super().__init__(input_size, hidden_size, heads, keys, norm)
        self.largest_beta = 2.0 if negative_eigenvalues else 1.0
        self.W = stacked_weights(input_size, heads * keys, heads * keys, hidden_size, heads, heads)
        self.log_A, self.b = decay_parameters(heads, slowest=0)

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, ...]]:  # noqa: D102
        keys = self.heads * self.key_size
        sizes = [keys, keys, self.hidden_size, self.heads, self.heads]
        q, k, v, alpha, beta = linear(inputs, self.W).split(sizes, dim=-1)
        return (-self.log_A.exp(), self.b, self.gain), (*map(self.by_head, (q, k, v)), alpha, beta)

    def activate(self, constants: tuple, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: D102
        rate, b, _ = constants
        q, k, v, alpha, beta = inputs
        alpha = decay(alpha, rate, b)[..., None, None]  # [..., heads, 1, 1]
        return unit(silu(q)), unit(silu(k)), silu(v), alpha, self.largest_beta * beta.sigmoid().unsqueeze(-1)

    def step(self, constants: tuple, inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:  # noqa: D102
        _, _, gain = constants
        q, k, v, alpha, beta = inputs
        (S,) = state
        S = alpha * S
        S = S + outer(k, beta * (v - read(S, k)))
        return joined(rms_norm(read(S, q), gain)), (S,)
