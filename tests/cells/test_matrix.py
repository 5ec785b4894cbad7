"""Cells with matrix states: long sequences against the naive equations, and cases with a known answer."""

import math
from types import SimpleNamespace

import pytest
import tiers
import torch
from naive.matrix import CASES
from torch import nn
from torch.nn.functional import elu, layer_norm

from rnnlab import cells
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent
from rnnlab.trees import tensors_of

EXACT = {"rtol": 0.0, "atol": 1e-10}
STEPS, BATCH, INPUT = 40, 2, 3


def make(name, hidden_size, **options):
    """A cell in float64 whose parameters are all drawn at random."""
    torch.manual_seed(0)
    cell = cells.create(name, input_size=INPUT, hidden_size=hidden_size, **options).double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter, std=0.6)
    return cell


def run(cell, steps=STEPS, batch=BATCH):
    """Inputs, outputs and the final state."""
    inputs = torch.randn(steps, batch, cell.input_size, dtype=torch.float64)
    return inputs, *Recurrent(cell, "reference")(inputs)


def projections(cell, inputs, *names):
    """The parts of W x by name, the queries and keys ``[T, B, heads, d]``; β and α are per head."""
    of = {"q": cell.heads * cell.key_size, "k": cell.heads * cell.key_size, "v": cell.hidden_size, "beta": cell.heads}
    parts = (inputs @ cell.W.t()).split([of[name] for name in names], dim=-1)
    return [part.unflatten(-1, (cell.heads, -1)) for part in parts]


# Against the equations

SIZES = [(1, 2, 5, 200), (2, 3, 4, 60), (3, 4, 2, 25)]
"""Heads, key size, value size, steps."""
NAMES = [name for name in CASES if CASES[name][0] in tiers.MATRIX - {"mlstm"}]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_long_sequences_of_many_sizes_follow_the_equations(name, size):
    heads, key_size, value_size, steps = size
    kind, options, step = CASES[name]
    own = {"heads": heads} if kind == "ttt_linear" else {"heads": heads, "key_size": 2 * key_size}
    cell = make(kind, heads * max(3, value_size), **{**options, **own})
    inputs, outputs, state = run(cell, steps, 1)
    p = SimpleNamespace(cell=cell, **{key: part.tolist() for key, part in cell.named_parameters()})
    p.__dict__.update({key: None for key in cell._parameters if getattr(cell, key) is None})
    p.__dict__.update({key: None for key in ("a", "b", "log_A", "gain") if not hasattr(p, key)})
    now, expected = [part[0].tolist() for part in tensors_of(cell.initial_state(1))], []
    for x in inputs[:, 0].tolist():
        output, now = step(p, x, now)
        expected.append(output)
    for ours, theirs in zip([outputs[:, 0], *(part[0] for part in state)], [expected, *now], strict=True):
        theirs = torch.tensor(theirs, dtype=torch.float64)
        assert ours.shape == theirs.shape
        # The norms and the inner learning rate of ttt_linear amplify the rounding of 200 steps.
        assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max().clamp_min(1)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("name", sorted(tiers.MATRIX))
def test_errors_over_512_steps_in_float32(name, backend):
    """At most 1e-5 of the largest magnitude, in each of ten draws."""
    errors = []
    for seed in range(10):
        torch.manual_seed(seed)
        cell = cells.create(name, input_size=16, hidden_size=32, heads=2)
        inputs = torch.randn(512, 2, 16)
        found = Recurrent(cell, backend)(inputs)[0]
        exact = Recurrent(cell.double(), "reference")(inputs.double())[0]
        errors.append(float((found - exact).abs().max() / exact.abs().max()))
    assert max(errors) < 1e-5, errors


# Additive memories


@pytest.mark.parametrize("heads", [1, 3])
def test_linear_attention_is_causal_attention_without_softmax(heads):
    cell = make("linear_attention", 6, heads=heads, key_size=4)
    inputs, outputs, _ = run(cell)
    q, k, v = projections(cell, inputs, "q", "k", "v")
    q, k = elu(q) + 1, elu(k) + 1
    scores = torch.einsum("tbhd,sbhd->bhts", q, k).tril()
    expected = torch.einsum("bhts,sbhd->tbhd", scores, v) / (scores.sum(-1) + 1e-6).permute(2, 0, 1).unsqueeze(-1)
    torch.testing.assert_close(outputs, expected.flatten(-2), **EXACT)


