"""GRU with layer normalisation."""

from torch import Tensor, nn, ones
from torch.nn.functional import layer_norm, linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class LayerNormGRU(Cell):
    """GRU with layer normalisation (Ba, Kiros and Hinton, 2016, arXiv:1607.06450).

        z, r = LN(U_zr h_{t-1}; α_1) + LN(W_zr x_t; α_2) + b_zr                     (23)
        n_t = tanh(LN(W_n x_t; α_3, β_3) + σ(r) ⊙ LN(U_n h_{t-1}; α_4, β_4))        (24)
        h_t = (1 - σ(z)) ⊙ h_{t-1} + σ(z) ⊙ n_t                                     (25)

    LN(a; α, β) normalises a to mean 0 and variance 1 over its features, multiplies by α and adds β. For z and r it is
    computed over both together.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. W, U hold z, r, n; b holds b_zr and β_3; b_n is β_4; gain_h
    holds α_1 and α_4, gain_x holds α_2 and α_3.
    Differs from the paper: b includes β_1 and β_2, as only their sum matters; 1e-5 is added to the variance.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        recurrent_init: initialisation of each gate's U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    gates = ("z", "r", "n")
    remembers = {"z": -1}

    def __init__(self, input_size: int, hidden_size: int, *, recurrent_init: str = "orthogonal") -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(3, hidden_size, input_size)
        self.U = recurrent_weights(3, hidden_size, recurrent_init)
        self.b = bias_vector(3 * hidden_size)
        self.b_n = bias_vector(hidden_size)
        self.gain_x = nn.Parameter(ones(3 * hidden_size))
        self.gain_h = nn.Parameter(ones(3 * hidden_size))

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        sizes = [2 * self.hidden_size, self.hidden_size]
        of_x, of_h = (*self.gain_x.split(sizes), *self.b.split(sizes)), (*self.gain_h.split(sizes), self.b_n)
        return (self.U, of_x, of_h), linear(inputs, self.W)

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, (gain_x_zr, gain_x_n, b_zr, b_x_n), (gain_zr, gain_n, b_n) = constants
        (h,) = state
        sizes = [2 * self.hidden_size, self.hidden_size]
        (x_zr, x_n), (u_zr, u_n) = x.split(sizes, dim=-1), linear(h, U).split(sizes, dim=-1)
        x_zr, x_n = layer_norm(x_zr, b_zr.shape, gain_x_zr, b_zr), layer_norm(x_n, b_n.shape, gain_x_n, b_x_n)
        z, r = (x_zr + layer_norm(u_zr, b_zr.shape, gain_zr)).sigmoid().chunk(2, dim=-1)
        n = (x_n + r * layer_norm(u_n, b_n.shape, gain_n, b_n)).tanh()
        h = (1 - z) * h + z * n
        return h, (h,)
