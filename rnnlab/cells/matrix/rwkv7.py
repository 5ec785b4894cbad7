"""RWKV-7: a matrix memory with a vector-valued decay and a generalised delta rule."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from rnnlab.cells.base import input_weights
from rnnlab.cells.matrix.base import MatrixCell, head_size, joined, outer, read, stacked_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class RWKV7(MatrixCell):
    """Time mixing of RWKV-7 (Peng et al., 2025, arXiv:2503.14456).

    Equations 4 to 7, 11 to 13, 15 to 17, 20 and 21, for each head:

        r_t = W_r x_t,  k'_t = W_k x_t,  v_t = W_v x_t
        w_t = exp(-e^(-1/2) σ(V_w tanh(U_w x_t) + b_w))                    decay
        a_t = σ(V_a U_a x_t + b_a)                                       in-context learning rate
        κ_t = k'_t ⊙ ξ,  κ̂_t = κ_t / |κ_t|                               removal key
        k_t = k'_t ⊙ (1 + (a_t - 1) ⊙ α)                                 replacement key
        S_t = diag(w_t) S_{t-1} - (a_t ⊙ κ̂_t) (S_{t-1}ᵀ κ̂_t)ᵀ + k_t v_tᵀ
        y_t = layer_norm(S_tᵀ r_t)
        h_t = y_t + (r_tᵀ (ρ ⊙ k_t)) v_t

    The layer norm is over the features of a head and has gain and bias. Without it (``norm=False``) y_t = S_tᵀ r_t.

    Shapes: x [B, input_size]; S [B, heads, key_size, hidden_size / heads]; output h [B, hidden_size]. W stacks r, k',
    v; U_w and U_a [rank, input_size]; xi, alpha, rho, b_w, b_a [heads * key_size]; gain, norm_bias [hidden_size].
    Differs from the paper: token shift, the gate g, the output projection, and the mixture of v with that of the first
    layer are left to the block. The paper has square heads and a larger rank for w and a in wider models. |κ_t| is at
    least 1e-6. The eps of the norm, 1e-5 times the size of a head, follows the authors' code. The initial values are
    similar to those of that code, which depend on the layer.

    Args:
        input_size: features of x.
        hidden_size: width of h, a multiple of ``heads``.
        heads: number of memories; the paper uses heads of 64 features.
        key_size: size of a key of one head; None for hidden_size / heads.
        rank: rank of the weights of w and a.
        norm: whether the output of each head is normalised.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        heads: int = 1,
        key_size: int | None = None,
        rank: int = 32,
        norm: bool = True,
    ) -> None:
        keys = head_size(hidden_size, heads) if key_size is None else key_size
        super().__init__(input_size, hidden_size, heads, keys, norm=False)
        if rank < 1:
            raise InputError(f"rank={rank} must be at least 1")
        width = heads * keys
        self.W = stacked_weights(input_size, width, width, hidden_size)
        # U = 0: at first, decay and learning rate do not depend on the input.
        self.U_w, self.U_a = (nn.Parameter(torch.zeros(rank, input_size)) for _ in range(2))
        self.V_w, self.V_a = (input_weights(1, width, rank) for _ in range(2))
        self.b_w = nn.Parameter(torch.linspace(-5.5, 0.5, width))
        self.b_a = nn.Parameter(torch.full((width,), -0.19))
        self.xi = nn.Parameter(torch.full((width,), 0.71))
        self.alpha = nn.Parameter(torch.full((width,), 1.02))
        self.rho = nn.Parameter(torch.full((width,), -0.04))
        self.gain = nn.Parameter(torch.ones(hidden_size)) if norm else None
        self.norm_bias = nn.Parameter(torch.zeros(hidden_size)) if norm else None

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, ...]]:  # noqa: D102
        width = self.heads * self.key_size
        r, k, v = linear(inputs, self.W).split([width, width, self.hidden_size], dim=-1)
        w = linear(linear(inputs, self.U_w).tanh(), self.V_w, self.b_w)
        a = linear(linear(inputs, self.U_a), self.V_a, self.b_a)
        constants = (self.xi, self.alpha, self.rho, self.gain, self.norm_bias)
        constants = tuple(None if one is None else self.by_head(one) for one in constants)
        return constants, tuple(map(self.by_head, (r, k, v, w, a)))

    def activate(self, constants: tuple, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: D102
        xi, alpha, rho, *_ = constants
        r, k, v, w, a = inputs
        w, a = (-math.exp(-0.5) * w.sigmoid()).exp(), a.sigmoid()
        removal = normalize(k * xi, dim=-1, eps=1e-6)
        k = k * (1 + (a - 1) * alpha)
        bonus = (r * rho * k).sum(-1, keepdim=True) * v
        return r, w, k, v, removal, a * removal, bonus

    def step(self, constants: tuple, inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:  # noqa: D102
        _, _, _, gain, bias = constants
        r, w, k, v, removal, rate, bonus = inputs
        (S,) = state
        S = w.unsqueeze(-1) * S - outer(rate, read(S, removal)) + outer(k, v)
        y = read(S, r)
        if gain is not None:
            y = y - y.mean(-1, keepdim=True)
            y = gain * y / (y.square().mean(-1, keepdim=True) + 1e-5 * self.value_size).sqrt() + bias
        return joined(y + bonus), (S,)
