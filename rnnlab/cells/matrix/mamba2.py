"""Mamba-2: state-space model whose decay is one number per head."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu, softplus

from rnnlab.cells.matrix.base import (
    MatrixCell,
    decay_parameters,
    head_size,
    joined,
    outer,
    read,
    rms_norm,
    stacked_weights,
)
from rnnlab.trees import State


class Mamba2(MatrixCell):
    """Mamba-2, state-space duality SSD (Dao and Gu, 2024, arXiv:2405.21060).

    Equation 2 with one decay per head, section 2.4, and the block's parameters of section 7. All heads share B and C;
    x' is the part of a head:

        x'_t = silu(W_x x_t),  B_t = silu(W_B x_t),  C_t = silu(W_C x_t)
        Δ_t = softplus(W_Δ x_t + b_Δ)
        S_t = exp(-exp(log A) Δ_t) S_{t-1} + B_t (Δ_t x'_t)ᵀ
        y_t = S_tᵀ C_t + D x'_t
        h_t = g ⊙ y_t / sqrt(mean(y_t²) + 1e-5)                           norm=True; without it h_t = y_t

    Δ, A and D are numbers of a head; the mean is over all heads.

    Shapes: x [B, input_size]; S [B, heads, key_size, hidden_size / heads], where key_size is the paper's state size N;
    output h [B, hidden_size]. W stacks x', B, C, Δ; g [hidden_size].
    Differs from the paper: the convolution before silu, the gate silu(z) and the output projection are left to the
    block. There, the gate follows the norm; in the paper it precedes the norm. B and C form one group.

    Args:
        input_size: features of x.
        hidden_size: width of h, a multiple of ``heads``. The paper uses twice the width of the model.
        heads: number of memories; the paper uses heads of 64 features.
        key_size: N; None for hidden_size / heads.
        norm: whether the output is normalised.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, heads: int = 1, key_size: int | None = None, norm: bool = True
    ) -> None:
        keys = head_size(hidden_size, heads) if key_size is None else key_size
        super().__init__(input_size, hidden_size, heads, keys, norm=False)
        self.W = stacked_weights(input_size, hidden_size, keys, keys, heads)
        self.log_A, self.b = decay_parameters(heads, slowest=1)
        self.D = nn.Parameter(torch.ones(heads))
        self.gain = nn.Parameter(torch.ones(hidden_size)) if norm else None

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, ...]]:  # noqa: D102
        sizes = [self.hidden_size, self.key_size, self.key_size, self.heads]
        x, B, C, delta = linear(inputs, self.W).split(sizes, dim=-1)
        constants = (-self.log_A.exp(), self.b, self.D.unsqueeze(-1), self.gain)
        return constants, (self.by_head(x), B.unsqueeze(-2), C.unsqueeze(-2), delta)

    def activate(self, constants: tuple, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: D102
        rate, b, D, _ = constants
        x, B, C, delta = inputs
        x, delta = silu(x), softplus(delta + b)
        kept = (rate * delta).exp()[..., None, None]  # [..., heads, 1, 1]
        return kept, silu(B), delta.unsqueeze(-1) * x, silu(C), D * x

    def step(self, constants: tuple, inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:  # noqa: D102
        _, _, _, gain = constants
        kept, B, x, C, skip = inputs
        (S,) = state
        S = kept * S + outer(B, x)
        return rms_norm(joined(read(S, C) + skip), gain), (S,)
