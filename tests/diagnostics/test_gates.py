"""Gates of every cell, also within regularisers, compared with their equations; saturation and time scales."""

import pytest
import torch

from rnnlab import cells
from rnnlab.diagnostics import follow, gates, saturation, time_scales
from rnnlab.diagnostics.gates import Gate
from rnnlab.layers import regularise

F, H, B, T = 3, 4, 2, 6

NAMED = {  # gate: 1 if an open gate keeps the state, -1 if a closed gate does, None if neither
    "lstm": {"i": None, "f": 1, "o": None},
    "gru": {"r": None, "z": 1},
    "mgu": {"f": -1},
    "peephole": {"f": 1, "i": None, "o": None},
    "cfn": {"theta": 1, "eta": None},  # one sigmoid computes both
    "layernorm_lstm": {"f": 1, "i": None, "o": None},
    "slstm": {"f": 1, "o": None},  # f is a log-sigmoid
    "mingru": {"z": -1},  # computed for all steps at once
    "minlstm": {"f/i": 1},  # normalised to a sum of 1
    "qrnn": {"f": 1, "o": None},
    "highway": {"t1": -1, "t2": -1},  # one gate per layer of the step
    "atr": {"q": None, "q (2)": 1},  # the gates are sigmoids of p + q and p - q, and q has the bias
    "cfc": {"sigmoid 1": None},  # its gate follows another nonlinearity and has no name
    "rnn": {},
    "unicornn": {},  # its sigmoid depends on a parameter only
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_gates_of_the_lstm_equal_its_sigmoids():
    cell = cells.create("lstm", input_size=F, hidden_size=H)
    found = follow(cell, torch.randn(T, B, F))
    seen = gates(found)
    h = torch.stack([state[0] for state in found.before])
    i, f, _, o = (found.inputs @ cell.W.t() + cell.b + h @ cell.U.t()).sigmoid().chunk(4, -1)
    for name, expected in {"i": i, "f": f, "o": o}.items():
        torch.testing.assert_close(seen[name].values, expected)


@pytest.mark.parametrize("name", NAMED)
def test_gates_have_the_names_of_the_cell(name):
    cell = cells.create(name, input_size=F, hidden_size=H)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(torch.randn_like(parameter) / 3)  # a parameter that is zero would not show its gate
    seen = gates(follow(cell, torch.randn(T, B, F)))
    assert {key: gate.keeps for key, gate in seen.items()} == NAMED[name]


NAMELESS = {  # number of sigmoids to which no block of the bias belongs
    "cfc": 1,  # its gate follows the backbone
    "deltanet": 1,  # as of all cells with matrix states: a gate has one value per head or per key feature
    "deltaproduct": 2,
    "dsgu": 1,  # the activation of the new value
    "gated_deltanet": 1,
    "gla": 1,
    "hgrn2": 2,  # f and 1 - f
    "mlstm": 1,  # its gates i and f have one value per head, not per unit
    "mogrifier": 5,  # the gates of its rounds
    "nas": 1,  # a sigmoid of the sum e
    "rwkv7": 2,
    "scrn": 1,  # no gate; the sigmoid is the activation of h
    "ttt_linear": 1,
}


@pytest.mark.parametrize("name", cells.available())
def test_gates_of_every_cell_are_named(name):
    cell = cells.create(name, input_size=F, hidden_size=H).eval()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(torch.randn_like(parameter) / 3)  # a parameter that is zero would not show its gate
    seen = gates(follow(cell, torch.randn(T, B, F)))
    for gate in seen.values():
        assert gate.values.shape[:2] == (T, B)
        assert ((gate.values >= 0) & (gate.values <= 1)).all()
        assert not gate.values.requires_grad
    assert sum(key.startswith("sigmoid") for key in seen) == NAMELESS.get(name, 0), list(seen)
    assert not cell.gates or cell.b is None or len(cell.b) == H * len(cell.gates)
    assert set(cell.remembers) <= set(cell.gates)


@pytest.mark.parametrize("name", ["lstm", "gru", "mgu"])
def test_gates_without_biases_are_named_by_their_weights(name):
    cell = cells.create(name, input_size=F, hidden_size=H, bias=False)
    seen = gates(follow(cell, torch.randn(T, B, F)))
    assert {key: gate.keeps for key, gate in seen.items()} == NAMED[name]


def test_gates_are_found_within_regularisers():
    plain = cells.create("gru", input_size=F, hidden_size=H)
    cell = regularise(plain, weight_drop=0.1, zoneout=[0.2], recurrent_dropout=0.1).eval()
    assert list(gates(follow(cell, torch.randn(T, B, F)))) == ["r", "z"]


def test_saturation_is_counted_per_unit():
    values = torch.tensor([[[0.05, 0.5]], [[0.95, 0.5]], [[0.95, 0.09]], [[0.2, 0.5]]])
    left, right = saturation(Gate(values))
    assert left.tolist() == [0.25, 0.25]
    assert right.tolist() == [0.5, 0]
    live = torch.tensor([[True], [True], [False], [False]])
    assert saturation(Gate(values), live).right.tolist() == [0.5, 0]


def test_a_constant_gate_has_the_time_scale_of_its_decay():
    values = torch.full((T, B, H), 0.9, dtype=torch.float64)
    tau = -1 / torch.tensor(0.9, dtype=torch.float64).log()
    torch.testing.assert_close(time_scales(Gate(values, 1)), tau.expand(H))
    torch.testing.assert_close(time_scales(Gate(1 - values, -1)), tau.expand(H))
    assert time_scales(Gate(values)) is None


def test_a_time_scale_equals_the_decay_of_the_product_of_gates():
    values = torch.rand(50, 1, H, dtype=torch.float64)
    tau = time_scales(Gate(values, 1))
    torch.testing.assert_close((-50 / tau).exp(), values.prod(0)[0])
