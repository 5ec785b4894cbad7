"""Cells of every shape that the contract must carry, from outside the package.

Vector parameters, row reductions, several products a step, states of different widths, no recurrent product at all, and
a wrapper that draws masks: a regulariser that knows nothing of the cell it wraps. And one whose step is any function.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from rnnlab.cells import Cell
from rnnlab.cells.base import bias_vector, input_weights, recurrent_weights
from rnnlab.cells.classic.lstm import LSTM
from rnnlab.trees import State, map_state


class Peephole(Cell):
    """LSTM with peepholes (Gers and Schmidhuber, 2000).

    i, f see c_{t-1} through vectors p_i, p_f; o sees c_t through p_o.
    """

    states = ("h", "c")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(4, hidden_size, input_size)
        self.U = recurrent_weights(4, hidden_size)
        self.b = bias_vector(4 * hidden_size)
        self.p = nn.Parameter(torch.zeros(3, hidden_size))

    def prepare(self, inputs: Tensor) -> tuple[Any, Tensor]:
        return (self.U, *self.p.unbind()), linear(inputs, self.W, self.b)

    def step(self, constants: Any, x: Tensor, state: State) -> tuple[Tensor, State]:
        U, p_i, p_f, p_o = constants
        h, c = state
        i, f, g, o = (x + linear(h, U)).chunk(4, dim=-1)
        c = (f + p_f * c).sigmoid() * c + (i + p_i * c).sigmoid() * g.tanh()
        h = (o + p_o * c).sigmoid() * c.tanh()
        return h, (h, c)


class LayerNormLSTM(Cell):
    """LSTM with layer normalisation of the two projections and of the cell state (Ba et al., 2016)."""

    states = ("h", "c")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(4, hidden_size, input_size)
        self.U = recurrent_weights(4, hidden_size)
        self.b = bias_vector(4 * hidden_size)
        self.gain = nn.Parameter(torch.ones(2, 4 * hidden_size))
        self.gain_c = nn.Parameter(torch.ones(hidden_size))
        self.b_c = bias_vector(hidden_size)

    def prepare(self, inputs: Tensor) -> tuple[Any, Tensor]:
        x = layer_norm(linear(inputs, self.W), self.gain[0].shape, self.gain[0], self.b)
        return (self.U, self.gain[1], self.gain_c, self.b_c), x

    def step(self, constants: Any, x: Tensor, state: State) -> tuple[Tensor, State]:
        U, gain, gain_c, b_c = constants
        h, c = state
        i, f, g, o = (x + layer_norm(linear(h, U), gain.shape, gain)).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * layer_norm(c, gain_c.shape, gain_c, b_c).tanh()
        return h, (h, c)


class Highway(Cell):
    """Recurrent highway network of depth 2 (Zilly et al., 2017): two products that depend on each other."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(2, hidden_size, input_size)
        self.R = nn.ParameterList(recurrent_weights(2, hidden_size) for _ in range(2))
        self.b = bias_vector(2 * hidden_size)

    def prepare(self, inputs: Tensor) -> tuple[Any, Tensor]:
        return (*self.R, self.b), linear(inputs, self.W)

    def step(self, constants: Any, x: Tensor, state: State) -> tuple[Tensor, State]:
        R1, R2, b = constants
        (s,) = state
        for R, a in ((R1, x), (R2, b)):
            h, t = (a + linear(s, R)).chunk(2, dim=-1)
            t = t.sigmoid()
            s = t * h.tanh() + (1 - t) * s
        return s, (s,)


