"""Ablated, projected, searched and slow cells against torch.nn and torchrecurrent, with copied weights."""

import pytest
import torch
from torch import nn

from rnnlab import cells, engine
from rnnlab.layers import Recurrent

STEPS, BATCH, INPUT, HIDDEN = 7, 3, 5, 4


def make(name, width=INPUT, **options):
    """A cell in float64, its parameters drawn such that every term shows."""
    torch.manual_seed(0)
    cell = cells.create(name, input_size=width, hidden_size=HIDDEN, **options).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(std=0.5)
    return cell


def ours(cell):
    """Inputs, initial state, outputs."""
    inputs = torch.randn(STEPS, BATCH, cell.input_size, dtype=torch.float64)
    state = tuple(torch.randn_like(part) for part in cell.initial_state(BATCH))
    return inputs, state, Recurrent(cell, "fused")(inputs, state)[0].detach()


def theirs(kind, cell, weights, inputs, state, **options):
    """The outputs of torchrecurrent's cell; ``state`` as it takes it, outputs the first of what it gives."""
    peer = getattr(pytest.importorskip("torchrecurrent"), kind)(cell.input_size, HIDDEN, **options).double()
    assert set(weights) == {key for key, _ in peer.named_parameters()}
    outputs = []
    with torch.no_grad():
        for key, tensor in weights.items():
            getattr(peer, key).copy_(tensor)
        for x in inputs:
            state = peer(x, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(outputs)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def stacked(cell, **more):
    return {"weight_ih": cell.W, "weight_hh": cell.U, "bias_ih": cell.b, "bias_hh": torch.zeros(len(cell.U)), **more}


def test_lstm_1997():
    cell = make("lstm_1997")
    inputs, state, found = ours(cell)
    close(found, theirs("OriginalLSTMCell", cell, stacked(cell), inputs, state))


@pytest.mark.parametrize("options", [{}, {"bias": False}], ids=str)
def test_lstmp_is_that_of_torch(options):
    cell = make("lstmp", projection_size=3, **options)
    peer = nn.LSTM(INPUT, HIDDEN, proj_size=3, bias=cell.b is not None).double()
    weights = [cell.W, cell.U, *([] if cell.b is None else [cell.b, torch.zeros_like(cell.b)]), cell.P]
    with torch.no_grad():
        for parameter, weight in zip(peer.parameters(), weights, strict=True):
            parameter.copy_(weight)
    inputs, state, found = ours(cell)
    close(found, peer(inputs, tuple(part.unsqueeze(0) for part in state))[0].detach())


def test_nothing_taken_out_is_the_peephole_lstm():
    cell = make("lstm_ablation")
    inputs, state, found = ours(cell)
    weights = stacked(cell, weight_ph=cell.p)
    close(found, theirs("PeepholeLSTMCell", cell, weights, inputs, state))


def test_without_peepholes_it_is_that_of_torch():
    cell = make("lstm_ablation", peepholes=False)
    peer = nn.LSTM(INPUT, HIDDEN).double()
    with torch.no_grad():
        for parameter, weight in zip(peer.parameters(), [cell.W, cell.U, cell.b, 0 * cell.b], strict=True):
            parameter.copy_(weight)
    inputs, state, found = ours(cell)
    close(found, peer(inputs, tuple(part.unsqueeze(0) for part in state))[0].detach())


def test_coupled_gates_are_the_coupled_cell():
    """Two ways to the same cell, written apart: here i is named, there f = 1 - i."""
    cell, other = make("lstm_ablation", peepholes=False, coupled=True), make("cifg")
    with torch.no_grad():
        for name in ("W", "U", "b"):
            i, g, o = getattr(cell, name).chunk(3)
            getattr(other, name).copy_(torch.cat([-i, g, o]))
    inputs, state, found = ours(cell)
    close(found, Recurrent(other, "reference")(inputs, state)[0].detach())


def test_coupled_gates_are_an_lstm_of_torch_whose_input_gate_has_the_other_sign():
    """σ(-a) = 1 - σ(a)."""
    cell = make("cifg")
    peer = nn.LSTM(INPUT, HIDDEN).double()
    with torch.no_grad():
        for parameter, weight in zip(peer.parameters(), [cell.W, cell.U, cell.b, 0 * cell.b], strict=True):
            f, *rest = weight.chunk(3)
            parameter.copy_(torch.cat([-f, f, *rest]))
    inputs, state, found = ours(cell)
    close(found, peer(inputs, tuple(part.unsqueeze(0) for part in state))[0].detach())


def test_mut1():
    cell = make("mut1")
    b = torch.zeros(HIDDEN)
    weights = {"weight_ih": torch.cat([cell.W, cell.P]), "weight_hh": cell.U}
    weights |= {"bias_ih": torch.cat([cell.b[: 2 * HIDDEN], b]), "bias_hh": torch.cat([b, cell.b[2 * HIDDEN :]])}
    inputs, (state,), found = ours(cell)
    close(found, theirs("MUT1Cell", cell, weights, inputs, state))


@pytest.mark.parametrize("width", [INPUT, HIDDEN], ids=["projected", "as it is"])
def test_mut2(width):
    """torchrecurrent multiplies x with a matrix in the reset gate; the paper takes x as it is."""
    cell = make("mut2", width)
    W_z, W_n = cell.W.chunk(2)
    P = torch.eye(HIDDEN) if cell.P is None else cell.P
    weights = stacked(cell, weight_ih=torch.cat([W_z, P, W_n]))
    inputs, (state,), found = ours(cell)
    close(found, theirs("MUT2Cell", cell, weights, inputs, state))


def test_mut3():
    cell = make("mut3")
    inputs, (state,), found = ours(cell)
    close(found, theirs("MUT3Cell", cell, stacked(cell), inputs, state))


def test_intersection():
    cell = make("intersection", HIDDEN)
    inputs, (state,), found = ours(cell)
    peer = pytest.importorskip("torchrecurrent").IntersectionRNNCell(HIDDEN, HIDDEN).double()
    outputs = []
    with torch.no_grad():
        for key, tensor in stacked(cell).items():
            getattr(peer, key).copy_(tensor)
        for x in inputs:
            output, state = peer(x, state)
            outputs.append(output)
    close(found, torch.stack(outputs))


def test_nas_multiplies_where_its_authors_do():
    """torchrecurrent adds x^3 and h^3; the authors' NASCell in TensorFlow multiplies them, after which both agree."""
    cell = make("nas")
    x, (h, c), found = ours(cell)
    sigmoid, tanh, relu = torch.sigmoid, torch.tanh, torch.relu
    first = (sigmoid, relu, sigmoid, relu, tanh, sigmoid, tanh, sigmoid)
    outputs = []
    with torch.no_grad():
        for now in x:
            inputs, states = (now @ cell.W.t()).chunk(8, 1), (h @ cell.U.t() + cell.b).chunk(8, 1)
            joined = [a * b if k == 3 else a + b for k, (a, b) in enumerate(zip(inputs, states, strict=True))]
            one = [function(value) for function, value in zip(first, joined, strict=True)]
            two = [tanh(one[0] * one[1]), tanh(one[2] + one[3]), tanh(one[4] * one[5]), sigmoid(one[6] + one[7])]
            c = tanh(two[0] + c) * two[1]
            h = tanh(c * tanh(two[2] + two[3]))
            outputs.append(h)
    close(found, torch.stack(outputs))


def test_wmc_lstm():
    """torchrecurrent has further biases within the tanh; here they are zero."""
    cell = make("wmc_lstm")
    inputs, state, found = ours(cell)
    weights = stacked(cell, weight_mh=cell.V, bias_mh=torch.zeros(3 * HIDDEN))
    close(found, theirs("WMCLSTMCell", cell, weights, inputs, state))


@pytest.mark.parametrize("width", [INPUT, HIDDEN], ids=["projected", "as it is"])
def test_residual_lstm(width):
    """torchrecurrent projects x also where it is as wide as h; the identity takes it as it is, as the paper does."""
    cell = make("residual_lstm", width)
    inputs, state, found = ours(cell)
    R = torch.eye(HIDDEN) if cell.R is None else cell.R
    weights = stacked(cell, weight_ph=cell.p, weight_proj=cell.P, weight_res=R)
    close(found, theirs("ResLSTMCell", cell, weights, inputs, state))


class HardSigmoid(nn.Module):
    """That of Theano, Keras and Chainer; torch's own rises by 1/6, not by 0.2."""

    def forward(self, a):
        return (0.2 * a + 0.5).clamp(0, 1)


@pytest.mark.parametrize(("name", "kind"), [("sgu", "SGUCell"), ("dsgu", "DSGUCell")])
def test_simple_gated_units(name, kind):
    """torchrecurrent has a bias within the tanh as well; here it is zero."""
    cell = make(name)
    inputs, (state,), found = ours(cell)
    weights = stacked(cell, bias_hh=torch.zeros(2 * HIDDEN))
    if name == "dsgu":
        weights["weight_ho"] = cell.P
    close(found, theirs(kind, cell, weights, inputs, state, gate_nonlinearity=HardSigmoid()))


def test_taugru():
    cell = make("taugru", delay=2)
    inputs, (h, past), found = ours(cell)
    peer = pytest.importorskip("torchrecurrent").tauGRUCell(INPUT, HIDDEN).double()
    order = (0, 3, 1, 2)  # theirs stack u, z, g, a
    before = [*past.chunk(2, 1), h]
    outputs = []
    with torch.no_grad():
        for key, tensor in stacked(cell).items():
            getattr(peer, key).copy_(torch.cat([tensor.chunk(4)[k] for k in order]))
        for x in inputs:
            before.append(peer(x, before[-1], before[-3]))
            outputs.append(before[-1])
    close(found, torch.stack(outputs))


def test_clockwork_with_one_product_for_all_modules():
    """A step of all modules, which is then taken back for those whose turn it is not."""
    cell = make("clockwork", clocks=3)
    inputs = torch.randn(13, BATCH, INPUT, dtype=torch.float64)
    period = cell.period.long()
    R = torch.where(period >= period[:, None], cell.U, 0).detach()  # from slower modules and from the own
    h, outputs = torch.zeros(BATCH, HIDDEN, dtype=torch.float64), []
    for t, x in enumerate(inputs):
        stepped = (x @ cell.W.t() + cell.b + h @ R.t()).tanh().detach()
        h = torch.where(t % period == 0, stepped, h)
        outputs.append(h)
    for backend in engine.backends_of(cell):
        close(Recurrent(cell, backend)(inputs)[0].detach(), torch.stack(outputs))


def test_clocks_go_on_where_a_sequence_is_split():
    cell = make("clockwork", clocks=3)
    inputs = torch.randn(13, BATCH, INPUT, dtype=torch.float64)
    for backend in engine.backends_of(cell):
        layer = Recurrent(cell, backend)
        outputs, _ = layer(inputs)
        changes = (outputs[1:] - outputs[:-1]).abs().amax(1) > 0  # [T - 1, H]
        for unit, period in enumerate(cell.period.int().tolist()):
            assert [t for t in range(1, 13) if changes[t - 1, unit]] == list(range(period, 13, period))
        first, state = layer(inputs[:5])
        torch.testing.assert_close(torch.cat([first, layer(inputs[5:], state)[0]]), outputs, rtol=0, atol=1e-14)