def test_retnet_is_the_parallel_form_with_rotated_queries_and_keys():
    cell = make("retnet", 6, heads=2, key_size=4, norm=False)
    inputs, outputs, _ = run(cell)
    q, k, v = projections(cell, inputs, "q", "k", "v")
    time = torch.arange(STEPS, dtype=torch.float64)
    angles = time[:, None] * 10000 ** (-torch.arange(2, dtype=torch.float64) / 2)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None, None]
    q, k = (torch.complex(*part.chunk(2, dim=-1)) * turn for part in (q, k / 2))
    gamma = 1 - 2.0 ** (-5 - torch.arange(2, dtype=torch.float64))
    decay = (gamma[:, None, None] ** (time[:, None] - time)).tril()
    scores = torch.einsum("tbhd,sbhd->bhts", q, k.conj()).real * decay
    torch.testing.assert_close(outputs, torch.einsum("bhts,sbhd->tbhd", scores, v).flatten(-2), **EXACT)


def test_mamba2_is_a_mask_of_decays_times_the_products_of_c_and_b():
    """The dual form of the paper, M = L ∘ C Bᵀ."""
    cell = make("mamba2", 6, heads=2, key_size=5, norm=False)
    inputs, outputs, _ = run(cell)
    _, (kept, B, x, C, skip) = cell(inputs)
    total = kept.flatten(2).log().cumsum(0)  # [T, B, heads]
    L = (total[:, None] - total).permute(2, 3, 0, 1).tril().exp().tril()
    M = L * torch.einsum("tbn,sbn->bts", C.squeeze(2), B.squeeze(2)).unsqueeze(1)
    expected = torch.einsum("bhts,sbhd->tbhd", M, x) + skip
    torch.testing.assert_close(outputs, expected.flatten(-2), **EXACT)


def test_gla_with_a_large_tau_does_not_forget():
    cell = make("gla", 4, key_size=3, tau=1e12, norm=False)
    inputs, outputs, _ = run(cell)
    q, k, v = projections(cell, inputs, "q", "k", "v")
    scores = torch.einsum("tbhd,sbhd->bhts", q, k).tril()
    torch.testing.assert_close(outputs, torch.einsum("bhts,sbhd->tbhd", scores, v).flatten(-2), rtol=0, atol=1e-8)


def test_hgrn2_averages_the_values():
    """Every row of the state is a moving average: with a constant value it converges to the value."""
    cell = make("hgrn2", 4, heads=2, norm=False)
    x = torch.randn(1, 1, INPUT, dtype=torch.float64)
    _, (S,) = Recurrent(cell, "reference")(x.expand(4000, 1, INPUT))
    (v,) = projections(cell, x, "q", "k", "v")[2:]
    torch.testing.assert_close(S, v[0].unsqueeze(-2).expand_as(S), rtol=0, atol=1e-6)


# Delta rules


def by_hand(cell, q, rules):
    """Run ``cell`` on prepared queries ``[T, d]`` and delta rules (k [T, d], v [T, d_v], β [T]) of one sequence."""
    (S,) = cell.initial_state(1)
    outputs = []
    for t in range(len(q)):
        now = tuple((k[t][None, None], v[t][None, None], beta[t].reshape(1, 1, 1)) for k, v, beta in rules)
        inputs = (q[t][None, None], now) if len(rules) > 1 else (q[t][None, None], *now[0])
        output, (S,) = cell.step((None,) * (3 if len(rules) > 1 else 1), inputs, (S,))
        outputs.append(output[0])
    return torch.stack(outputs), S[0, 0]


