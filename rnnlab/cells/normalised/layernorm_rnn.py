"""Vanilla network with layer normalisation."""

from torch import Tensor, nn, ones
from torch.nn.functional import layer_norm, linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.trees import State


class LayerNormRNN(Cell):
    """Vanilla RNN with layer normalisation (Ba, Kiros and Hinton, 2016, arXiv:1607.06450).

        h_t = tanh(g ⊙ (a_t - μ_t) / σ_t + b),   a_t = W x_t + U h_{t-1}            (4)

    μ_t and σ_t are the mean and the standard deviation of a_t over its features.

    Shapes: x [B, input_size]; h [B, hidden_size]; output h. gain is g.
    Differs from the paper: 1e-5 is added to the variance.

    Args:
        input_size: features of x.
        hidden_size: width of h.
        recurrent_init: initialisation of U: ``orthogonal``, ``identity`` or ``uniform``.
    """

    def __init__(self, input_size: int, hidden_size: int, *, recurrent_init: str = "orthogonal") -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(1, hidden_size, input_size)
        self.U = recurrent_weights(1, hidden_size, recurrent_init)
        self.b = bias_vector(hidden_size)
        self.gain = nn.Parameter(ones(hidden_size))

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:  # noqa: D102
        return (self.U, self.gain, self.b), linear(inputs, self.W)

    def step(self, constants: tuple[Tensor, ...], x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        U, gain, b = constants
        (h,) = state
        h = layer_norm(x + linear(h, U), gain.shape, gain, b).tanh()
        return h, (h,)
