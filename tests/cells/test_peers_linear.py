"""The linear cells and their nearest relatives against other implementations of them."""

import pytest
import torch
from torch.nn.functional import layer_norm, logsigmoid, silu, softplus

from rnnlab import cells, engine
from rnnlab.layers import Recurrent

STEPS, BATCH, INPUT, HIDDEN = 7, 3, 5, 4
CLOSE = {"rtol": 0, "atol": 1e-12}
ZERO = torch.zeros(1)


def _make(name, input_size=INPUT, **options):
    """A cell in float64 with random parameters."""
    torch.manual_seed(0)
    cell = cells.create(name, input_size=input_size, hidden_size=HIDDEN, **options).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(std=0.5)
    return cell


def _compare(cell, step):
    """Every backend against ``step``, a function ``(x, state) -> (output, state)``, from a random state."""
    inputs = torch.randn(STEPS, BATCH, cell.input_size, dtype=torch.float64)
    state = start = tuple(torch.randn_like(part) for part in cell.initial_state(BATCH))
    if "v" in cell.states:  # V x_{-1}, which not every v is
        state = start = (start[0], torch.randn_like(inputs[0]) @ cell.V.detach().t())
    outputs = []
    with torch.no_grad():
        for x in inputs:
            output, state = step(x, state)
            outputs.append(output)
        for backend in engine.backends_of(cell):
            ours = Recurrent(cell, backend)(inputs, start)
            torch.testing.assert_close(ours, (torch.stack(outputs), state), **CLOSE)


def _peer(name, **weights):
    """A cell of torchrecurrent with these weights."""
    peer = getattr(pytest.importorskip("torchrecurrent"), name)(INPUT, HIDDEN).double()
    assert set(weights) == {key for key, _ in peer.named_parameters()}
    with torch.no_grad():
        for key, tensor in weights.items():
            getattr(peer, key).copy_(tensor)
    return peer


def test_trnn():
    # torchrecurrent has a bias in z, too; the paper has the one in f alone.
    cell = _make("trnn")
    peer = _peer("TRNNCell", weight_ih=cell.W, bias_ih=torch.cat([torch.zeros(HIDDEN), cell.b]))

    def step(x, state):
        h = peer(x, *state)
        return h, (h,)

    _compare(cell, step)


def _last_input(cell, v):
    """x_{t-1} of v = V x_{t-1}, where V has more rows than columns."""
    return v @ torch.linalg.pinv(cell.V.detach()).t()


def test_tgru():
    cell = _make("tgru")
    peer = _peer("TGRUCell", weight_ih=cell.W, weight_hh=cell.V, bias_ih=cell.b, bias_hh=ZERO)

    def step(x, state):
        h, x = peer(x, (state[0], _last_input(cell, state[1])))
        return h, (h, x @ cell.V.t())

    _compare(cell, step)


def test_tlstm():
    cell = _make("tlstm")
    peer = _peer("TLSTMCell", weight_ih=cell.W, weight_hh=cell.V, bias_ih=cell.b, bias_hh=ZERO)

    def step(x, state):
        h, (c, x) = peer(x, (state[0], _last_input(cell, state[1])))
        return h, (c, x @ cell.V.t())

    _compare(cell, step)


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("pooling", ["f", "fo"])
def test_qrnn_as_the_authors_wrote_it(pooling, window):
    # pytorch-qrnn's forget gate is one minus the paper's: it adds f ⊙ z and keeps 1 - f. It has no ifo-pooling.
    cell = _make("qrnn", pooling=pooling, window=window)

    def step(x, state):
        c, *last = state
        Y = x @ cell.W.t() + cell.b + (last[0] if last else 0)
        Z, F, *output_gate = Y.chunk(2 if pooling == "f" else 3, dim=1)
        Z, F = torch.tanh(Z), torch.sigmoid(-F)
        c = F * Z + (1 - F) * c
        h = torch.sigmoid(output_gate[0]) * c if output_gate else c
        return h, (c, x @ cell.V.t()) if last else (c,)

    _compare(cell, step)


