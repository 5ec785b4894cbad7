"""How weights begin."""

import math

import pytest
import torch

from rnnlab import cells, config
from rnnlab.interface import InputError
from rnnlab.layers import initialise
from rnnlab.training.build import build
from rnnlab.trees import map_state, tensors_of


def make(name, hidden_size=64, **options):
    torch.manual_seed(0)
    return cells.create(name, input_size=5, hidden_size=hidden_size, **options)


def test_every_gate_is_begun_by_itself():
    for block in initialise(make("lstm"), "orthogonal").U.detach().split(64):
        torch.testing.assert_close(block @ block.T, torch.eye(64), rtol=0, atol=1e-5)
    assert torch.equal(initialise(make("gru"), "identity").U.detach(), torch.eye(64).repeat(3, 1))
    bounds = {"glorot": math.sqrt(6 / 128), "uniform": 1 / 8}
    for name, bound in bounds.items():
        largest = initialise(make("rnn"), name).U.abs().max()
        assert 0.95 * bound < largest <= bound  # of 4,096 numbers, but for one chance in 1e91


def test_what_is_not_asked_for_stays():
    one, other = make("lstm"), initialise(make("lstm"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_chrono_spreads_memory_spans_evenly():
    i, f, g, o = (
        initialise(make("lstm", 4096, recurrent_init="uniform"), gates="chrono", memory_length=50).b.detach().chunk(4)
    )
    spans = f.exp()
    assert 1 <= spans.min() < 1.5
    assert 48.5 < spans.max() <= 49
    # The mean of 4,096 numbers uniform in [1, 49] is 25, within four standard errors.
    assert abs(float(spans.mean()) - 25) < 4 * 48 / math.sqrt(12 * 4096)
    assert torch.equal(i, -f)
    assert not torch.cat([g, o]).any()
    r, z, n = initialise(make("gru", 100), gates="chrono").b.detach().chunk(3)
    assert z.min() >= 0
    assert not torch.cat([r, n]).any()
    assert initialise(make("mingru", 100), gates="chrono").b.detach().chunk(2)[0].max() <= 0


def test_uniform_gates_begin_evenly_between_0_and_1():
    i, f, *_ = initialise(make("lstm", 4096, recurrent_init="uniform"), gates="uniform").b.detach().sigmoid().chunk(4)
    assert torch.histc(f, 4, 0, 1).sub(1024).abs().max() < 4 * math.sqrt(4096 * 3 / 16)
    torch.testing.assert_close(i, 1 - f, rtol=0, atol=1e-5)


REMEMBERING = [name for name in cells.available() if make(name, 4).remembers]
CLOSED = {"brc": "a", "nbrc": "a"}  # at 0 their candidate does not see the state


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_gate_that_remembers_keeps_as_much_as_its_bias_says(name):
    """Where all weights are zero, what is left of a state after a step is the gate, for every unit."""
    cell = make(name, 6).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        initialise(cell, gates="uniform")
        blocks = dict(zip(cell.gates, cell.b.detach().chunk(len(cell.gates)), strict=True))
        if name in CLOSED:
            blocks[CLOSED[name]].fill_(-40)
    sign = max(cell.remembers.values())  # an input gate beside a forget gate is its companion
    keeps = [(sign * blocks[gate]).sigmoid() for gate, its in cell.remembers.items() if its == sign]
    state = tensors_of(cell.initial_state(1))
    constants, inputs = cell.prepare(torch.zeros(1, 1, 5, dtype=torch.float64))
    inputs = map_state(lambda tensor: tensor[0], inputs)
    jacobian = torch.autograd.functional.jacobian(lambda *s: tuple(cell.step(constants, inputs, s)[1]), tuple(state))
    left = [row[number][0, :, 0].diagonal() for number, row in enumerate(jacobian) if state[number].shape[1] == 6]
    for expected in keeps if len(left) > 1 else [torch.stack(keeps).prod(0)]:  # of layers within a step the product
        assert any(torch.allclose(found, expected, rtol=1e-12, atol=0) for found in left), (expected, left)


@pytest.mark.parametrize(
    ("name", "options", "keeps"),
    [
        ("lem", {"dt": 0.5}, False),
        ("hgrn", {"lower_bound": 0.5}, False),
        ("slstm", {"forget_gate": "exp"}, False),
        ("qrnn", {"pooling": "ifo"}, True),
        ("highway", {"depth": 3}, True),
    ],
)
def test_options_decide_whether_a_gate_remembers(name, options, keeps):
    cell = make(name, 4, **options)
    assert bool(cell.remembers) is keeps
    assert set(cell.remembers) <= set(cell.gates)
    assert len(cell.b) == 4 * len(cell.gates)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("rnn", {"gates": "chrono"}, "needs a gate with a bias that keeps the state; RNN has none"),
        ("mingru", {"recurrent": "identity"}, "needs square recurrent matrices U; MinGRU has none"),
        ("lstm", {"recurrent": "ones"}, "recurrent_init='ones' is not one of orthogonal, identity, glorot, uniform"),
        ("lstm", {"gates": "slow"}, "gate_init='slow' is not one of chrono, uniform"),
        ("lstm", {"gates": "chrono", "memory_length": 2}, "memory_length=2 must be at least 3"),
    ],
)
def test_what_cannot_be_is_refused(name, options, says):
    with pytest.raises(InputError, match=says):
        initialise(make(name), **options)


def test_a_cell_without_biases_has_none_to_begin():
    with pytest.raises(InputError, match="needs a gate with a bias that keeps the state; LSTM has none"):
        initialise(make("lstm", bias=False), gates="chrono")


def test_the_options_are_those_of_the_command_line():
    options = ["cell=lstm", "model.recurrent_init=identity", "model.gate_init=chrono", "model.memory_length=9"]
    cell = build(config.compose(["task=hello", *options]))[1].stack.layers[0].cell
    assert torch.equal(cell.U.detach()[:256], torch.eye(256))
    assert cell.b.max() <= math.log(8)
