"""The cells with a memory of its own kind against other implementations of them."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from rnnlab import cells, engine
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


def _compare(cell, step):
    """Every backend against ``step``, a function ``(x, state) -> (output, state)``, from a random state."""
    inputs = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    state = start = tuple(torch.rand_like(part) for part in cell.initial_state(BATCH))
    outputs = []
    with torch.no_grad():
        for x in inputs:
            output, state = step(x, state)
            outputs.append(output)
        for backend in engine.backends_of(cell):
            ours = Recurrent(cell, backend)(inputs, start)
            torch.testing.assert_close(ours, (torch.stack(outputs), state), **CLOSE)


@pytest.mark.parametrize(("order", "theta"), [(1, 3.0), (4, 4.0), (32, 100.0), (64, 784.0)])
def test_the_memory_of_the_lmu_is_held_exactly(order, theta):
    # scipy's zero-order hold of the paper's A and B, written out again.
    signal = pytest.importorskip("scipy.signal")
    A = [[(2 * i + 1) * (-1 if i < j else (-1) ** (i - j + 1)) / theta for j in range(order)] for i in range(order)]
    B = [[(2 * i + 1) * (-1) ** i / theta] for i in range(order)]
    system = [torch.tensor(part, dtype=torch.float64).numpy() for part in (A, B, [[0.0] * order], [[0.0]])]
    expected = signal.cont2discrete(system, dt=1.0, method="zoh")
    cell = cells.create("lmu", input_size=2, hidden_size=3, order=order, theta=theta)
    for ours in (cell.double(), cell.half().double()):  # also after a cell was rounded
        torch.testing.assert_close(ours.A, torch.tensor(expected[0]), rtol=0, atol=1e-11)
        torch.testing.assert_close(ours.B, torch.tensor(expected[1]).squeeze(1), rtol=0, atol=1e-11)


def test_lmu_as_the_authors_wrote_it():
    # The LMUCell of the lmu package: it keeps Ā - I, and adds to m.
    cell = _make("lmu", order=6, theta=10.0)
    AT, BT = (cell.A - torch.eye(6)).t(), cell.B.unsqueeze(0)

    def step(x, state):
        h, m = state
        u = x @ cell.e_x.t() + h @ cell.e_h.t() + m @ cell.e_m.t()
        m = m + m @ AT + u @ BT
        h = torch.tanh(x @ cell.W.t() + h @ cell.U.t() + m @ cell.V.t())
        return h, (h, m)

    _compare(cell, step)


@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0])
def test_the_memory_of_the_lmu_holds_the_last_theta_steps(delay):
    # Equation 3: u(t - θ') is the sum of the shifted Legendre polynomials at θ'/θ, weighted with m.
    legendre = pytest.importorskip("numpy").polynomial.legendre
    order, theta = 12, 200.0
    A, B = cells.create("lmu", input_size=1, hidden_size=1, order=order, theta=theta).fixed().values()
    time = torch.arange(800, dtype=torch.float64)
    u = (time / 60).sin() + 0.5 * (time / 35).cos()
    m = torch.zeros(order, dtype=torch.float64)
    for number in u:
        m = A @ m + B * number
    found = float(legendre.legval(2 * delay - 1, m.numpy()))
    assert abs(found - float(u[-1 - round(delay * theta)])) < 0.02


def test_slstm_as_the_authors_wrote_it():
    # xlstm's slstm_forward_pointwise.
    cell = _make("slstm")

    def step(x, state):
        y, c, n, m = state
        iraw, fraw, zraw, oraw = (x @ cell.W.t() + y @ cell.U.t() + cell.b).chunk(4, dim=1)
        logfplusm = m + logsigmoid(fraw)
        mnew = torch.max(iraw, logfplusm)
        ogate = torch.sigmoid(oraw)
        igate, fgate = torch.exp(iraw - mnew), torch.exp(logfplusm - mnew)
        cnew = fgate * c + igate * torch.tanh(zraw)
        nnew = fgate * n + igate
        ynew = ogate * cnew / nnew
        return ynew, (ynew, cnew, nnew, mnew)

    _compare(cell, step)


def test_where_the_stabiliser_of_the_slstm_begins_makes_no_difference():
    # The authors' code begins it at the first ĩ; from zero, as here, the outputs are the same.
    cell = _make("slstm")
    inputs = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    h, c, n, m = cell.initial_state(BATCH)
    with torch.no_grad():
        for start in (-50.0, 3.0):
            torch.testing.assert_close(Recurrent(cell)(inputs, (h, c, n, m + start))[0], Recurrent(cell)(inputs)[0])


@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
def test_the_stabilised_slstm_is_the_one_of_the_equations(forget_gate):
    # Equations 8 to 14 as they stand, with nothing divided by exp(m).
    cell = _make("slstm", forget_gate=forget_gate)
    inputs = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    h, c, n, _ = cell.initial_state(BATCH)
    with torch.no_grad():
        for x, output in zip(inputs, Recurrent(cell)(inputs)[0], strict=True):
            i, f, z, o = (x @ cell.W.t() + h @ cell.U.t() + cell.b).chunk(4, dim=1)
            f = f.sigmoid() if forget_gate == "sigmoid" else f.exp()
            c, n = f * c + i.exp() * z.tanh(), f * n + i.exp()
            h = o.sigmoid() * c / n
            torch.testing.assert_close(output, h, **CLOSE)


def test_an_exponential_gate_does_not_overflow():
    # exp(200) is beyond float32.
    cell = cells.create("slstm", input_size=INPUT, hidden_size=HIDDEN)
    with torch.no_grad():
        cell.b[:HIDDEN] = 200.0
    outputs, _ = Recurrent(cell)(torch.randn(20, BATCH, INPUT))
    assert outputs.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(outputs.sum(), list(cell.parameters())))


def test_esn():
    nodes = pytest.importorskip("reservoirpy").nodes
    cell = _make("esn", leak=0.3)
    bias, W = cell.W[:, 0].numpy(), cell.W[:, 1:].numpy()
    peer = nodes.Reservoir(lr=0.3, W=cell.R.numpy(), Win=W, bias=bias)
    inputs = torch.randn(STEPS, INPUT, dtype=torch.float64)
    states = torch.from_numpy(peer.run(inputs.numpy()))
    outputs, (h,) = Recurrent(cell)(inputs.unsqueeze(1))
    torch.testing.assert_close(h, states[-1:], **CLOSE)
    ones = torch.ones(STEPS, 1, dtype=torch.float64)
    torch.testing.assert_close(outputs.squeeze(1), torch.cat([ones, inputs, states], dim=1) @ cell.V.t(), **CLOSE)


@pytest.mark.parametrize(("size", "sparsity"), [(1, 0.5), (4, 0.99), (100, 0.9), (50, 0.0)])
def test_a_reservoir_has_its_spectral_radius(size, sparsity):
    torch.manual_seed(0)
    R = cells.create("esn", input_size=INPUT, hidden_size=size, spectral_radius=0.7, sparsity=sparsity).R
    radius = torch.linalg.eigvals(R.double()).abs().max()
    torch.testing.assert_close(radius, torch.tensor(0.7, dtype=torch.float64), rtol=0, atol=1e-3)
    assert abs(float((R == 0).double().mean()) - sparsity) <= 0.02 + 1 / size


def test_a_reservoir_forgets_its_initial_state():
    # The echo state property: two initial states, the same inputs, the same state in the end.
    cell = cells.create("esn", input_size=INPUT, hidden_size=100).double()
    inputs = torch.randn(400, 1, INPUT, dtype=torch.float64)
    with torch.no_grad():
        finals = [Recurrent(cell)(inputs, (torch.randn(1, 100, dtype=torch.float64),))[1][0] for _ in range(2)]
    torch.testing.assert_close(*finals, rtol=0, atol=1e-6)


def test_the_optimizer_leaves_a_reservoir_alone():
    cell = cells.create("esn", input_size=INPUT, hidden_size=HIDDEN)
    assert [name for name, _ in cell.named_parameters()] == ["V"]
    assert {"W", "R"} <= set(cell.state_dict())