@pytest.mark.parametrize("input_size", [INPUT, HIDDEN])
@pytest.mark.parametrize(
    ("name", "options", "activation"),
    [
        ("sru", {}, lambda c: c),
        ("sru", {"highway_bias": -2.0}, lambda c: c),
        ("sru_v1", {}, torch.tanh),
        ("sru_v1", {"activation": "identity"}, lambda c: c),
    ],
)
def test_sru_as_the_authors_wrote_it(name, options, activation, input_size):
    # Its elementwise_recurrence_naive: with weight_c at zero and scale_x at 1 it is the first version.
    cell = _make(name, input_size, **options)
    zero = torch.zeros(HIDDEN, dtype=torch.float64)
    forget_wc, reset_wc = cell.v.chunk(2) if name == "sru" else (zero, zero)
    scale_x = (1 + torch.tensor(options.get("highway_bias", 0.0), dtype=torch.float64).exp() * 2) ** 0.5
    scale_x = scale_x if name == "sru" else 1.0
    fb, rb = cell.b.chunk(2)

    def step(x, state):
        (c_prev,) = state
        u0, u1, u2 = (x @ cell.W.t()).chunk(3, dim=1)
        x_prime = scale_x * (x if cell.P is None else x @ cell.P.t())
        forget_t = (u1 + fb + c_prev * forget_wc).sigmoid()
        reset_t = (u2 + rb + c_prev * reset_wc).sigmoid()
        c_t = u0 + (c_prev - u0) * forget_t
        return x_prime + (activation(c_t) - x_prime) * reset_t, (c_t,)

    _compare(cell, step)


@pytest.mark.parametrize("input_size", [INPUT, HIDDEN])
def test_rglru_as_the_authors_wrote_it(input_size):
    # recurrentgemma's RGLRU with one head; its parameter of a is the negative of ours. At the first step of a document
    # it does not scale its input by sqrt(1 - a²); the paper's equation 4 has no such exception, and no step here has.
    cell = _make("rglru", input_size)
    a_gate, input_gate = cell.W.chunk(2)
    a_bias, input_bias = cell.b.chunk(2)

    def step(x, state):
        x = x if cell.P is None else x @ cell.P.t()
        gate_x = torch.sigmoid(x @ input_gate.t() + input_bias)
        gate_a = torch.sigmoid(x @ a_gate.t() + a_bias)
        log_a = -8.0 * gate_a * softplus(-cell.Lambda)
        multiplier = torch.sqrt(1 - torch.exp(2 * log_a))
        h = torch.exp(log_a) * state[0] + x * gate_x * multiplier
        return h, (h,)

    _compare(cell, step)


def test_lru_as_minimal_lru_has_it():
    # In complex numbers. Its D is a vector, as its inputs and outputs have the same width.
    cell = _make("lru", HIDDEN)
    D = torch.randn(HIDDEN, dtype=torch.float64)
    with torch.no_grad():
        cell.D.copy_(torch.diag(D))
    diag_lambda = torch.exp(torch.complex(-cell.nu.exp(), cell.theta.exp()))
    B_norm = torch.complex(cell.B_re, cell.B_im) * cell.gamma.exp().unsqueeze(-1)
    C = torch.complex(cell.C_re, cell.C_im)

    def step(x, state):
        h = diag_lambda * torch.complex(*state) + x.to(B_norm.dtype) @ B_norm.t()
        return (h @ C.t()).real + D * x, (h.real, h.imag)

    _compare(cell, step)


def test_the_lru_begins_on_its_ring():
    cell = cells.create("lru", input_size=INPUT, hidden_size=2000, r_min=0.8, r_max=0.95, max_phase=0.3)
    radius, phase = (-cell.nu.exp()).exp(), cell.theta.exp()
    assert radius.min() >= 0.8 - 1e-6
    assert radius.max() <= 0.95 + 1e-6
    assert phase.max() <= 0.3 + 1e-6
    torch.testing.assert_close(cell.gamma.exp(), (1 - radius**2).sqrt(), rtol=1e-4, atol=0)
    # Evenly by area: |λ|² is uniform.
    torch.testing.assert_close((radius**2).mean(), torch.tensor((0.8**2 + 0.95**2) / 2), rtol=0, atol=0.01)


def test_the_rglru_begins_between_its_bounds():
    cell = cells.create("rglru", input_size=INPUT, hidden_size=2000)
    a = cell.Lambda.sigmoid() ** cell.c
    assert a.min() >= 0.9 - 1e-4
    assert a.max() <= 0.999 + 1e-4
    torch.testing.assert_close(a.mean(), torch.tensor((0.9 + 0.999) / 2), rtol=0, atol=0.005)


