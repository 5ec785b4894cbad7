"""The cost of a cell: the numbers of its state, and the operations of a time step."""

import pytest
import tiers
import torch
from torch.utils.flop_counter import FlopCounterMode

from rnnlab import cells
from rnnlab.cells import Cell
from rnnlab.layers import Recurrent
from rnnlab.training.flops import cost_of

F, H = 6, 12


class Decaying(Cell):
    """h = exp(w) h + x: an operation on weights alone, whose first axis is not the batch."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.w = torch.nn.Parameter(torch.zeros(hidden_size))

    def prepare(self, inputs):
        return (self.w,), inputs

    def step(self, constants, x, state):
        h = constants[0].exp() * state[0] + x
        return h, (h,)


def test_operations_on_weights_count_once():
    assert cost_of(Decaying(H, H)) == (H, 0, 3 * H)


@pytest.mark.parametrize(
    ("cell", "elements"),
    [
        ("rnn", 3 * H),  # x + (U h + b), tanh
        # 3 x + b, u_n + b_u, 2 sums and 2 sigmoids of gates; r * u_n, x_n + r u_n, tanh; 1 - z, 2 products, their sum
        ("gru", (3 + 1 + 2 + 2 + 3 + 4) * H),
        ("lstm", (4 + 4 + 3 + 2 + 3 + 1) * H),  # U h + b, x + U h, 3 sigmoids, 2 tanh; f c + i g; o tanh(c)
    ],
)
def test_the_operations_of_a_step_counted_by_hand(cell, elements):
    gates, states = {"rnn": (1, 1), "gru": (3, 1), "lstm": (4, 2)}[cell]
    cost = cost_of(cells.create(cell, input_size=F, hidden_size=H))
    assert cost == (states * H, 2 * gates * H * (F + H), elements)


@pytest.mark.parametrize("heads", [1, 2])
def test_the_operations_of_a_matrix_state_counted_by_hand(heads):
    """A head of K by d: k vᵀ, its sum with S, and S q: 4 K d. Features of q and k: relu, clamp, exp and sum, 8 K.

    The sums of keys: z + k and zᵀ q, 3 K. The denominator: one sum and d quotients.
    """
    K, d = 5, H // heads
    cost = cost_of(cells.create("linear_attention", input_size=F, hidden_size=H, heads=heads, key_size=K))
    products = 2 * F * (2 * heads * K + H)
    assert cost == (heads * (K * d + K), products, heads * (4 * K * d + 8 * K + 3 * K + 1 + d))


@pytest.mark.parametrize("cell", tiers.every(9, cells.available()))
def test_products_are_those_of_the_plain_loop(cell):
    """PyTorch counts a sequence of five steps and one of four."""
    cell = cells.create(cell, input_size=F, hidden_size=H)
    layer, counted = Recurrent(cell, "reference"), []
    for steps in (4, 5):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            layer(torch.randn(steps, 1, F))
        counted.append(counter.get_total_flops())
    cost = cost_of(cell)
    assert cost.products == counted[1] - counted[0]
    assert cost.state == sum(tensor.numel() for tensor in cell.initial_state(1))
