"""The cells of differential equations against other implementations of them."""

import pytest
import torch

from rnnlab import cells
from rnnlab.layers import Recurrent

STEPS, BATCH, INPUT, HIDDEN = 7, 3, 5, 4
CLOSE = {"rtol": 0, "atol": 1e-12}


def _make(name, **options):
    """A cell in float64 with random parameters."""
    torch.manual_seed(0)
    cell = cells.create(name, input_size=INPUT, hidden_size=HIDDEN, **options).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(std=0.5)
    return cell


def _sequence(cell):
    inputs = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    return inputs, tuple(torch.randn_like(part) for part in cell.initial_state(BATCH))


def _run(step, inputs, state):
    """The outputs and the final state of a function ``(x, state) -> state``, whose first state is its output."""
    outputs = []
    for x in inputs:
        state = step(x, state)
        outputs.append(state[0])
    return torch.stack(outputs), state


def _compare(cell, step):
    inputs, state = _sequence(cell)
    with torch.no_grad():
        torch.testing.assert_close(Recurrent(cell, "reference")(inputs, state), _run(step, inputs, state), **CLOSE)


def _load(peer, **weights):
    with torch.no_grad():
        for name, tensor in weights.items():
            getattr(peer, name).copy_(tensor)
    return peer


def test_cornn():
    torchrecurrent = pytest.importorskip("torchrecurrent")
    numbers = {"dt": 0.2, "gamma": 1.7, "epsilon": 0.8}
    cell = _make("cornn", **numbers)
    peer = torchrecurrent.coRNNCell(INPUT, HIDDEN, **numbers).double()
    zero = torch.zeros(HIDDEN)
    _load(peer, weight_ih=cell.W, weight_hh=cell.U_y, weight_ch=cell.U_z, bias_ih=cell.b, bias_hh=zero, bias_ch=zero)
    _compare(cell, peer)


def test_unicornn():
    torchrecurrent = pytest.importorskip("torchrecurrent")
    cell = _make("unicornn", dt=0.3, alpha=1.7)
    peer = torchrecurrent.UnICORNNCell(INPUT, HIDDEN, dt=0.3, alpha=1.7).double()
    _load(peer, weight_ih=cell.W, weight_hh=cell.u, weight_ch=cell.c, bias_ih=cell.b)
    _compare(cell, peer)


def _blocks(tensor):
    """The rows of gates 1, 2, z, y in the authors' order 2, 1, y, z, or those of 1, 2, z as 2, 1, z."""
    first, second, *rest = tensor.split(HIDDEN)
    return torch.cat([second, first, *rest])


def test_lem_and_a_mistake_of_torchrecurrent():
    # torchrecurrent takes the old z for the new y. The paper (equation 3) and the authors' code take the new one.
    torchrecurrent = pytest.importorskip("torchrecurrent")
    cell = _make("lem", dt=0.7)
    peer = torchrecurrent.LEMCell(INPUT, HIDDEN, dt=0.7).double()
    zero = torch.zeros(1)
    _load(peer, weight_ih=_blocks(cell.W), weight_hh=_blocks(cell.U), weight_ch=cell.U_y)
    _load(peer, bias_ih=_blocks(cell.b), bias_hh=zero, bias_ch=zero)

    def mended(x, state):
        y, z = state
        z = peer(x, (y, z))[1]
        return peer(x, (y, z))[0], z

    _compare(cell, mended)
    inputs, state = _sequence(cell)
    with torch.no_grad():
        as_it_is, ours = _run(peer, inputs, state)[0], Recurrent(cell, "reference")(inputs, state)[0]
    assert (as_it_is - ours).abs().max() > 0.1


def test_lem_as_the_authors_wrote_it():
    # The cell of the authors' repository: one layer over x for 4 blocks, one over y for 3, one over z.
    cell = _make("lem", dt=0.7)
    of_x, of_y, of_z = _blocks(cell.W), _blocks(cell.U), cell.U_y
    b_2, b_1, b_z, b_y = _blocks(cell.b).chunk(4)

    def step(x, state):
        y, z = state
        x_2, x_1, x_z, x_y = (x @ of_x.t()).chunk(4, 1)
        y_2, y_1, y_z = (y @ of_y.t()).chunk(3, 1)
        slow, fast = 0.7 * torch.sigmoid(x_2 + y_2 + b_2), 0.7 * torch.sigmoid(x_1 + y_1 + b_1)
        z = z - fast * z + fast * torch.tanh(x_z + y_z + b_z)
        y = y - slow * y + slow * torch.tanh(z @ of_z.t() + x_y + b_y)
        return y, z

    _compare(cell, step)


