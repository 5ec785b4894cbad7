"""Echo state network: a fixed random reservoir with a learned linear output."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, input_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class ESN(Cell):
    """Echo state network, ESN (Jaeger, 2001, GMD report 148).

    A fixed random reservoir with a learned linear output. The units are leaky, as in equations 2 to 4 of Lukoševičius
    (2012, doi:10.1007/978-3-642-35289-8_36):

        h̃_t = tanh(W [1; x_t] + R h_{t-1})
        h_t = (1 - α) h_{t-1} + α h̃_t
        y_t = V [1; x_t; h_t]

    W and R are buffers: no optimizer changes them, and the state dict contains them. R is sparse and scaled to the
    given ``spectral_radius``. With a radius below 1, the network usually forgets its initial state (the echo state
    property).

    Shapes: x [B, input_size]; h [B, hidden_size]; output y [B, hidden_size]. W [hidden_size, 1 + input_size],
    R [hidden_size, hidden_size], V [hidden_size, 1 + input_size + hidden_size].
    Differs from the paper: V is learned by gradient descent, not by regression, and the model's readout follows it.
    There is no feedback from the output.

    Args:
        input_size: features of x.
        hidden_size: width of h and y.
        spectral_radius: largest magnitude of an eigenvalue of R, at least 0.
        leak: α, above 0 and at most 1.
        sparsity: fraction of R that is zero, from 0 to below 1.
        input_scaling: W is uniform in [-input_scaling, input_scaling].
    """

    verified = "reservoirpy 0.4.2"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        spectral_radius: float = 0.9,
        leak: float = 1.0,
        sparsity: float = 0.9,
        input_scaling: float = 1.0,
    ) -> None:
        super().__init__(input_size, hidden_size)
        if not 0 < leak <= 1:
            raise InputError(f"leak={leak} must be above 0 and at most 1")
        if not 0 <= sparsity < 1:
            raise InputError(f"sparsity={sparsity} must be at least 0 and below 1")
        if spectral_radius < 0:
            raise InputError(f"spectral_radius={spectral_radius} must be at least 0")
        self.leak = leak
        self.V = input_weights(1, hidden_size, 1 + input_size + hidden_size)
        W = torch.empty(hidden_size, 1 + input_size).uniform_(-input_scaling, input_scaling)
        self.register_buffer("W", W)
        self.register_buffer("R", _reservoir(hidden_size, spectral_radius, sparsity))

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:  # noqa: D102
        V_x, V_h = self.V.split([1 + self.input_size, self.hidden_size], dim=1)
        x = linear(inputs, torch.cat([self.W[:, 1:], V_x[:, 1:]]), torch.cat([self.W[:, 0], V_x[:, 0]]))
        return (self.R, V_h), x.chunk(2, dim=-1)

    def step(  # noqa: D102
        self, constants: tuple[Tensor, Tensor], inputs: tuple[Tensor, Tensor], state: State
    ) -> tuple[Tensor, State]:
        R, V_h = constants
        x, y = inputs
        (h,) = state
        h = (1 - self.leak) * h + self.leak * (x + linear(h, R)).tanh()
        return y + linear(h, V_h), (h,)


def _reservoir(size: int, radius: float, sparsity: float) -> Tensor:
    """Return a sparse matrix with a given spectral radius and at least one weight in each row.

    The matrix always contains a cycle through all units. Without the cycle, all eigenvalues of a small or very sparse
    matrix may be 0, and no scale would give the spectral radius.
    """
    R = torch.empty(size, size).uniform_(-1, 1) * (torch.rand(size, size) >= sparsity)
    ring = torch.randperm(size)
    R[ring, ring.roll(1)] = torch.empty(size).uniform_(0.5, 1)
    largest = torch.linalg.eigvals(R.double()).abs().max()
    return R * (radius / largest).to(R.dtype)
