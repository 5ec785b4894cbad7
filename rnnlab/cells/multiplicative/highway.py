"""Recurrent highway network: several layers within a step."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from rnnlab.cells.base import Cell, bias_vector, input_weights, recurrent_weights
from rnnlab.interface import InputError
from rnnlab.trees import State


class Highway(Cell):
    """Recurrent highway network (Zilly, Srivastava, Koutník and Schmidhuber, 2017, arXiv:1607.03474).

    With coupled gates, as in the paper's experiments. s_0 is the state of the previous step, and s_L the new state; for
    l = 1 … L:

        h_l = tanh(W_H x_t (if l = 1) + R_Hl s_{l-1} + b_Hl)          (7)
        t_l = σ(W_T x_t (if l = 1) + R_Tl s_{l-1} + b_Tl)             (8)
        s_l = h_l ⊙ t_l + s_{l-1} ⊙ (1 - t_l)                          (6)

    Shapes: x [B, input_size]; s [B, hidden_size]; output s. W holds W_H, W_T; U and b hold R and b of all layers.
    Differs from the paper: nothing.

    Args:
        input_size: features of x.
        hidden_size: width of s.
        depth: L, number of layers within a step.
        transform_bias: initial value of every b_T; negative values make a new network keep s.
        recurrent_init: initialisation of each R: ``orthogonal``, ``identity`` or ``uniform``.
    """

    states = ("s",)
    verified = "official code"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        depth: int = 2,
        transform_bias: float = -2.0,
        recurrent_init: str = "orthogonal",
    ) -> None:
        super().__init__(input_size, hidden_size)
        if depth < 1:
            raise InputError(f"depth={depth} must be at least 1")
        self.depth = depth
        self.gates = tuple(f"{part}{layer}" for layer in range(1, depth + 1) for part in "ht")
        self.remembers = {f"t{layer}": -1 for layer in range(1, depth + 1)}
        self.W = input_weights(2, hidden_size, input_size)
        self.U = recurrent_weights(2 * depth, hidden_size, recurrent_init)
        self.b = bias_vector(2 * depth * hidden_size)
        with torch.no_grad():
            self.b.unflatten(0, (depth, 2, hidden_size))[:, 1] = transform_bias

    def prepare(self, inputs: Tensor) -> tuple[Any, Tensor]:  # noqa: D102
        first, *others = self.b.chunk(self.depth)
        return (self.U.chunk(self.depth), tuple(others)), linear(inputs, self.W, first)

    def step(self, constants: Any, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        R, b = constants
        (s,) = state
        for weight, added in zip(R, (x, *b), strict=True):
            h, t = (added + linear(s, weight)).chunk(2, dim=-1)
            t = t.sigmoid()
            s = h.tanh() * t + s * (1 - t)
        return s, (s,)
