"""TTT-Linear: a linear model as the state, trained by one step of gradient descent per time step."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells.matrix.base import MatrixCell, head_size, joined, outer, read, stacked_weights
from rnnlab.trees import State


class TTTLinear(MatrixCell):
    """TTT-Linear, test-time training (Sun et al., 2024, arXiv:2407.04620).

    The state is a model f(x; W, b) = x + LN(xᵀ W + b). At each step it learns to map a key to a value by gradient
    descent; a query reads it. Equations 4 and 5 with f and η of section 2.7, for each head:

        q_t = W_q x_t,  k_t = W_k x_t,  v_t = W_v x_t
        η_t = η σ(w_η x_t + b_η) / d,  d the width of a head
        ℓ(W, b) = ½ |f(k_t; W, b) - v_t|²
        W_t = W_{t-1} - η_t ∂ℓ/∂W,  b_t = b_{t-1} - η_t ∂ℓ/∂b             at W_{t-1}, b_{t-1}
        h_t = f(q_t; W_t, b_t)

    LN normalises the features of a head to mean 0 and variance 1, with eps 1e-6, and applies gain and bias. With
    ẑ = (z - mean(z)) / s, s = sqrt(var(z) + 1e-6), z = k_tᵀ W + b and e = f(k_t) - v_t, the gradients are

        a = gain ⊙ e
        ∂ℓ/∂z = (a - mean(a) - ẑ mean(a ⊙ ẑ)) / s
        ∂ℓ/∂W = k_t (∂ℓ/∂z)ᵀ,  ∂ℓ/∂b = ∂ℓ/∂z

    The initial W_0 and b_0 are learned. The state holds W - W_0 and b - b_0, so that it is zero at first.

    Shapes: x [B, input_size]; W [B, heads, d, d]; b [B, heads, d]; output h [B, hidden_size]. W_qkv stacks q, k, v, η;
    W_0 [heads, d, d]; b_0, gain, bias [heads, d].
    Differs from the paper: gradients are taken after every step; the paper's experiments take the gradients of 16 steps
    at the same W. The ½ of the loss, the division of η by d and the biases b and b_η are from the authors' code. The
    short convolutions, the rotation of q and k, the norm after the heads, the gate and the output projection are left
    to the block.

    Args:
        input_size: features of x.
        hidden_size: width of h, a multiple of ``heads``.
        heads: number of models; the paper uses heads of 64 features. Heads of one or two features cannot learn, because
            their normalised z is constant.
        learning_rate: η.
    """

    states = ("W", "b")

    def __init__(self, input_size: int, hidden_size: int, *, heads: int = 1, learning_rate: float = 1.0) -> None:
        d = head_size(hidden_size, heads)
        super().__init__(input_size, hidden_size, heads, d, norm=False)
        self.learning_rate = learning_rate
        self.W_qkv = stacked_weights(input_size, hidden_size, hidden_size, hidden_size, heads)
        self.b_eta = nn.Parameter(torch.zeros(heads))
        self.W_0 = nn.Parameter(0.02 * torch.randn(heads, d, d))
        self.b_0 = nn.Parameter(torch.zeros(heads, d))
        self.gain = nn.Parameter(torch.ones(heads, d))
        self.bias = nn.Parameter(torch.zeros(heads, d))

    def initial_state(self, batch_size: int) -> State:
        """Return the differences to the initial model, zeros."""
        (W,) = super().initial_state(batch_size)
        return W, W.new_zeros(W.shape[:3])

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple[Tensor, ...]]:  # noqa: D102
        *qkv, eta = linear(inputs, self.W_qkv).split([*[self.hidden_size] * 3, self.heads], dim=-1)
        of_q, of_k = (self.by_head(self._initial_model(x)) for x in qkv[:2])
        return (self.b_eta, self.b_0, self.gain, self.bias), (*map(self.by_head, qkv), eta, of_q, of_k)

    def activate(self, constants: tuple, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: D102
        b_eta, b_0, _, bias = constants
        q, k, v, eta, of_q, of_k = inputs
        eta = self.learning_rate / self.value_size * (eta + b_eta).sigmoid().unsqueeze(-1)
        return q, k, v - k - bias, eta, of_q + b_0, of_k + b_0

    def step(self, constants: tuple, inputs: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:  # noqa: D102
        _, _, gain, bias = constants
        q, k, target, eta, of_q, of_k = inputs
        W, b = state
        z, s = _normalised(read(W, k) + b + of_k)
        a = gain * (gain * z - target)
        slope = (a - a.mean(-1, keepdim=True) - z * (a * z).mean(-1, keepdim=True)) / s
        update = eta * slope
        W, b = W - outer(k, update), b - update
        z, _ = _normalised(read(W, q) + b + of_q)
        return joined(q + gain * z + bias), (W, b)

    def _initial_model(self, x: Tensor) -> Tensor:
        """Return W_0ᵀ x for each head of ``x [T, B, heads * d]``, by one product for each head."""
        parts = zip(x.split(self.value_size, dim=-1), self.W_0.unbind(), strict=True)
        return torch.cat([linear(part, W_0.t()) for part, W_0 in parts], dim=-1)


def _normalised(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return ẑ and s."""
    z = z - z.mean(-1, keepdim=True)
    s = (z.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return z / s, s