@pytest.mark.parametrize("lower_bound", [0.0, 0.7])
def test_hgrn_as_the_authors_wrote_it(lower_bound):
    # hgru-pytorch's forward_naive of Hgru1d. Its input projection gives real and imaginary part in turns.
    cell = _make("hgrn", HIDDEN, lower_bound=lower_bound)
    (W_re, W_im, W_mu), W_g = cell.W[: 3 * HIDDEN].chunk(3), cell.W[3 * HIDDEN :]
    (b_re, b_im, b_mu), b_g = cell.b[: 3 * HIDDEN].chunk(3), cell.b[3 * HIDDEN :]
    W_in = torch.stack([W_re, W_im], dim=1).flatten(0, 1)
    b_in = torch.stack([b_re, b_im], dim=1).flatten()

    def step(x, state):
        input_state = silu(x @ W_in.t() + b_in).unflatten(-1, (HIDDEN, 2))
        gate = silu(x @ W_g.t() + b_g)
        lambda_ = lower_bound + (1 - lower_bound) * torch.sigmoid(x @ W_mu.t() + b_mu)
        gamma_real, gamma_imag = lambda_ * torch.cos(cell.theta), lambda_ * torch.sin(cell.theta)
        real, imag = state
        real, imag = (
            gamma_real * real - gamma_imag * imag + (1 - lambda_) * input_state[..., 0],
            gamma_real * imag + gamma_imag * real + (1 - lambda_) * input_state[..., 1],
        )
        feature = torch.cat([real, imag], dim=-1)
        feature = layer_norm(feature, (2 * HIDDEN,), cell.norm_gain, cell.norm_bias)
        return (feature * gate) @ cell.V.t() + cell.b_y, (real, imag)

    _compare(cell, step)


@pytest.mark.parametrize("init", ["lin", "inv"])
def test_s4d_as_the_authors_wrote_it(init):
    # state-spaces/s4's S4DKernel, a convolution with all past inputs, from the zero state.
    torch.manual_seed(0)
    cell = cells.create("s4d", input_size=HIDDEN, hidden_size=HIDDEN, state_size=8, init=init).double()
    inputs = torch.randn(50, BATCH, HIDDEN, dtype=torch.float64)
    with torch.no_grad():
        A = torch.complex(-cell.alpha.exp(), cell.omega)
        dtA = A * cell.log_dt.exp().unsqueeze(-1)
        C = torch.complex(cell.C_re, cell.C_im) * (torch.exp(dtA) - 1.0) / A
        powers = torch.exp(dtA.unsqueeze(-1) * torch.arange(50))
        K = 2 * (C.unsqueeze(-1) * powers).sum(1).real  # [H, L]
        past = [sum(K[:, lag] * inputs[t - lag] for lag in range(t + 1)) for t in range(50)]
        for backend in engine.backends_of(cell):
            outputs, _ = Recurrent(cell, backend)(inputs)
            torch.testing.assert_close(outputs, torch.stack(past) + inputs * cell.D, **CLOSE)


def _mlstm_projections(cell, x):
    """q, k and v [B, heads, d, 1], o [B, hidden_size], and the gates' preactivations [B, heads, 1, 1]."""
    q, k, v, o = (x @ cell.W.t() + cell.b).chunk(4, dim=-1)
    gates = (x @ cell.W_gates.t() + cell.b_gates).chunk(2, dim=-1)
    columns = (part.unflatten(-1, (cell.heads, -1)).unsqueeze(-1) for part in (q, k, v))
    return *columns, torch.sigmoid(o), *(gate[..., None, None] for gate in gates)