def test_lipschitz_as_the_authors_wrote_it():
    # There rows are multiplied from the right, h A, so that their parameters are the transposed of ours.
    beta, gamma, eps = 0.65, 0.1, 0.3
    cell = _make("lipschitz", beta=beta, gamma=gamma, eps=eps)
    eye = torch.eye(HIDDEN, dtype=torch.float64)

    def built(M):
        return beta * (M - M.t()) + (1 - beta) * (M + M.t()) - gamma * eye

    A, W = built(cell.M_A.t()), built(cell.M_U.t())

    def step(x, state):
        (h,) = state
        z = torch.nn.functional.linear(x, cell.W, cell.b)
        return (h + eps * torch.matmul(h, A) + eps * torch.tanh(torch.matmul(h, W) + z),)

    _compare(cell, step)


def _ltc(**options):
    """An LTC and the cell of ncps with the same weights."""
    # In ncps a neuron's f is a sum over its synapses, each with its own slope, threshold and reversal potential;
    # the paper's f is one function of the neuron. They are the same thing for neurons of one synapse.
    ncps = pytest.importorskip("ncps")
    torch_ncps = pytest.importorskip("ncps.torch")
    pytest.importorskip("ncps.wirings")
    cell = _make("ltc", unfolds=4, **options)
    sources = [INPUT + 2, 1, INPUT + 0, INPUT + 3]  # of neuron 0, 1, ...: an input, or, from INPUT on, a neuron
    slope = torch.tensor([1.3, -0.7, 0.9, 2.1], dtype=torch.float64)
    both = torch.zeros(INPUT + HIDDEN, HIDDEN, dtype=torch.float64)
    present = both.clone()
    for neuron, source in enumerate(sources):
        both[source, neuron], present[source, neuron] = slope[neuron], 1.0
    _load(cell, W=both[:INPUT].t(), U=both[INPUT:].t())
    wiring = ncps.wirings.FullyConnected(HIDDEN)
    mappings = {"input_mapping": None, "output_mapping": None}
    peer = torch_ncps.LTCCell(wiring, INPUT, ode_unfolds=4, epsilon=0.0, **mappings).double()
    threshold, reversal = (-cell.b / slope).expand(INPUT + HIDDEN, -1), cell.A.expand(INPUT + HIDDEN, -1)
    ones = torch.ones(INPUT + HIDDEN, HIDDEN)
    for prefix, rows in (("sensory_", slice(None, INPUT)), ("", slice(INPUT, None))):
        values = {
            "w": present,
            "sigma": slope.expand_as(both),
            "mu": threshold,
            "erev": reversal,
            "sparsity_mask": ones,
        }
        _load(peer, **{prefix + name: tensor[rows] for name, tensor in values.items()})
    tau = torch.nn.functional.softplus(cell.rho)
    _load(peer, cm=torch.ones(HIDDEN), gleak=1 / tau, vleak=torch.zeros(HIDDEN))
    return cell, peer


def test_ltc_of_neurons_with_one_synapse():
    cell, peer = _ltc(elapsed=0.9)
    _compare(cell, lambda x, state: (peer(x, state[0], 0.9)[1],))


