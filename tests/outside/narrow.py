"""A cell from outside: its output is narrower than its state, it has two states, and its gate is a vector."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells import Cell
from rnnlab.cells.base import input_weights, recurrent_weights
from rnnlab.trees import State


class NarrowCell(Cell):
    """An LSTM-like cell with a projected output.

    c_t = v ⊙ c_{t-1} + tanh(W x_t + U m_t)
    m_t = tanh(c_t)
    y_t = P m_t
    """

    states = ("m", "c")

    def __init__(self, input_size: int, hidden_size: int, *, decay: float = 0.9) -> None:
        super().__init__(input_size, hidden_size, output_size=max(1, hidden_size // 2))
        self.W = input_weights(1, hidden_size, input_size)
        self.U = recurrent_weights(1, hidden_size)
        self.P = nn.Parameter(torch.randn(self.output_size, hidden_size) * hidden_size**-0.5)
        self.v = nn.Parameter(torch.full((hidden_size,), decay))

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return (self.U, self.P, self.v), linear(inputs, self.W)

    def step(self, constants: tuple[Tensor, ...], x: Tensor, state: State) -> tuple[Tensor, State]:
        U, P, v = constants
        m, c = state
        c = v * c + (x + linear(m, U)).tanh()
        m = c.tanh()
        return linear(m, P), (m, c)