def test_deltanet_replaces_the_value_of_a_key():
    cell = make("deltanet", 4, key_size=3)
    keys = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    order = torch.tensor([0, 1, 2, 1, 0, 1])
    values = torch.randn(6, 4, dtype=torch.float64)
    outputs, S = by_hand(cell, keys[order], [(keys[order], values, torch.ones(6))])
    torch.testing.assert_close(outputs, values, **EXACT)  # each value is read as it was written
    torch.testing.assert_close(keys @ S, values[[4, 5, 2]], **EXACT)  # of each key, the last value


@pytest.mark.parametrize("name", ["deltanet", "gated_deltanet", "deltaproduct"])
def test_parity_needs_negative_eigenvalues(name):
    """β = 2 reflects the state at each 1, so its sign is the parity; β = 1 erases it, which is the largest change."""
    bits = torch.randint(2, (300, 1), generator=torch.Generator().manual_seed(0)).double()
    parity = 1 - 2 * (bits.cumsum(0) % 2)
    one = {"products": 1} if name == "deltaproduct" else {}
    for negative in (True, False):
        options = {"key_size": 1, "norm": False, "negative_eigenvalues": negative, **one}
        cell = cells.create(name, input_size=2, hidden_size=1, **options).double()
        with torch.no_grad():
            cell.W.zero_()
            cell.W[:2, 0] = 1e4  # q and k are 1
            cell.W[3, 1], cell.W[3, 0] = 100, -50  # β is 0 at bit 0, else 1 or 2
            if name == "gated_deltanet":
                cell.log_A.fill_(-100), cell.W[3:].copy_(cell.W[3:].flip(0))  # α = 1; W stacks α before β
        inputs = torch.cat([torch.ones_like(bits), bits], dim=-1).unsqueeze(1)
        outputs, _ = Recurrent(cell, "reference")(inputs, (torch.ones(1, 1, 1, 1, dtype=torch.float64),))
        if negative:
            torch.testing.assert_close(outputs[:, 0], parity, rtol=0, atol=1e-6)
        else:
            assert (outputs >= 0).all()
            assert outputs[-1] < 1e-6


def test_two_reflections_are_a_rotation():
    cell = make("deltaproduct", 1, key_size=2, norm=False)
    angle = 2 * math.pi / 5
    turns = torch.arange(12, dtype=torch.float64)
    zero, two = torch.zeros(1, 1, 1, dtype=torch.float64), torch.full((1, 1, 1), 2.0, dtype=torch.float64)
    mirrors = [torch.tensor([[[math.cos(a), math.sin(a)]]], dtype=torch.float64) for a in (0, angle / 2)]
    rules = tuple((k, zero, two) for k in mirrors)
    S, seen = torch.tensor([1.0, 0.0], dtype=torch.float64).reshape(1, 1, 2, 1), []
    for _ in turns:
        _, (S,) = cell.step((None,) * 3, (mirrors[0], rules), (S,))
        seen.append(S.flatten())
    expected = torch.stack([((turns + 1) * angle).cos(), ((turns + 1) * angle).sin()], dim=-1)
    torch.testing.assert_close(torch.stack(seen), expected, **EXACT)


def test_deltaproduct_with_one_product_is_deltanet():
    one, other = make("deltaproduct", 6, heads=2, products=1), make("deltanet", 6, heads=2, negative_eigenvalues=True)
    other.load_state_dict(one.state_dict())
    torch.manual_seed(1)
    inputs, outputs, _ = run(one)
    torch.testing.assert_close(Recurrent(other, "reference")(inputs)[0], outputs, **EXACT)


def test_deltaproduct_applies_its_rules_one_after_the_other():
    """Two rules a step are one rule a step on a sequence of twice the length."""
    two, one = make("deltaproduct", 4, key_size=3, norm=False), make("deltanet", 4, key_size=3, norm=False)
    k, v = torch.randn(10, 3, dtype=torch.float64), torch.randn(10, 4, dtype=torch.float64)
    q, beta = torch.randn(10, 3, dtype=torch.float64), torch.rand(10, dtype=torch.float64)
    rules = [(k[half::2], v[half::2], beta[half::2]) for half in range(2)]
    outputs, S = by_hand(two, q[1::2], rules)
    expected, wanted = by_hand(one, q, [(k, v, beta)])
    torch.testing.assert_close(outputs, expected[1::2], **EXACT)
    torch.testing.assert_close(S, wanted, **EXACT)