@pytest.mark.parametrize("heads", [1, 2])
def test_mlstm_as_the_authors_wrote_it(heads):
    # xlstm's recurrent_step_stabilized_simple. Its memory is the paper's transposed; its eps, which the paper has not,
    # is an argument and zero here.
    cell = _make("mlstm", heads=heads)
    eps = 0.0

    def step(x, state):
        c_state, n_state, m_state = state[0].transpose(-1, -2), state[1].unsqueeze(-1), state[2][..., None, None]
        q, k, v, o, igate_preact, fgate_preact = _mlstm_projections(cell, x)
        log_fg_act = logsigmoid(fgate_preact)
        m_state_new = torch.max(log_fg_act + m_state, igate_preact)
        fg_act = torch.exp(log_fg_act + m_state - m_state_new)
        ig_act = torch.exp(igate_preact - m_state_new)
        k_scaled = k / (HIDDEN / heads) ** 0.5
        c_state_new = fg_act * c_state + ig_act * (k_scaled @ v.transpose(-1, -2))
        n_state_new = fg_act * n_state + ig_act * k_scaled
        h_num = q.transpose(-1, -2) @ c_state_new
        qn_dotproduct = q.transpose(-1, -2) @ n_state_new
        h = h_num / (torch.maximum(qn_dotproduct.abs(), torch.exp(-m_state_new)) + eps)
        return o * h.flatten(1), (c_state_new.transpose(-1, -2), n_state_new.squeeze(-1), m_state_new[..., 0, 0])

    _compare(cell, step)


@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
def test_the_stabilised_mlstm_is_the_one_of_the_equations(forget_gate):
    # Equations 19 to 27 as they stand, with nothing divided by exp(m).
    cell = _make("mlstm", heads=2, forget_gate=forget_gate)
    inputs = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    C, n, _ = cell.initial_state(BATCH)
    n = n.unsqueeze(-1)
    with torch.no_grad():
        outputs, (C_scaled, n_scaled, m) = Recurrent(cell)(inputs)
        for x, output in zip(inputs, outputs, strict=True):
            q, k, v, o, i, f = _mlstm_projections(cell, x)
            f, k = torch.sigmoid(f) if forget_gate == "sigmoid" else f.exp(), k / (HIDDEN / 2) ** 0.5
            C, n = f * C + i.exp() * v @ k.mT, f * n + i.exp() * k
            torch.testing.assert_close(output, o * (C @ q / (n.mT @ q).abs().clamp_min(1)).flatten(1), **CLOSE)
        torch.testing.assert_close(C_scaled * m.exp()[..., None, None], C, **CLOSE)
        torch.testing.assert_close(n_scaled * m.exp()[..., None], n.squeeze(-1), **CLOSE)


def test_an_exponential_gate_does_not_overflow():
    # exp(200) is beyond float32; the mLSTM's gates must still be finite, and so must its gradients.
    cell = cells.create("mlstm", input_size=INPUT, hidden_size=HIDDEN)
    with torch.no_grad():
        cell.b_gates.copy_(torch.tensor([200.0, 3.0]))
    outputs, _ = Recurrent(cell)(torch.randn(20, BATCH, INPUT))
    assert outputs.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(outputs.sum(), list(cell.parameters())))


@pytest.mark.parametrize("name", ["mingru", "minlstm"])
def test_the_minimal_cells_as_the_authors_wrote_them(name):
    """Their factors are logarithms; their candidate is made positive, to have one too, and is ours here."""
    cell = _make(name)

    def mingru(x, state):
        gate, hidden = (x @ cell.W.t() + cell.b).chunk(2, 1)
        log_coeffs, log_z = -softplus(gate), -softplus(-gate)
        h = log_coeffs.exp() * state[0] + log_z.exp() * hidden
        return h, (h,)

    def minlstm(x, state):
        forget, write, hidden = (x @ cell.W.t() + cell.b).chunk(3, 1)
        diff = softplus(-forget) - softplus(-write)
        h = (-softplus(diff)).exp() * state[0] + (-softplus(-diff)).exp() * hidden
        return h, (h,)

    _compare(cell, mingru if name == "mingru" else minlstm)


def test_a_closed_minlstm_is_not_zero_by_zero():
    # Both gates underflow in float32; what they are of their sum does not.
    cell = cells.create("minlstm", input_size=INPUT, hidden_size=HIDDEN)
    with torch.no_grad():
        cell.W.zero_()
        cell.b.copy_(torch.tensor([-200.0, -201.0, 1.0]).repeat_interleave(HIDDEN))
        outputs, _ = Recurrent(cell)(torch.zeros(1, 1, INPUT))
    torch.testing.assert_close(outputs[0, 0], torch.full((HIDDEN,), torch.tensor(-1.0).sigmoid().item()))
