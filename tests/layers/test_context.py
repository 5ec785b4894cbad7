"""What a cell's prepare asks for by name reaches it through stacks, directions and regularisers."""

import pytest
import torch
from torch.nn.functional import linear

from rnnlab.cells import Cell
from rnnlab.cells.base import input_weights, recurrent_weights
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent, Stack, VariationalDropout, WeightDrop, Zoneout, regularise
from rnnlab.layers.stack import Bidirectional

T, B, F, H, S = 23, 4, 3, 5, 7


class Decaying(Cell):
    """A state that decays with the time that has passed since the last step, and attends to a memory."""

    context_per_step = ("elapsed",)

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.W = input_weights(1, hidden_size, input_size)
        self.U = recurrent_weights(1, hidden_size)

    def prepare(self, inputs, elapsed, memory=None):
        return (self.U, memory), (linear(inputs, self.W), elapsed)

    def step(self, constants, inputs, state):
        U, memory = constants
        x, elapsed = inputs
        (h,) = state
        h = h * (-elapsed).exp()
        if memory is not None:  # [B, S, H]
            weights = torch.einsum("bh,bsh->bs", h, memory).softmax(-1)
            h = h + torch.einsum("bs,bsh->bh", weights, memory)
        h = (x + linear(h, U)).tanh()
        return h, (h,)


def draw(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive(cell, inputs, elapsed, memory, length, reverse=False):
    """One sequence, ``[T, F]``, step by step, from the equations."""
    h, outputs = torch.zeros(H, dtype=torch.float64), torch.zeros(T, H, dtype=torch.float64)
    for t in reversed(range(length)) if reverse else range(length):
        h = h * (-elapsed[t]).exp()
        if memory is not None:
            h = h + (memory @ h).softmax(0) @ memory
        h = (cell.W @ inputs[t] + cell.U @ h).tanh()
        outputs[t] = h
    return outputs


def make(width=F):
    torch.manual_seed(0)
    return Decaying(width, H).double()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("with_memory", [False, True])
@pytest.mark.parametrize("lengths", [None, torch.tensor([23, 1, 9, 22])])
def test_a_stack_of_two_directions_passes_it_on(wrapped, with_memory, lengths):
    cells = [make(width) for width in (F, F, 2 * H, 2 * H)]

    def layer(cell, reverse):
        return Recurrent(Zoneout(VariationalDropout(cell, 0.1), [0.0]) if wrapped else cell, reverse=reverse)

    pairs = [Bidirectional(layer(cells[n], False), layer(cells[n + 1], True)) for n in (0, 2)]
    stack = Stack(pairs).double().eval()
    inputs, elapsed = draw(T, B, F), draw(T, B, 1, seed=1)
    memory = draw(B, S, H, seed=2) if with_memory else None
    given, when = inputs.clone(), elapsed.clone()
    if lengths is not None:
        past = torch.arange(T).unsqueeze(1) >= lengths
        given[past], when[past] = torch.nan, torch.nan  # what stands in the padding is never read
    context = {"elapsed": when} | ({"memory": memory} if with_memory else {})
    found, _ = stack(given, lengths=lengths, **context)
    for b in range(B):
        length, outputs = T if lengths is None else int(lengths[b]), inputs[:, b]
        for n in (0, 2):
            m = None if memory is None else memory[b]
            ways = [naive(cells[n + r], outputs, elapsed[:, b], m, length, bool(r)) for r in (0, 1)]
            outputs = torch.cat(ways, -1)
        torch.testing.assert_close(found[:, b], outputs)


@pytest.mark.parametrize("options", [{"weight_drop": 0.3}, {"recurrent_dropout": 0.3}, {"zoneout": [0.2]}])
def test_every_regulariser_passes_it_on(options):
    cell = regularise(make(), **options)
    assert cell.required_context == ("elapsed",)
    layer = Recurrent(cell).eval()
    assert layer.choice.name == "reference"
    inputs, elapsed = draw(T, B, F), draw(T, B, 1, seed=1)
    found, _ = layer(inputs, elapsed=elapsed)
    if "zoneout" not in options:
        torch.testing.assert_close(found, Recurrent(make())(inputs, elapsed=elapsed)[0])
    gradient = torch.autograd.grad(layer.train()(inputs, elapsed=elapsed)[0].sum(), cell.cell.U)[0]
    assert gradient.isfinite().all()


def test_a_dropped_weight_is_dropped():
    torch.manual_seed(0)
    layer = Recurrent(WeightDrop(make(), 0.5)).train()
    inputs, elapsed = draw(T, B, F), draw(T, B, 1, seed=1)
    first, second = (layer(inputs, elapsed=elapsed)[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_a_fused_backend_says_what_it_lacks():
    with pytest.raises(InputError, match="its prepare has required arguments besides the inputs"):
        Recurrent(make(), "fused")
