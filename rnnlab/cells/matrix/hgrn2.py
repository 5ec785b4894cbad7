"""HGRN2: gated linear recurrence whose state is expanded by an outer product."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from rnnlab.cells.matrix.base import MatrixCell, head_size, joined, outer, read, rms_norm, stacked_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class HGRN2(MatrixCell):
    """HGRN2 (Qin et al., 2024, arXiv:2404.07904).

    The forget gate f decays the rows of the state, and 1 - f is the key:

        q_t = silu(W_q x_t)
        f_t = γ + (1 - γ) ⊙ σ(W_f x_t)
        v_t = W_v x_t
        S_t = diag(f_t) S_{t-1} + (1 - f_t) v_tᵀ
        y_t = S_tᵀ q_t
        h_t = g ⊙ y_t / sqrt(mean(y_t²) + 1e-5)                           norm=True; without it h_t = y_t

    The state has heads, each with its own rows and columns; the mean is over all of them.

    Shapes: x [B, input_size]; S [B, heads, key_size, hidden_size / heads]; output h [B, hidden_size]. W stacks q, f, v;
    g [hidden_size].
    Differs from the paper: γ is a fixed number, ``lower_bound``, as in the cell `hgrn`; the paper learns it for each
    layer, increasing with depth. The names are those of attention; the paper calls q the output gate o and v the input
    i. The activations and the root mean square follow flash-linear-attention; the authors' hgru2-pytorch has σ for q,
    silu for v, and layer norm. The output projection is left to the block.

    Args:
        input_size: features of x.
        hidden_size: width of h, a multiple of ``heads``.
        heads: number of memories.
        key_size: rows of the state of one head, the paper's expansion ratio; None for hidden_size / heads.
        lower_bound: γ, lower bound of the forget gate, from 0 to below 1.
        norm: whether the output is normalised.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        heads: int = 1,
        key_size: int | None = None,
        lower_bound: float = 0.0,
        norm: bool = True,
    ) -> None:
        keys = head_size(hidden_size, heads) if key_size is None else key_size
        super().__init__(input_size, hidden_size, heads, keys, norm=False)
        if not 0 <= lower_bound < 1:
            raise InputError(f"lower_bound={lower_bound} must be at least 0 and below 1")
        self.lower_bound = lower_bound
        self.W = stacked_weights(input_size, heads * keys, heads * keys, hidden_size)
        self.gain = nn.Parameter(torch.ones(hidden_size)) if norm else None

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, ...]]:  # noqa: D102
        keys = self.heads * self.key_size
        q, f, v = map(self.by_head, linear(inputs, self.W).split([keys, keys, self.hidden_size], dim=-1))
        return (self.gain,), (q, f, v)

    def activate(self, constants: tuple, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: D102
        q, f, v = inputs
        k = (1 - self.lower_bound) * (-f).sigmoid()  # 1 - f; the difference would round to 0 for f near 1
        f = self.lower_bound + (1 - self.lower_bound) * f.sigmoid()
        return silu(q), f, k, v

    def step(self, constants: tuple, inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:  # noqa: D102
        (gain,) = constants
        q, f, k, v = inputs
        (S,) = state
        S = f.unsqueeze(-1) * S + outer(k, v)
        return rms_norm(joined(read(S, q)), gain), (S,)
