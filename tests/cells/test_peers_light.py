"""The light cells against other implementations of them."""

import pytest
import torch

from rnnlab import cells
from rnnlab.layers import Recurrent

STEPS, BATCH, INPUT, HIDDEN = 7, 3, 5, 4
CLOSE = {"rtol": 0, "atol": 1e-12}
ZERO = torch.zeros(1)


def _make(name, **options):
    """A cell in float64 with random parameters."""
    torch.manual_seed(0)
    cell = cells.create(name, input_size=INPUT, hidden_size=HIDDEN, **options).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(std=0.5)
    return cell


def _peer(name, weights, **options):
    """A cell of torchrecurrent with these weights, as a function ``(x, state) -> state`` of tuples."""
    kind = getattr(pytest.importorskip("torchrecurrent"), name)
    peer = kind(INPUT, HIDDEN, **options).double()
    assert set(weights) == {key for key, _ in peer.named_parameters()}
    with torch.no_grad():
        for key, tensor in weights.items():
            getattr(peer, key).copy_(tensor)

    def step(x, state):
        new = peer(x, state if len(state) > 1 else state[0])
        return new if isinstance(new, tuple) else (new,)

    return step


def _outputs(cell, step):
    """The outputs and final states of the cell and of its peer."""
    inputs = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    state = start = tuple(torch.randn_like(part) for part in cell.initial_state(BATCH))
    outputs = []
    with torch.no_grad():
        for x in inputs:
            state = step(x, state)
            outputs.append(state[0])
        return Recurrent(cell, "reference")(inputs, start), (torch.stack(outputs), state)


def _compare(cell, step):
    ours, theirs = _outputs(cell, step)
    torch.testing.assert_close(ours, theirs, **CLOSE)


def _order(tensor, *parts):
    """The equal parts of a weight, as many as there are, in another order."""
    pieces = tensor.chunk(len(parts))
    return torch.cat([pieces[part] for part in parts])


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_indrnn(activation):
    cell = _make("indrnn", activation=activation)
    weights = {"weight_ih": cell.W, "vector_u": cell.u, "bias_ih": cell.b, "bias_hh": ZERO}
    _compare(cell, _peer("IndRNNCell", weights, nonlinearity=activation))


def test_ligru_without_a_norm():
    # torchrecurrent has no norm; the paper and the authors' code have batch norm.
    cell = _make("ligru", norm="none")
    weights = {"weight_ih": cell.W, "weight_hh": cell.U, "bias_ih": cell.b, "bias_hh": ZERO}
    _compare(cell, _peer("LiGRUCell", weights))


def test_lightru():
    # torchrecurrent has a bias in the candidate; the paper has none.
    cell = _make("lightru")
    bias = torch.cat([torch.zeros(HIDDEN), cell.b])
    weights = {"weight_ih": _order(cell.W, 1, 0), "weight_hh": cell.U, "bias_ih": bias, "bias_hh": ZERO}
    _compare(cell, _peer("LightRUCell", weights))


def test_ran():
    cell = _make("ran")
    weights = {"weight_ih": _order(cell.W, 2, 0, 1), "weight_hh": cell.U, "bias_ih": cell.b, "bias_hh": ZERO}
    _compare(cell, _peer("RANCell", weights))


def test_atr():
    # torchrecurrent has a bias in p, too; the authors' code has the one in q alone.
    cell = _make("atr")
    weights = {"weight_ih": cell.W, "weight_hh": cell.U, "bias_ih": ZERO, "bias_hh": cell.b}
    _compare(cell, _peer("ATRCell", weights))


def test_cfn():
    # torchrecurrent has a bias within tanh(W x); the paper has none.
    cell = _make("cfn")
    bias = torch.cat([cell.b, torch.zeros(HIDDEN)])
    weights = {"weight_ih": cell.W, "weight_hh": cell.U, "bias_ih": bias, "bias_hh": ZERO}
    _compare(cell, _peer("CFNCell", weights))


def test_star():
    cell = _make("star")
    weights = {"weight_ih": _order(cell.W, 1, 0), "weight_hh": cell.U, "bias_ih": _order(cell.b, 1, 0), "bias_hh": ZERO}
    _compare(cell, _peer("STARCell", weights))


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_fastrnn(activation):
    cell = _make("fastrnn", activation=activation)
    weights = {"weight_ih": cell.W, "weight_hh": cell.U, "bias_ih": cell.b, "bias_hh": ZERO}
    weights |= {"alpha": cell.alpha, "beta": cell.beta}
    _compare(cell, _peer("FastRNNCell", weights, nonlinearity=activation))


def test_fastrnn_begins_by_keeping_its_state():
    # As in the authors' code. torchrecurrent has the two numbers the other way round, and begins by forgetting.
    cell = cells.create("fastrnn", input_size=INPUT, hidden_size=HIDDEN)
    assert cell.alpha.sigmoid() < 0.05 < 0.95 < cell.beta.sigmoid()
    peer = pytest.importorskip("torchrecurrent").FastRNNCell(INPUT, HIDDEN)
    assert (peer.alpha, peer.beta) == (cell.beta, cell.alpha)


def test_fastgrnn_and_a_mistake_of_torchrecurrent():
    # Its gate is a tanh unless told otherwise. In the paper, in the authors' code and in its own documentation the
    # gate is a sigmoid.
    cell = _make("fastgrnn")
    weights = {"weight_ih": cell.W, "weight_hh": cell.U, "bias_ih": cell.b, "bias_hh": ZERO}
    weights |= {"zeta": cell.zeta, "nu": cell.nu}
    _compare(cell, _peer("FastGRNNCell", weights, nonlinearity="sigmoid"))
    (ours, _), (theirs, _) = _outputs(cell, _peer("FastGRNNCell", weights))
    assert (ours - theirs).abs().max() > 0.1


