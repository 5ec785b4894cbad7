"""DeltaProduct: several delta rules per time step, whose transition is a product of Householder matrices."""

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
from rnnlab.interface import InputError
from rnnlab.trees import State


class DeltaProduct(MatrixCell):
    """DeltaProduct (Siems et al., 2025, arXiv:2502.10297).

    Each time step applies n delta rules, j = 1 to n, each with its own key and value:

        q_t = unit(silu(W_q x_t))
        k_tj = unit(silu(W_kj x_t)),  v_tj = silu(W_vj x_t),  β_tj = 2 σ(w_βj x_t)
        S_t0 = S_{t-1}                                                    gated=False
        S_t0 = α_t S_{t-1},  α_t = exp(-exp(log A) softplus(w_α x_t + b))   gated=True
        S_tj = S_{t,j-1} + β_tj k_tj (v_tj - S_{t,j-1}ᵀ k_tj)ᵀ
        S_t = S_tn
        y_t = S_tᵀ q_t
        h_t = g ⊙ y_t / sqrt(mean(y_t²) + 1e-5)                           norm=True; without it h_t = y_t

    unit(a) = a / sqrt(|a|² + 1e-6). The transition is a product of n generalised Householder matrices I - β k kᵀ; two
    reflections make a rotation. n = 1 is DeltaNet.

    Shapes: x [B, input_size]; S [B, heads, key_size, hidden_size / heads]; output h [B, hidden_size]. W stacks q, the k
    of all j, the v of all j, the β of all j and, if gated, α; log_A, b [heads]; g [hidden_size / heads].
    Differs from the paper: 1e-6 in `unit` is from flash-linear-attention, which also divides q by sqrt(key_size). The
    short convolutions before silu, the gate of the output and the output projection are left to the block.

    Args:
        input_size: features of x.
        hidden_size: width of h, a multiple of ``heads``.
        heads: number of memories.
        key_size: size of a key of one head; None for hidden_size / heads.
        products: n, number of delta rules per time step.
        negative_eigenvalues: whether β is between 0 and 2 instead of 0 and 1 (Grazzi et al., 2025, arXiv:2411.12537).
        gated: whether the memory decays, as in Gated DeltaNet.
        norm: whether the output of each head is normalised.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        heads: int = 1,
        key_size: int | None = None,
        products: int = 2,
        negative_eigenvalues: bool = True,
        gated: bool = False,
        norm: bool = True,
    ) -> None:
        keys = head_size(hidden_size, heads) if key_size is None else key_size
        super().__init__(input_size, hidden_size, heads, keys, norm)
        if products < 1:
            raise InputError(f"products={products} must be at least 1")
        self.products = products
        self.largest_beta = 2.0 if negative_eigenvalues else 1.0
        self.sizes = [heads * keys] * (1 + products) + [hidden_size] * products + [heads] * products
        self.log_A = self.b = None
        if gated:
            self.sizes.append(heads)
            self.log_A, self.b = decay_parameters(heads, slowest=0)
        self.W = stacked_weights(input_size, *self.sizes)

    def prepare(self, inputs: Tensor) -> tuple[tuple, tuple]:  # noqa: D102
        n = self.products
        q, *rest = linear(inputs, self.W).split(self.sizes, dim=-1)
        k, v = (map(self.by_head, part) for part in (rest[:n], rest[n : 2 * n]))
        rules = tuple(zip(k, v, rest[2 * n : 3 * n], strict=True))
        rate = None if self.log_A is None else -self.log_A.exp()
        return (rate, self.b, self.gain), (self.by_head(q), rules, *rest[3 * n :])

    def activate(self, constants: tuple, inputs: tuple) -> tuple:  # noqa: D102
        rate, b, _ = constants
        q, rules, *alpha = inputs
        rules = tuple((unit(silu(k)), silu(v), self.largest_beta * x.sigmoid().unsqueeze(-1)) for k, v, x in rules)
        # [..., heads, 1, 1]
        return unit(silu(q)), rules, *(decay(x, rate, b)[..., None, None] for x in alpha)

    def step(self, constants: tuple, inputs: tuple, state: State) -> tuple[Tensor, State]:  # noqa: D102
        _, _, gain = constants
        q, rules, *alpha = inputs
        (S,) = state
        if alpha:
            S = alpha[0] * S
        for k, v, beta in rules:
            S = S + outer(k, beta * (v - read(S, k)))
        return joined(rms_norm(read(S, q), gain)), (S,)