def _times():
    return torch.rand(STEPS, BATCH, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2


def _compare_timed(cell, module):
    """Compare with a layer of ncps that gets ``timespans``, one sequence at a time."""
    inputs, (state,) = _sequence(cell)
    elapsed = _times()
    with torch.no_grad():
        outputs, (final,) = Recurrent(cell)(inputs, (state,), elapsed=elapsed)
        for b in range(BATCH):
            one = slice(b, b + 1)
            theirs, last = module(inputs[:, one], state[one], timespans=elapsed[:, one])
            torch.testing.assert_close((outputs[:, one], final[one]), (theirs, last), **CLOSE)


def test_ltc_with_elapsed_times():
    cell, peer = _ltc()
    module = pytest.importorskip("ncps.torch").LTC(INPUT, HIDDEN, batch_first=False)
    module.rnn_cell = peer
    _compare_timed(cell, module)


def _cfc(mode, layers, activation, **own):
    """A CfC, and the cell of ncps with the same weights but those of the time heads."""
    torch_ncps = pytest.importorskip("ncps.torch")
    options = {"mode": mode, "backbone_units": 6, "backbone_layers": layers}
    cell = _make("cfc", activation=activation, **own, **options)
    peer = torch_ncps.CfCCell(INPUT, HIDDEN, backbone_activation=activation, **options).double()
    weights = [torch.cat([cell.W, cell.U], 1), *cell.V]
    biases = [cell.b, *cell.c]
    linears = [module for module in peer.backbone or [] if isinstance(module, torch.nn.Linear)]
    for linear, weight, bias in zip(linears, weights, biases, strict=False):
        _load(linear, weight=weight, bias=bias)
    if mode == "pure":
        _load(peer.ff1, weight=weights[-1], bias=biases[-1])
        _load(peer, A=cell.A, w_tau=cell.w_tau)
        return cell, peer
    heads = (peer.ff1, peer.ff2, peer.time_a, peer.time_b)  # g, k, f, and o if the cell has it
    rows = (part.split(HIDDEN) for part in (weights[-1], biases[-1]))
    for head, weight, bias in zip(heads, *rows, strict=False):
        _load(head, weight=weight, bias=bias)
    return cell, peer


@pytest.mark.parametrize("mode", ["default", "no_gate", "pure"])
@pytest.mark.parametrize(("layers", "activation"), [(0, "lecun_tanh"), (1, "lecun_tanh"), (2, "silu"), (1, "gelu")])
def test_cfc(mode, layers, activation):
    elapsed = 0.8
    cell, peer = _cfc(mode, layers, activation, elapsed=elapsed)
    if mode != "pure":
        # Theirs is σ(a T + b) of two heads, ours σ(f T) of one: the same where f = a + b/T.
        with torch.no_grad():
            for of_a, of_b in zip(peer.time_a.parameters(), peer.time_b.parameters(), strict=True):
                of_b.normal_()
                of_a.sub_(of_b / elapsed)
    _compare(cell, lambda x, state: (peer(x, state[0], elapsed)[0],))


@pytest.mark.parametrize(
    ("mode", "offset"), [("default", True), ("no_gate", True), ("default", False), ("pure", False)]
)
def test_cfc_with_elapsed_times(mode, offset):
    cell, peer = _cfc(mode, 1, "lecun_tanh", offset=offset)
    if mode != "pure" and not offset:
        _load(peer.time_b, weight=torch.zeros(()), bias=torch.zeros(()))
    module = pytest.importorskip("ncps.torch").CfC(INPUT, HIDDEN, batch_first=False, mode=mode)
    module.rnn_cell = peer
    _compare_timed(cell, module)


def test_the_step_of_unicornn_keeps_its_energy():
    # The point of the paper's scheme: without input it is symplectic, so that energy neither grows nor decays.
    cell = _make("unicornn", dt=0.05)
    inputs = torch.zeros(20_000, 1, INPUT, dtype=torch.float64)
    state = tuple(torch.randn(1, HIDDEN, dtype=torch.float64) for _ in range(2))

    def energy(y, z):  # of each neuron: kinetic, elastic, and that of the controlled force
        return z**2 / 2 + cell.alpha * y**2 / 2 + torch.cosh(cell.u * y + cell.b).log() / cell.u

    with torch.no_grad():
        _, final = Recurrent(cell)(inputs, state)
        assert ((energy(*final) - energy(*state)) / energy(*state)).abs().max() < 0.05


def test_a_neuron_of_ltc_stays_between_zero_and_its_reversal_potential():
    # Theorem 2 of the paper, for inputs however large.
    cell = _make("ltc")
    with torch.no_grad():
        outputs, _ = Recurrent(cell)(1000 * torch.randn(50, BATCH, INPUT, dtype=torch.float64))
    low, high = cell.A.clamp(max=0), cell.A.clamp(min=0)
    assert ((outputs >= low) & (outputs <= high)).all()