class Projected(Cell):
    """LSTM with a projection (Sak et al., 2014): the recurrent state h is narrower than c."""

    states = ("h", "c")

    def __init__(self, input_size: int, hidden_size: int, *, projection_size: int = 2) -> None:
        super().__init__(input_size, hidden_size, output_size=projection_size)
        self.W = input_weights(4, hidden_size, input_size)
        self.U = input_weights(4, hidden_size, projection_size)
        self.P = input_weights(1, projection_size, hidden_size)

    def initial_state(self, batch_size: int) -> State:
        widths = (self.output_size, self.hidden_size)
        return tuple(self.W.new_zeros(batch_size, width) for width in widths)

    def prepare(self, inputs: Tensor) -> tuple[Any, Tensor]:
        return (self.U, self.P), linear(inputs, self.W)

    def step(self, constants: Any, x: Tensor, state: State) -> tuple[Tensor, State]:
        U, P = constants
        h, c = state
        i, f, g, o = (x + linear(h, U)).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = linear(o.sigmoid() * c.tanh(), P)
        return h, (h, c)


class MinGRU(Cell):
    """minGRU (Feng et al., 2024, arXiv:2410.01201): linear in its state, no recurrent product, no constants."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.W = input_weights(2, hidden_size, input_size)
        self.b = bias_vector(2 * hidden_size)

    def prepare(self, inputs: Tensor) -> tuple[Any, Any]:
        z, n = linear(inputs, self.W, self.b).chunk(2, dim=-1)
        return (), (z.sigmoid(), n)

    def step(self, constants: Any, inputs: Any, state: State) -> tuple[Tensor, State]:
        z, n = inputs
        (h,) = state
        h = (1 - z) * h + z * n
        return h, (h,)


class Regularised(Cell):
    """Zoneout (Krueger et al., 2017) and variational dropout of h (Gal and Ghahramani, 2016) around any cell.

    A mask per step and a mask per sequence, both drawn in ``prepare``; in evaluation zoneout takes the mean.
    """

    def __init__(self, input_size: int, hidden_size: int, *, zoneout: float = 0.2, dropout: float = 0.3) -> None:
        super().__init__(input_size, hidden_size)
        self.cell = LSTM(input_size, hidden_size)
        self.states = self.cell.states
        self.zoneout, self.dropout = zoneout, dropout

    def initial_state(self, batch_size: int) -> State:
        return self.cell.initial_state(batch_size)

    def prepare(self, inputs: Tensor) -> tuple[Any, Any]:
        constants, prepared = self.cell.prepare(inputs)
        shape = (*inputs.shape[:2], self.hidden_size)
        if self.training:
            keep = torch.bernoulli(inputs.new_full(shape, self.zoneout))
            drop = torch.bernoulli(inputs.new_full(shape[1:], 1 - self.dropout)) / (1 - self.dropout)
        else:
            keep, drop = inputs.new_full(shape, self.zoneout), inputs.new_ones(shape[1:])
        return (constants, drop), (prepared, keep)

    def step(self, constants: Any, inputs: Any, state: State) -> tuple[Tensor, State]:
        inner, drop = constants
        prepared, keep = inputs
        h, *rest = state
        _, new = self.cell.step(inner, prepared, (h * drop, *rest))
        state = map_state(lambda old, new: keep * old + (1 - keep) * new, state, new)
        return state[0], state


class Elementwise(Cell):
    """h_t = f(x_t, h_{t-1}, v), v a vector parameter: any operation as a cell of its own."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor], hidden_size: int = 4) -> None:
        super().__init__(hidden_size, hidden_size)
        self.function = function
        self.v = nn.Parameter(torch.rand(hidden_size) + 0.2)

    def prepare(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.v, inputs

    def step(self, v: Tensor, x: Tensor, state: State) -> tuple[Tensor, State]:
        h = self.function(x, state[0], v)
        return h, (h,)


class Pointwise(Cell):
    """A function of the input; the state only makes it a step."""

    def __init__(self, input_size: int, hidden_size: int, *, function: Callable) -> None:
        super().__init__(input_size, hidden_size)
        self.function = function
        self.scale = nn.Parameter(torch.ones(1))

    def prepare(self, inputs: Tensor) -> tuple[tuple, Tensor]:
        return (), inputs

    def step(self, constants: tuple, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self.function(x), state