def test_rwkv7_without_decay_or_bonus_is_a_delta_rule():
    """With w = 1, a = 1 and the same key to remove and to write, S = S - k (Sᵀ k)ᵀ + k vᵀ."""
    cell, delta = make("rwkv7", 4, key_size=3, norm=False), make("deltanet", 4, key_size=3, norm=False)
    k = torch.nn.functional.normalize(torch.randn(9, 3, dtype=torch.float64), dim=-1)
    q, v = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    expected, _ = by_hand(delta, q, [(k, v, torch.ones(9))])
    (S,), ones, zero = cell.initial_state(1), torch.ones(1, 1, 3).double(), torch.zeros(1, 1, 4).double()
    for t in range(9):
        key = k[t][None, None]
        output, (S,) = cell.step((None,) * 5, (q[t][None, None], ones, key, v[t][None, None], key, key, zero), (S,))
        torch.testing.assert_close(output[0], expected[t], **EXACT)


def test_ttt_linear_descends_the_gradient_of_its_loss():
    """The update equals autograd's gradient of the loss, written with torch's layer norm."""
    cell = make("ttt_linear", 8, heads=2, learning_rate=0.7)
    inputs, outputs, (W, b) = run(cell, steps=1)
    q, k, v, eta = (inputs[0] @ cell.W_qkv.t()).split([8, 8, 8, 2], dim=-1)
    q, k, v = (part.unflatten(-1, (2, 4)) for part in (q, k, v))
    eta = 0.7 / 4 * (eta + cell.b_eta).sigmoid()

    def model(x, W, b):
        z = layer_norm((x.unsqueeze(-2) @ W).squeeze(-2) + b, (4,), eps=1e-6)
        return x + cell.gain * z + cell.bias

    start = [part.detach().expand(BATCH, *part.shape).clone().requires_grad_() for part in (cell.W_0, cell.b_0)]
    slopes = torch.autograd.grad((model(k, *start) - v).square().sum() / 2, start)
    dW, db = -eta[..., None, None] * slopes[0], -eta[..., None] * slopes[1]
    torch.testing.assert_close(W, dW, **EXACT)
    torch.testing.assert_close(b, db, **EXACT)
    torch.testing.assert_close(outputs[0], model(q, start[0] + dW, start[1] + db).flatten(-2), **EXACT)


# Options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gla", {"heads": 3}, "heads=3 must divide hidden_size=4"),
        ("gla", {"heads": 0}, "heads=0 must divide hidden_size=4"),
        ("deltanet", {"key_size": 0}, "key_size=0 must be at least 1"),
        ("retnet", {"key_size": 3}, "key_size=3 must be even"),
        ("gla", {"tau": 0.0}, "tau=0.0 must be above 0"),
        ("gla", {"gate_rank": 0}, "gate_rank=0 must be at least 1"),
        ("hgrn2", {"lower_bound": 1.0}, "lower_bound=1.0 must be at least 0 and below 1"),
        ("deltaproduct", {"products": 0}, "products=0 must be at least 1"),
        ("rwkv7", {"rank": 0}, "rank=0 must be at least 1"),
        ("linear_attention", {"norm": "mean"}, "norm='mean' is not one of sum, rms, none"),
        ("linear_attention", {"feature_map": "identity"}, "needs norm=rms or norm=none"),
    ],
    ids=str,
)
def test_what_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        cells.create(name, input_size=3, hidden_size=4, **options)


@pytest.mark.parametrize("name", sorted(tiers.MATRIX - {"mlstm", "ttt_linear"}))
def test_the_state_has_key_size_times_hidden_size_numbers(name):
    cell = cells.create(name, input_size=3, hidden_size=12, heads=3, key_size=6)
    numbers = sum(part[0].numel() for part in tensors_of(cell.initial_state(2)))
    assert numbers == 6 * 12 + (3 * 6 if name == "linear_attention" else 0)
