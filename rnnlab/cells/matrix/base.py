"""Base class of cells with matrix states: heads, projections, initialisation, read-out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from rnnlab.cells.base import Cell
from rnnlab.interface import InputError
from rnnlab.trees import State


class MatrixCell(Cell):
    """A cell with one matrix S ``[B, heads, key_size, value_size]`` as its state.

    The heads share the output: value_size is hidden_size / heads. The read-outs of the heads may be normalised by their
    root mean square, as in the blocks of most of these papers; `gain` scales the result.
    """

    states = ("S",)

    @classmethod
    def width_multiple(cls, *, heads: int = 1, **options: object) -> int:  # noqa: D102
        return heads

    def __init__(self, input_size: int, hidden_size: int, heads: int, key_size: int, norm: bool) -> None:
        super().__init__(input_size, hidden_size)
        if heads < 1 or hidden_size % heads:
            raise InputError(f"heads={heads} must divide hidden_size={hidden_size}")
        if key_size < 1:
            raise InputError(f"key_size={key_size} must be at least 1")
        self.heads = heads
        self.key_size = key_size
        self.value_size = hidden_size // heads
        self.gain = nn.Parameter(torch.ones(self.value_size)) if norm else None

    def initial_state(self, batch_size: int) -> State:
        """Return an empty memory."""
        return (self.like.new_zeros(batch_size, self.heads, self.key_size, self.value_size),)

    def by_head(self, x: Tensor) -> Tensor:
        """Return ``x [..., heads * size]`` as ``[..., heads, size]``."""
        return x.unflatten(-1, (self.heads, x.shape[-1] // self.heads))


def stacked_weights(input_size: int, *sizes: int) -> nn.Parameter:
    """Return input weights ``[sum(sizes), input_size]``, the rows of each size initialised Glorot uniform."""
    return nn.Parameter(torch.cat([nn.init.xavier_uniform_(torch.empty(size, input_size)) for size in sizes]))


def head_size(hidden_size: int, heads: int, ratio: int = 1) -> int:
    """Return the default of key_size: the value size of a head divided by ``ratio``, at least 1."""
    return max(1, hidden_size // max(1, heads) // ratio)


def outer(k: Tensor, v: Tensor) -> Tensor:
    """Return k vᵀ for each head: ``[..., d_k]`` and ``[..., d_v]`` give ``[..., d_k, d_v]``."""
    return k.unsqueeze(-1) * v.unsqueeze(-2)


def read(S: Tensor, q: Tensor) -> Tensor:
    """Return Sᵀ q for each head: ``[..., d_k, d_v]`` and ``[..., d_k]`` give ``[..., d_v]``."""
    return (S * q.unsqueeze(-1)).sum(-2)


def unit(x: Tensor) -> Tensor:
    """Return x / sqrt(|x|² + 1e-6) over the last axis."""
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()  # the derivative of rsqrt overflows in float16


def rms_norm(y: Tensor, gain: Tensor | None) -> Tensor:
    """Return ``gain`` ⊙ y / sqrt(mean(y²) + 1e-5) over the last axis, or y if ``gain`` is None."""
    return y if gain is None else gain * y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def joined(y: Tensor) -> Tensor:
    """Return the heads of ``y [B, heads, size]`` side by side, ``[B, heads * size]``."""
    return y.flatten(1)


def decay_parameters(heads: int, slowest: float) -> tuple[nn.Parameter, nn.Parameter]:
    """Return log A and b_Δ of the decay exp(-A softplus(x + b_Δ)), one number per head, as Mamba-2 initialises them.

    Args:
        heads: number of heads.
        slowest: A is uniform between this number and 16.
    """
    A = torch.empty(heads).uniform_(slowest, 16).clamp_min(1e-4)
    step = (torch.rand(heads) * (torch.tensor(0.1 / 1e-3)).log()).exp() * 1e-3  # log-uniform from 0.001 to 0.1
    return nn.Parameter(A.log()), nn.Parameter(step + (-(-step).expm1()).log())  # the inverse of softplus


def decay(x: Tensor, rate: Tensor, b: Tensor) -> Tensor:
    """Return exp(rate softplus(x + b)); rate is -A."""
    return (rate * softplus(x + b)).exp()