@pytest.mark.parametrize("ranks", [{}, {"w_rank": 2}, {"u_rank": 3}, {"w_rank": 1, "u_rank": 2}])
def test_fastgrnn_as_the_authors_wrote_it(ranks):
    # EdgeML's PyTorch cell: its W1 is the factor that x meets first, our W_2; so it is for U.
    cell = _make("fastgrnn", **ranks)
    gate, update = cell.b.chunk(2)

    def product(vector, name):
        if f"{name.lower()}_rank" not in ranks:
            return torch.matmul(vector, getattr(cell, name).t())
        first, second = getattr(cell, f"{name}_2"), getattr(cell, f"{name}_1")
        return torch.matmul(torch.matmul(vector, first.t()), second.t())

    def step(x, state):
        (h,) = state
        both = product(x, "W") + product(h, "U")
        z, c = torch.sigmoid(both + gate), torch.tanh(both + update)
        return (z * h + (torch.sigmoid(cell.zeta) * (1.0 - z) + torch.sigmoid(cell.nu)) * c,)

    _compare(cell, step)


def test_minimalrnn():
    cell = _make("minimalrnn")
    b_u, b_z = cell.b.chunk(2)
    weights = {"weight_ih": cell.W, "weight_hh": cell.U, "weight_mm": cell.U_z, "bias_ih": b_z, "bias_hh": b_u}
    _compare(cell, _peer("MinimalRNNCell", weights))


NUMBERS = {"eps": 0.3, "gamma": 0.2}
THEIRS = {"epsilon": 0.3, "gamma": 0.2}


def test_antisymmetric():
    cell = _make("antisymmetric", **NUMBERS)
    weights = {"weight_ih": cell.W, "weight_hh": cell.M, "bias_ih": cell.b, "bias_hh": ZERO}
    _compare(cell, _peer("AntisymmetricRNNCell", weights, **THEIRS))


def test_gated_antisymmetric():
    cell = _make("gated_antisymmetric", **NUMBERS)
    weights = {"weight_ih": cell.W, "weight_hh": cell.M, "bias_ih": cell.b, "bias_hh": ZERO}
    _compare(cell, _peer("GatedAntisymmetricRNNCell", weights, **THEIRS))


@pytest.mark.parametrize("name", ["brc", "nbrc"])
def test_bistable(name):
    # torchrecurrent has a bias within the outer tanh; the authors' code has none.
    cell = _make(name)
    bias = torch.cat([cell.b, torch.zeros(HIDDEN)])
    recurrent = cell.u if name == "brc" else cell.U
    weights = {"weight_ih": cell.W, "weight_hh": recurrent, "bias_ih": bias, "bias_hh": ZERO}
    _compare(cell, _peer({"brc": "BRCell", "nbrc": "NBRCell"}[name], weights))


def test_the_eigenvalues_of_an_antisymmetric_cell():
    # Section 3 of the paper: those of M - Mᵀ are imaginary, the damping moves all of them to -γ.
    cell = _make("antisymmetric", **NUMBERS)
    (U, _), _ = cell.prepare(torch.zeros(1, 1, INPUT, dtype=torch.float64))
    real = torch.linalg.eigvals(U).real
    torch.testing.assert_close(real, torch.full_like(real, -0.2), **CLOSE)


def test_a_chaos_free_network_decays_without_input():
    # Its only attractor is zero: |h_t| <= |tanh(h_{t-1})|, unit by unit.
    cell = _make("cfn")
    inputs = torch.zeros(50, BATCH, INPUT, dtype=torch.float64)
    start = (3 * torch.randn(BATCH, HIDDEN, dtype=torch.float64),)
    with torch.no_grad():
        outputs, _ = Recurrent(cell)(inputs, start)
    path = torch.cat([start[0][None], outputs])
    assert (path[1:].abs() <= path[:-1].tanh().abs()).all()


def test_a_bistable_unit_holds_either_of_two_states():
    # Without input and with a > 1, h = tanh(a h) has two stable solutions besides 0; with a < 1 only 0.
    cell = _make("brc")
    inputs = torch.zeros(500, 2, INPUT, dtype=torch.float64)
    start = (torch.tensor([[0.5], [-0.5]], dtype=torch.float64).expand(2, HIDDEN),)
    with torch.no_grad():
        cell.u.zero_()
        for bias, bistable in ((1.0, True), (-1.0, False)):
            cell.b.copy_(torch.tensor([bias] * HIDDEN + [0.0] * HIDDEN))
            _, (final,) = Recurrent(cell)(inputs, start)
            if bistable:
                assert (final * final.new_tensor([[1.0], [-1.0]]) > 0.8).all()
            else:
                assert (final.abs() < 1e-6).all()


def test_layer_norm_keeps_the_scale_of_the_inputs_out():
    # What the norm is for: neither cell sees how large its inputs are.
    for name in ("indrnn", "ligru"):
        cell = _make(name, norm="layer")
        inputs = 10 * torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
        with torch.no_grad():
            small, large = Recurrent(cell)(inputs)[0], Recurrent(cell)(100 * inputs)[0]
        torch.testing.assert_close(small, large, rtol=0, atol=1e-4)
