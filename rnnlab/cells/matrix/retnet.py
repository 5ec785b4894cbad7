"""RetNet: linear attention whose state rotates and decays at fixed rates."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.matrix.base import MatrixCell, head_size, joined, outer, read, rms_norm, stacked_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class RetNet(MatrixCell):
    """Retention of RetNet (Sun et al., 2023, arXiv:2307.08621).

    Equations 1 to 6 and 8. Each head has a fixed decay γ and rotates pairs of key features by fixed angles θ:

        q_t = W_q x_t,  k_t = W_k x_t / sqrt(d_k),  v_t = W_v x_t
        γ = 1 - 2^(-5 - head)
        S_t = γ exp(-iθ) S_{t-1} + k_t v_tᵀ
        y_t = Re(conj(S_t)ᵀ q_t)
        h_t = g ⊙ y_t / sqrt(mean(y_t²) + 1e-5)                           norm=True; without it h_t = y_t

    q and k are complex with half of the features as real and half as imaginary parts, and v is real. The parallel form
    of the paper, equation 5, multiplies q_t and k_t by exp(iθt) instead. That gives the same outputs, because they
    depend on the angle between query and key only.

    Shapes: x [B, input_size]; S is complex and carried as two real tensors, S_re and S_im [B, heads, key_size / 2,
    hidden_size / heads]; output h [B, hidden_size]. W stacks q, k, v; g [hidden_size / heads].
    Differs from the paper: the heads are normalised by their root mean square, with a gain, as in the authors' later
    code without it; the paper also subtracts the mean. The angles are those of xPos, θ_j = 10000^(-2j / d_k). The swish
    gate and the output projection of equation 8 are left to the block.

    Args:
        input_size: features of x.
        hidden_size: width of h, a multiple of ``heads``. The paper uses twice the width of the model (section 3.1).
        heads: number of memories.
        key_size: size of a key of one head, even; None for about half of hidden_size / heads, as in the paper.
        norm: whether the output of each head is normalised.
    """

    states = ("S_re", "S_im")

    def __init__(
        self, input_size: int, hidden_size: int, *, heads: int = 1, key_size: int | None = None, norm: bool = True
    ) -> None:
        keys = 2 * head_size(hidden_size, heads, 4) if key_size is None else key_size
        super().__init__(input_size, hidden_size, heads, keys, norm)
        if keys % 2:
            raise InputError(f"key_size={keys} must be even: keys are rotated in pairs")
        self.W = stacked_weights(input_size, heads * keys, heads * keys, hidden_size)
        self.register_fixed(persistent=False)

    def fixed(self) -> dict[str, Tensor]:
        """Return gamma ``[heads, 1, 1]`` and theta ``[key_size / 2, 1]``."""
        head = torch.arange(self.heads, dtype=torch.float64)
        pair = torch.arange(self.key_size // 2, dtype=torch.float64)
        return {
            "gamma": (1 - 2 ** (-5 - head)).reshape(-1, 1, 1),
            "theta": (10000 ** (-2 * pair / self.key_size)).unsqueeze(-1),
        }

    def initial_state(self, batch_size: int) -> State:
        """Return an empty memory."""
        size = (batch_size, self.heads, self.key_size // 2, self.value_size)
        return tuple(self.like.new_zeros(size) for _ in self.states)

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, ...]]:  # noqa: D102
        keys = self.heads * self.key_size
        q, k, v = map(self.by_head, linear(inputs, self.W).split([keys, keys, self.hidden_size], dim=-1))
        k = k / self.key_size**0.5
        constants = (self.gamma * self.theta.cos(), self.gamma * self.theta.sin(), self.gain)
        return constants, (*q.chunk(2, dim=-1), *k.chunk(2, dim=-1), v)

    def step(self, constants: tuple, inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:  # noqa: D102
        cos, sin, gain = constants
        q_re, q_im, k_re, k_im, v = inputs
        re, im = state
        re, im = cos * re + sin * im + outer(k_re, v), cos * im - sin * re + outer(k_im, v)
        h = read(re, q_re) + read(im, q_im)
        return joined(rms_norm(h, gain)), (re, im)
