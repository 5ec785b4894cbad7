"""DeltaNet: a matrix memory that replaces the value of a key."""

from torch import Tensor
from torch.nn.functional import linear, silu

from rnnlab.cells.matrix.base import MatrixCell, head_size, joined, outer, read, rms_norm, stacked_weights, unit
from rnnlab.trees import State


class DeltaNet(MatrixCell):
    """DeltaNet (Yang et al., 2024, arXiv:2406.06484).

    The delta rule of section 2.2 (Schlag, Irie and Schmidhuber, 2021, arXiv:2102.11174) with the keys of section 3.3,
    for each head:

        q_t = unit(silu(W_q x_t)),  k_t = unit(silu(W_k x_t)),  v_t = silu(W_v x_t)
        β_t = σ(w_β x_t)
        S_t = S_{t-1} + β_t k_t (v_t - S_{t-1}ᵀ k_t)ᵀ
        y_t = S_tᵀ q_t
        h_t = g ⊙ y_t / sqrt(mean(y_t²) + 1e-5)                           norm=True; without it h_t = y_t

    unit(a) = a / sqrt(|a|² + 1e-6). The transition matrix I - β k kᵀ has the eigenvalue 1 - β |k|² along k, between 0
    and 1. With ``negative_eigenvalues`` (Grazzi et al., 2025, arXiv:2411.12537), β = 2 σ(w_β x) and the eigenvalue is
    between -1 and 1.

    Shapes: x [B, input_size]; S [B, heads, key_size, hidden_size / heads]; output h [B, hidden_size]. W stacks q, k, v,
    β; g [hidden_size / heads].
    Differs from the paper: silu in v and 1e-6 in `unit` are from flash-linear-attention, the authors' code, which also
    divides q by sqrt(key_size). The short convolutions before silu and the output projection are left to the block.

    Args:
        input_size: features of x.
        hidden_size: width of h, a multiple of ``heads``.
        heads: number of memories.
        key_size: size of a key of one head; None for hidden_size / heads.
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
        keys = head_size(hidden_size, heads) if key_size is None else key_size
        super().__init__(input_size, hidden_size, heads, keys, norm)
        self.largest_beta = 2.0 if negative_eigenvalues else 1.0
        self.W = stacked_weights(input_size, heads * keys, heads * keys, hidden_size, heads)

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, ...]]:  # noqa: D102
        keys = self.heads * self.key_size
        q, k, v, beta = linear(inputs, self.W).split([keys, keys, self.hidden_size, self.heads], dim=-1)
        return (self.gain,), (*map(self.by_head, (q, k, v)), beta)

    def activate(self, constants: tuple, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: D102
        q, k, v, beta = inputs
        return unit(silu(q)), unit(silu(k)), silu(v), self.largest_beta * beta.sigmoid().unsqueeze(-1)

    def step(self, constants: tuple, inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:  # noqa: D102
        (gain,) = constants
        q, k, v, beta = inputs
        (S,) = state
        S = S + outer(k, beta * (v - read(S, k)))
        return joined(rms_norm(read(S, q), gain)), (S,)
