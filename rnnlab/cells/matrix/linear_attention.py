"""Linear attention: sums of outer products of keys and values, with or without decay."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.base import check_choice
from rnnlab.cells.matrix.base import MatrixCell, head_size, joined, outer, read, rms_norm, stacked_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class LinearAttention(MatrixCell):
    """Linear attention as a recurrent network (Katharopoulos et al., 2020, arXiv:2006.16236).

    Equations 16 to 20 with the feature map φ of equation 7, for each head:

        q_t = W_q x_t,  k_t = W_k x_t,  v_t = W_v x_t
        φ(a) = elu(a) + 1
        S_t = γ S_{t-1} + φ(k_t) v_tᵀ
        z_t = γ z_{t-1} + φ(k_t)
        h_t = S_tᵀ φ(q_t) / (z_tᵀ φ(q_t) + 1e-6)

    The paper has no decay: γ = 1. With ``decay=True``, γ = σ(a) is a learned number per head.

    Later papers omit z and normalise h instead: ``norm="rms"`` divides the h of a head by its root mean square, and
    ``norm="none"`` uses Sᵀ φ(q) as it is.

    Shapes: x [B, input_size]; S [B, heads, key_size, hidden_size / heads]; z [B, heads, key_size], only with
    ``norm="sum"``; output h [B, hidden_size]. W stacks q, k, v.
    Differs from the paper: the decay; 1e-6 is from the authors' code. The residual connection and the feed-forward
    layer are left to the block.

    Args:
        input_size: features of x.
        hidden_size: width of h, a multiple of ``heads``.
        heads: number of memories.
        key_size: size of a key of one head; None for hidden_size / heads.
        feature_map: ``elu``, or ``identity`` for φ(a) = a, which needs another ``norm`` than ``sum``.
        norm: ``sum``, ``rms`` or ``none``.
        decay: whether the memory decays.
    """

    states = ("S", "z")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        heads: int = 1,
        key_size: int | None = None,
        feature_map: str = "elu",
        norm: str = "sum",
        decay: bool = False,
    ) -> None:
        keys = head_size(hidden_size, heads) if key_size is None else key_size
        super().__init__(input_size, hidden_size, heads, keys, norm == "rms")
        self.norm = check_choice("norm", norm, ("sum", "rms", "none"))
        self.feature_map = check_choice("feature_map", feature_map, ("elu", "identity"))
        if feature_map == "identity" and norm == "sum":
            raise InputError("feature_map=identity needs norm=rms or norm=none: a sum of its features may be 0")
        self.states = ("S", "z") if norm == "sum" else ("S",)
        self.W = stacked_weights(input_size, heads * keys, heads * keys, hidden_size)
        # γ = 1 - 1/32, 1 - 1/64, ..., as in RetNet
        self.a = nn.Parameter((2 ** (5.0 + torch.arange(heads)) - 1).log()) if decay else None

    def initial_state(self, batch_size: int) -> State:
        """Return an empty memory."""
        S = super().initial_state(batch_size)
        return (*S, S[0].new_zeros(S[0].shape[:3])) if self.norm == "sum" else S

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, ...]]:  # noqa: D102
        keys = self.heads * self.key_size
        q, k, v = map(self.by_head, linear(inputs, self.W).split([keys, keys, self.hidden_size], dim=-1))
        gamma = None if self.a is None else self.a.sigmoid().unsqueeze(-1)  # [heads, 1]
        return (gamma, self.gain), (q, k, v)

    def activate(self, constants: tuple, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: D102
        q, k, v = inputs
        return self._features(q), self._features(k), v

    def step(self, constants: tuple, inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:  # noqa: D102
        gamma, gain = constants
        q, k, v = inputs
        S, *z = state
        if gamma is not None:
            S, z = gamma.unsqueeze(-1) * S, [gamma * sums for sums in z]
        S, z = S + outer(k, v), [sums + k for sums in z]
        h = read(S, q)
        if self.norm == "sum":
            h = h / ((z[0] * q).sum(-1, keepdim=True) + 1e-6)
        return joined(rms_norm(h, gain)), (S, *z)

    def _features(self, x: Tensor) -> Tensor:
        # elu(x) + 1 rounds to 0 below -17 in float32.
        return x if self.feature_map == "identity" else x.relu() + x.clamp_max(0).exp()
