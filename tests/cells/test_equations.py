"""The cells against their papers' equations, written out once more over single numbers."""

import math

import pytest
import torch

from rnnlab import cells
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
    ),
]


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def relu(a):
    return max(a, 0.0)


def dot(row, vector):
    total = 0.0
    for a, b in zip(row, vector, strict=True):
        total += a * b
    return total


def rows_of(weight, gate, hidden_size):
    return weight.detach()[gate * hidden_size : (gate + 1) * hidden_size].tolist()


def preactivations(cell, gate, x, h):
    """W_g x + U_g h + b_g, unit by unit; ``gate`` is its place in W, U and b."""
    H = cell.hidden_size
    W, U = rows_of(cell.W, gate, H), rows_of(cell.U, gate, H)
    b = [0.0] * H if cell.b is None else rows_of(cell.b, gate, H)
    return [dot(W[k], x) + dot(U[k], h) + b[k] for k in range(H)]


# h_t = tanh(W x_t + U h_{t-1} + b)
def rnn_tanh(cell, x, state):
    (h,) = state
    h = [math.tanh(a) for a in preactivations(cell, 0, x, h)]
    return h, [h]


# h_t = max(0, W x_t + U h_{t-1} + b)
def rnn_relu(cell, x, state):
    (h,) = state
    h = [relu(a) for a in preactivations(cell, 0, x, h)]
    return h, [h]


# i_t = σ(W_i x_t + U_i h_{t-1} + b_i)
# f_t = σ(W_f x_t + U_f h_{t-1} + b_f)
# g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)
# o_t = σ(W_o x_t + U_o h_{t-1} + b_o)
# c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t
# h_t = o_t ⊙ tanh(c_t)
# gates in the order i, f, g, o
def lstm(cell, x, state):
    h, c = state
    i = [sigmoid(a) for a in preactivations(cell, 0, x, h)]
    f = [sigmoid(a) for a in preactivations(cell, 1, x, h)]
    g = [math.tanh(a) for a in preactivations(cell, 2, x, h)]
    o = [sigmoid(a) for a in preactivations(cell, 3, x, h)]
    c = [f[k] * c[k] + i[k] * g[k] for k in range(cell.hidden_size)]
    h = [o[k] * math.tanh(c[k]) for k in range(cell.hidden_size)]
    return h, [h, c]


# r_t = σ(W_r x_t + U_r h_{t-1} + b_r)
# z_t = σ(W_z x_t + U_z h_{t-1} + b_z)
# n_t = tanh(W_n x_t + r_t ⊙ (U_n h_{t-1} + b_u) + b_n)
# h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}
# gates in the order r, z, n
def gru_after(cell, x, state):
    (h,) = state
    H = cell.hidden_size
    r = [sigmoid(a) for a in preactivations(cell, 0, x, h)]
    z = [sigmoid(a) for a in preactivations(cell, 1, x, h)]
    W_n, U_n = rows_of(cell.W, 2, H), rows_of(cell.U, 2, H)
    b_n = [0.0] * H if cell.b is None else rows_of(cell.b, 2, H)
    b_u = [0.0] * H if cell.b_u is None else cell.b_u.tolist()
    n = [math.tanh(dot(W_n[k], x) + r[k] * (dot(U_n[k], h) + b_u[k]) + b_n[k]) for k in range(H)]
    h = [(1 - z[k]) * n[k] + z[k] * h[k] for k in range(H)]
    return h, [h]


# as above, but
# n_t = tanh(W_n x_t + U_n (r_t ⊙ h_{t-1}) + b_n)
def gru_before(cell, x, state):
    (h,) = state
    H = cell.hidden_size
    r = [sigmoid(a) for a in preactivations(cell, 0, x, h)]
    z = [sigmoid(a) for a in preactivations(cell, 1, x, h)]
    n = [math.tanh(a) for a in preactivations(cell, 2, x, [r[k] * h[k] for k in range(H)])]
    h = [(1 - z[k]) * n[k] + z[k] * h[k] for k in range(H)]
    return h, [h]


CELLS = {
    "rnn-tanh": ("rnn", {"activation": "tanh"}, rnn_tanh),
    "rnn-relu": ("rnn", {"activation": "relu"}, rnn_relu),
    "lstm": ("lstm", {}, lstm),
    "gru-after": ("gru", {"reset": "after"}, gru_after),
    "gru-before": ("gru", {"reset": "before"}, gru_before),
}
# Every way of running every cell: torch.nn has no GRU that resets before the product.
RUNS = [(name, backend) for name in CELLS for backend in ("reference", "native")]
RUNS.remove(("gru-before", "native"))


def make_layer(name, backend, bias, hidden_size=3, device="cpu"):
    kind, options, _ = CELLS[name]
    cell = cells.create(kind, input_size=2, hidden_size=hidden_size, bias=bias, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # New biases are mostly zero, and a term that is zero cannot be seen to be missing.
        for parameter in cell.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)
    return Recurrent(cell, backend).to(device, torch.float64)


