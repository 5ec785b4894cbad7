"""A short causal convolution over time, as a cell: its state is the tail of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from rnnlab.cells.base import Cell
from rnnlab.interface import InputError
from rnnlab.trees import State


class ShortConvolution(Cell):
    """Causal depthwise convolution with SiLU (Gu and Dao, 2023, arXiv:2312.00752, section 3.4).

        y_t = SiLU(w_0 ⊙ x_t + w_1 ⊙ x_{t-1} + ... + w_{K-1} ⊙ x_{t-K+1})

    Inputs before the first step are zero. As a cell it is compiled by the engine, continues a stream, and keeps the
    tail of each sequence of a padded batch.

    Shapes: x [B, width]; states x_{t-1} to x_{t-K+1}, [B, width] each; output [B, width].
    Differs from the paper's code: no bias.

    Args:
        width: number of features.
        kernel_size: K, at least 2.

    Raises:
        InputError: an argument is too small.
    """

    def __init__(self, width: int, kernel_size: int = 4) -> None:
        super().__init__(width, width)
        if kernel_size < 2:
            raise InputError(f"convolution={kernel_size} must be 0 for no convolution, or a kernel size of at least 2")
        self.states = tuple(f"x{lag}" for lag in range(1, kernel_size))
        bound = kernel_size**-0.5  # as in torch.nn.Conv1d
        self.w = nn.Parameter(torch.empty(kernel_size, width).uniform_(-bound, bound))

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:  # noqa: D102
        return self.w.unbind(), inputs

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        window = (x, *state)
        terms = [w * x for w, x in zip(constants, window, strict=True)]
        return silu(sum(terms[1:], terms[0])), window[:-1]