def draw(*shape, device="cpu", seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def by_hand(equations, cell, inputs, state):
    """The equations run over every sequence by itself: outputs [T, B, H] and the final states, each [B, H]."""
    outputs, final = [], []
    for column in range(inputs.shape[1]):
        now = [part[column].tolist() for part in state]
        steps = []
        for x in inputs[:, column].tolist():
            output, now = equations(cell, x, now)
            steps.append(output)
        outputs.append(steps)
        final.append(now)
    final = [torch.tensor(part, dtype=torch.float64) for part in zip(*final, strict=True)]
    return torch.tensor(outputs, dtype=torch.float64).transpose(0, 1), final


def assert_close(actual, expected):
    # A float64 sum of ten terms over six steps is off by some 1e-15 of the largest number at most, whatever its
    # order; a term that is missing or misplaced shows at 1e-2. 1e-12 is far from both.
    assert actual.shape == expected.shape
    assert (actual.cpu() - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_cell_computes_the_equations(name, backend, bias, device):
    layer = make_layer(name, backend, bias, device=device)
    inputs = draw(6, 2, 2, device=device)
    state = tuple(draw(2, 3, device=device, seed=3 + i) for i, _ in enumerate(layer.cell.states))
    outputs, final = layer(inputs, state)
    expected_outputs, expected_final = by_hand(CELLS[name][2], layer.cell, inputs, state)
    assert_close(outputs, expected_outputs)
    assert len(final) == len(expected_final)
    for actual, expected in zip(final, expected_final, strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_gradients_are_those_of_finite_differences(name, backend, bias):
    layer = make_layer(name, backend, bias, hidden_size=2)
    inputs = draw(3, 2, 2).requires_grad_()
    state = tuple(draw(2, 2, seed=3 + i).requires_grad_() for i, _ in enumerate(layer.cell.states))

    def run(inputs, *rest):
        # gradcheck moves the parameters in place, so the layer itself sees them move.
        outputs, final = layer(inputs, rest[: len(state)])
        return outputs, *final

    assert torch.autograd.gradcheck(run, (inputs, *state, *layer.parameters()))


@pytest.mark.parametrize(("name", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_each_gates_recurrent_weights_begin_orthogonal_by_themselves(name, gates):
    blocks = cells.create(name, input_size=3, hidden_size=5).U.detach().reshape(gates, 5, 5)
    for block in blocks:
        torch.testing.assert_close(block @ block.T, torch.eye(5), rtol=0, atol=1e-5)
    assert len({float(block[0, 0]) for block in blocks}) == gates, "the gates must be drawn apart"


@pytest.mark.parametrize(("name", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_recurrent_weights_can_begin_as_the_identity_or_uniform(name, gates):
    identity = cells.create(name, input_size=3, hidden_size=5, recurrent_init="identity").U
    assert torch.equal(identity.detach(), torch.eye(5).repeat(gates, 1))
    uniform = cells.create(name, input_size=3, hidden_size=64, recurrent_init="uniform").U
    bound = 1 / math.sqrt(64)
    # Of 4,096 numbers or more, the largest is within a tenth of the bound but for one chance in 1e187.
    assert 0.9 * bound < uniform.abs().max() <= bound


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_input_weights_begin_glorot_uniform_gate_by_gate(name):
    W = cells.create(name, input_size=4, hidden_size=50).W.detach()
    bound = math.sqrt(6 / (4 + 50))  # of one gate; of all gates of an LSTM together it would be half of that
    for block in W.split(50):
        assert 0.9 * bound < block.abs().max() <= bound


def test_biases_begin_at_zero_and_the_forget_bias_where_it_is_told():
    for options, forget in (({}, 0.0), ({"forget_bias": 1.0}, 1.0), ({"forget_bias": -2.5}, -2.5)):
        i, f, g, o = cells.create("lstm", input_size=2, hidden_size=3, **options).b.detach().chunk(4)
        assert torch.equal(f, torch.full((3,), forget))
        assert not torch.cat([i, g, o]).any()
    gru = cells.create("gru", input_size=2, hidden_size=3)
    assert gru.b.shape == (9,)
    assert not gru.b.any()
    assert gru.b_u.shape == (3,)
    assert not gru.b_u.any()
    assert not cells.create("rnn", input_size=2, hidden_size=3).b.any()


@pytest.mark.parametrize("name", CELLS)
def test_without_bias_there_are_only_two_matrices(name):
    layer = make_layer(name, "auto", bias=False)
    assert sorted(key for key, _ in layer.cell.named_parameters()) == ["U", "W"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rnn", {"activation": "sigmoid"}, "activation='sigmoid' is not one of tanh, relu"),
        ("gru", {"reset": "never"}, "reset='never' is not one of after, before"),
        ("rnn", {"recurrent_init": "zeros"}, "recurrent_init='zeros' is not one of orthogonal, identity, uniform"),
        ("lstm", {"recurrent_init": "zeros"}, "recurrent_init='zeros' is not one of orthogonal, identity, uniform"),
        ("gru", {"recurrent_init": "zeros"}, "recurrent_init='zeros' is not one of orthogonal, identity, uniform"),
    ],
)
def test_a_wrong_choice_names_the_choices(name, options, message):
    with pytest.raises(InputError, match=message):
        cells.create(name, input_size=2, hidden_size=3, **options)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_sizes_must_be_at_least_one(name):
    with pytest.raises(InputError, match="hidden_size=0 must be a whole number of at least 1"):
        cells.create(name, input_size=2, hidden_size=0)
    with pytest.raises(InputError, match="input_size=-1 must be a whole number of at least 1"):
        cells.create(name, input_size=-1, hidden_size=2)


def test_a_forget_bias_without_biases_is_refused():
    with pytest.raises(InputError, match="needs bias=true"):
        cells.create("lstm", input_size=2, hidden_size=3, bias=False, forget_bias=1.0)
