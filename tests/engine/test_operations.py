"""Every operation that a step may do, in a step of its own: traced and derived, it is what autograd makes of it."""

from math import inf, nan

import pytest
import tiers
import torch
from outside.shapes import Elementwise
from torch import nn
from torch.nn import functional as F

from rnnlab import engine
from rnnlab.engine.cpu import compiler
from rnnlab.engine.ir.derive import derive
from rnnlab.engine.ir.operations import EXPANSIONS
from rnnlab.engine.ir.operations import OPERATIONS as RULES
from rnnlab.engine.ir.trace import trace
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent

ACTIVATIONS = {  # each in a step h = f(h * v + x)
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "relu6": F.relu6,
    "softplus": F.softplus,
    "softplus-beta": lambda a: F.softplus(a, 2.0),
    "softplus-threshold": lambda a: F.softplus(a, 1.0, 5.0),
    "softplus-threshold-high": lambda a: F.softplus(a, 1.0, 50.0),
    "silu": F.silu,
    "mish": F.mish,
    "logsigmoid": F.logsigmoid,
    "leaky_relu": F.leaky_relu,
    "leaky_relu-slope": lambda a: F.leaky_relu(a, 0.3),
    "elu": F.elu,
    "elu-alpha": lambda a: F.elu(a, 0.7),
    "selu": F.selu,
    "celu": lambda a: F.celu(a, 0.7),
    "gelu": F.gelu,
    "gelu-tanh": lambda a: F.gelu(a, approximate="tanh"),
    "hardtanh": F.hardtanh,
    "hardtanh-bounds": lambda a: F.hardtanh(a, -0.5, 3.0),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "clamp": lambda a: a.clamp(-0.5, 3),
    "clamp-low": lambda a: a.clamp(min=-0.5),
    "clamp-high": lambda a: a.clamp(max=0.5),
    "clamp-crossed": lambda a: a.clamp(0.5, -0.5),
    "clamp-infinite": lambda a: a.clamp(-0.5, inf),
    "clamp_min": lambda a: a.clamp_min(-0.5),
    "clamp_max": lambda a: a.clamp_max(0.5),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "softmax": lambda a: a.softmax(-1),
    "atan": torch.atan,
    "erf": torch.erf,
    "sign": torch.sign,
    "round": lambda a: a.round() * a,
    "floor": lambda a: a.floor() * a,
    "ceil": lambda a: a.ceil() * a,
    "trunc": lambda a: a.trunc() * a,
    "sine": torch.sin,
    "absolute": torch.abs,
    "where-positive": lambda a: torch.where(a > 0, a, 0.1 * a),
}
SPELLED_OUT = {  # torch's own gradient of these takes 1/alpha or 1/6 in single precision, also in float64
    "celu": lambda a: 0.7 * F.elu(a / 0.7),
    "hardsigmoid": lambda a: F.relu6(a + 3) / 6,
}
OPERATIONS = {  # each in a step h = f(x, h, v), v a vector parameter
    "add": lambda x, h, v: x + h + v + 1,
    "add-alpha": lambda x, h, v: torch.add(x, h * v, alpha=0.5),
    "add-alpha-zero": lambda x, h, v: torch.add(x * v, h, alpha=0),
    "sub": lambda x, h, v: (x - h) - v,
    "sub-alpha": lambda x, h, v: torch.sub(x, h * v, alpha=0.5),
    "rsub": lambda x, h, v: 1 - h * x,
    "rsub-alpha": lambda x, h, v: torch.rsub(h * v, x, alpha=0.5),
    "neg": lambda x, h, v: -h + x * v,
    "mul": lambda x, h, v: h * v * x * 0.5,
    "square": lambda x, h, v: h * h + x * v,
    "square-named": lambda x, h, v: h.square() * 0.5 + x * v,
    "div": lambda x, h, v: x / (1 + h * h) + v / 2,
    "reciprocal": lambda x, h, v: (1 + h * h).reciprocal() * x * v,
    "addcmul": lambda x, h, v: torch.addcmul(x, h, v),
    "addcmul-value": lambda x, h, v: torch.addcmul(x, h, v, value=0.5),
    "addcmul-value-zero": lambda x, h, v: torch.addcmul(x * v, h, v, value=0),
    "addcdiv": lambda x, h, v: torch.addcdiv(x, h, 1 + v),
    "addcdiv-value": lambda x, h, v: torch.addcdiv(x, v, 1 + h * h, value=-0.5),
    "lerp": lambda x, h, v: torch.lerp(x * v, h, 0.3),
    "lerp-beyond-half": lambda x, h, v: torch.lerp(x * v, h, 0.8),
    "lerp-tensor": lambda x, h, v: torch.lerp(x, h, (v * h).sigmoid()),
    "pow": lambda x, h, v: h**3 * v + x,
    "pow-zero": lambda x, h, v: (h - h.detach()) ** 0 * v + x,
    "pow-one": lambda x, h, v: h**1 * v + x,
    "pow-two": lambda x, h, v: (0.5 * h) ** 2 * v + x,
    "pow-four": lambda x, h, v: (0.5 * h) ** 4 * v + x,
    "pow-half": lambda x, h, v: (1 + h * h) ** 0.5 * v + x,
    "pow-fraction": lambda x, h, v: (1 + h * h) ** 0.7 * v + x,
    "pow-negative": lambda x, h, v: (1 + h * h) ** -1.5 * v + x,
    "sqrt": lambda x, h, v: (1 + h * h).sqrt() + x * v,
    "rsqrt": lambda x, h, v: (1 + h * h).rsqrt() * v + x,
    "abs": lambda x, h, v: h.abs() * v + x,
    "abs-at-zero": lambda x, h, v: (h - h.detach()).abs() * v + x,
    "relu-at-zero": lambda x, h, v: (h - h.detach()).relu() * v + x,
    "sgn": lambda x, h, v: h.sgn() * v + x,
    "exp": lambda x, h, v: (h * v).exp() * 0.1 + x,
    "expm1": lambda x, h, v: (h * v).expm1() * 0.1 + x,
    "log": lambda x, h, v: (2 + h * h).log() * v + x,
    "log1p": lambda x, h, v: (h * h).log1p() * v + x,
    "sin": lambda x, h, v: (h * v).sin() + x,
    "cos": lambda x, h, v: (h * v).cos() + x,
    "tan": lambda x, h, v: h.sigmoid().tan() * v + x,
    "clamp-tensors": lambda x, h, v: h.clamp(-v, v) + x,
    "where": lambda x, h, v: torch.where(h > x, h * v, x),
    "where-number": lambda x, h, v: torch.where(h > x, h * v, 0.3) + x,
    "where-numbers": lambda x, h, v: torch.where(h > x, 1.0, -0.5) * h * v + x,
    "where-number-first": lambda x, h, v: torch.where(h > x, 0.3, h * v) + x,
    "masked_fill": lambda x, h, v: (h * v).masked_fill(h > x, 0.3) + x,
    "zeros_like": lambda x, h, v: torch.where(h > 0, h * v, torch.zeros_like(h)) + x,
    "ones_like": lambda x, h, v: torch.where(h > 0, h * v, torch.ones_like(h)) + x,
    "maximum": lambda x, h, v: torch.maximum(h * v, x),
    "maximum-ties": lambda x, h, v: torch.maximum(h * v.detach(), h.detach() * v) + x,
    "maximum-of-one": lambda x, h, v: torch.maximum(h, h) * v + x,
    "minimum": lambda x, h, v: torch.minimum(h * v, x),
    "minimum-ties": lambda x, h, v: torch.minimum(h * v.detach(), h.detach() * v) + x,
    "lt": lambda x, h, v: torch.where(h < x, h * v, x),
    "ge": lambda x, h, v: torch.where(h >= h.relu(), h * v, x),
    "le": lambda x, h, v: torch.where(h.abs() <= h, h * v, x),
    "eq": lambda x, h, v: torch.where(h == h.relu(), h * v, x),
    "ne": lambda x, h, v: torch.where(h != h.relu(), h * v, x),
    "mask": lambda x, h, v: (h > x) * h * v + x,
    "mask-to": lambda x, h, v: (h > x).to(h.dtype) * h * v + x,
    "mask-to-third": lambda x, h, v: (h > x).to(h.dtype) / 3 * h * v + x,
    "mask-to-counted": lambda x, h, v: h * v + x / (1 + (h > x).to(h.dtype).sum(-1, keepdim=True)),
    "mask-to-alone": lambda x, h, v: torch.where(h > x, 0.3 * (x > 0).to(h.dtype), h * v) + x,
    "mask-flipped": lambda x, h, v: (1 - (h > x).to(h.dtype)) * h * v + x,
    "bitwise": lambda x, h, v: torch.where(~(h > x) & (x > 0), h * v, x),
    "bitwise_or": lambda x, h, v: torch.where((h > x) | (x > 0), h * v, x),
    "bitwise_xor": lambda x, h, v: torch.where((h > x) ^ (x > 0), h * v, x),
    "logical": lambda x, h, v: torch.where((h > x).logical_not().logical_and(x > 0), h * v, x),
    "logical-numbers": lambda x, h, v: torch.where(h.relu().logical_not().logical_and(h), h * v, x),
    "logical_and-numbers": lambda x, h, v: torch.where(h.relu().logical_and(x), h * v, x),
    "logical_and-number-to": lambda x, h, v: h.relu().logical_and(x).to(h.dtype) * h * v + x,
    "logical_xor": lambda x, h, v: torch.where((h > x).logical_xor(x > 0), h * v, x),
    "logical_xor-numbers": lambda x, h, v: torch.where(h.relu().logical_xor(x), h * v, x),
    "logical_or-numbers": lambda x, h, v: torch.where(h.relu().logical_or(x.relu()), h * v, x),
    "logical_or": lambda x, h, v: torch.where((h > x).logical_or(x > 0), h * v, x),
    "detach": lambda x, h, v: (h.sign() - h).detach() * v + h * 0.5 + x,  # a straight-through estimator
    "sum": lambda x, h, v: h / (1 + (h * h).sum(-1, keepdim=True)) + x * v,
    "sum-unsqueeze": lambda x, h, v: h / (1 + (h * h).sum(-1).unsqueeze(-1)) + x * v,
    "sum-axes": lambda x, h, v: h * v + 0.1 * (h.unsqueeze(2) * x.unsqueeze(1)).sum((1, 2)).unsqueeze(-1),
    "sum-inner-axis": lambda x, h, v: 0.2 * (h.unsqueeze(-1) * x.unsqueeze(-2)).sum(1) * v,
    "mean": lambda x, h, v: h - h.mean(-1, keepdim=True) + x * v,
    "mean-axes": lambda x, h, v: h * v + (h[:, :, None] * x[:, None]).mean((-2, -1)).unsqueeze(1),
    "var": lambda x, h, v: h / (1 + h.var(-1, keepdim=True)) + x * v,
    "var-correction-zero": lambda x, h, v: h / (1 + h.var(-1, correction=0, keepdim=True)) + x * v,
    "var-biased": lambda x, h, v: h / (1 + h.var(-1, unbiased=False).unsqueeze(-1)) + x * v,
    "std": lambda x, h, v: h / (1 + h.std(-1, keepdim=True)) + x * v,
    "std-correction-zero": lambda x, h, v: h / (1 + h.std(-1, correction=0).unsqueeze(-1)) + x * v,
    "std-of-equals": lambda x, h, v: h * v + (x[:, :1] * torch.ones_like(x)).std(-1, keepdim=True),
    "norm": lambda x, h, v: h / (1 + h.norm(dim=-1, keepdim=True)) + x * v,
    "norm-unsqueeze": lambda x, h, v: h / (1 + torch.linalg.vector_norm(h, dim=-1).unsqueeze(-1)) + x * v,
    "norm-of-zeros": lambda x, h, v: h * v + (x - x.detach()).norm(dim=-1, keepdim=True),
    "expand-columns": lambda x, h, v: torch.cat([h[:, 1:2].expand(-1, 3), x[:, :1]], -1) * v,
    "normalize": lambda x, h, v: F.normalize(h, dim=-1) * v + x,
    "softmax-inner-axis": lambda x, h, v: ((h[:, :, None] * x[:, None]).softmax(1) * v).sum(-1),
    "layer_norm": lambda x, h, v: F.layer_norm(h, (4,)) * v + x,
    "layer_norm-gain": lambda x, h, v: F.layer_norm(h, (4,), v) + x,
    "layer_norm-gain-bias": lambda x, h, v: F.layer_norm(h, (4,), v, v / 2) + x,
    "layer_norm-bias": lambda x, h, v: F.layer_norm(h, (4,), None, v, 0.1) + x,
    "cat": lambda x, h, v: torch.cat([h.chunk(2, -1)[1] * 0.5, x.chunk(2, -1)[0]], -1) * v,
    "cat-one": lambda x, h, v: torch.cat([h[:, :1]] * 4, 1) * v + x,
    "stack": lambda x, h, v: torch.stack([h, x, h * x], -1).sum(-1) * v * 0.3,
    "unbind": lambda x, h, v: torch.cat([h_i.unsqueeze(-1) for h_i in h.unbind(-1)][::-1], -1) * v + x,
    "half-used": lambda x, h, v: torch.cat([h.chunk(2, -1)[0], h.chunk(2, -1)[0] * 0.3], -1) + x * v,
    "split": lambda x, h, v: torch.cat(h.split(3, -1)[::-1], -1) * v + x,
    "split-unequal": lambda x, h, v: torch.cat(h.split([1, 3], 1)[::-1], -1) * v + x,
    "split-empty": lambda x, h, v: torch.cat(h.split([0, 3, 1], -1)[::-1], -1) * v + x,
    "slice": lambda x, h, v: torch.cat([h[:, -1:], h[:, :-1]], -1) * v + x,
    "slice-vector": lambda x, h, v: torch.cat([h[:, :1] * v[:1], h[:, 1:] * v[1:]], -1) + x,
    "slice-all": lambda x, h, v: h[:, 0:9] * v + x,
    "narrow": lambda x, h, v: torch.cat([h.narrow(-1, 1, 2), x.narrow(1, 2, 2)], -1) * v,
    "select": lambda x, h, v: h[:, 1].unsqueeze(-1) * v + x,
    "select-last": lambda x, h, v: h[..., -1, None] * v + x,
    "select-number": lambda x, h, v: h * v[0] + x / v[-1],
    "view": lambda x, h, v: (
        (h.view(h.shape[0], 2, 2) * x.unflatten(1, (2, 2)).sum(-1, keepdim=True)).flatten(1) * v + x
    ),
    "view-inferred": lambda x, h, v: h.view(-1, 4, 1).view(h.shape[0], 2, -1).reshape(h.shape[0], 4) * v + x,
    "view-copied": lambda x, h, v: h.unsqueeze(1).expand(-1, 2, -1).reshape(h.shape[0], 8)[:, 2:6] * v + x,
    "view-vector": lambda x, h, v: h * v + h.sum(-1).view(-1, 1).view(-1).view(-1, 1, 1).flatten(1) * x,
    "unsqueeze": lambda x, h, v: (h.unsqueeze(-1) * 0.5).squeeze(-1) * v + x,
    "squeeze": lambda x, h, v: h.narrow(-1, 2, 1).squeeze(1).unsqueeze(1) * v + x,
    "expand": lambda x, h, v: h.expand(-1, 4) * v + x,
    "alias": lambda x, h, v: h[...] * v + x,
    "clone": lambda x, h, v: h.clone() * v + x,
    "contiguous": lambda x, h, v: h[:, :1].contiguous() * v + x,
    "unused-input": lambda x, h, v: h * v,
    "no-state": lambda x, h, v: x * v,
    **{name: lambda x, h, v, f=f: f(h * v + x) for name, f in ACTIVATIONS.items()},
}
PRODUCTS = {  # each in a step h = f(x, h, v, W), W a matrix parameter
    "linear": lambda x, h, v, W: F.linear(h, W) * v + x,
    "linear-bias": lambda x, h, v, W: F.linear(h, W, v) + x,
    "linear-input": lambda x, h, v, W: F.linear(x, W, v) + h,
    "mm": lambda x, h, v, W: h @ W * v + x,
    "mm-transposed": lambda x, h, v, W: h @ W.t() * v + x,
    "mm-T": lambda x, h, v, W: h @ W.T * v + x,
    "mm-mT": lambda x, h, v, W: h @ W.mT * v + x,
    "mm-made-rows": lambda x, h, v, W: F.linear((h * v).tanh(), W) + x,
    "mm-permuted": lambda x, h, v, W: h @ W.permute(1, 0) * v + x,
    "mm-not-permuted": lambda x, h, v, W: h @ W.permute(0, 1) * v + x,
    "mm-thrice": lambda x, h, v, W: F.linear(F.linear(h, W) + x @ W, W, v) + W[0],
    "addmm": lambda x, h, v, W: torch.addmm(v, h, W) + x,
    "rows-unbound": lambda x, h, v, W: h * W.unbind()[1] + x * v,
    "rows": lambda x, h, v, W: h * W[1] + x * W[2:].mean(0) * v,
    "outer": lambda x, h, v, W: (h.unsqueeze(2) * x.unsqueeze(1) * W).sum(1) * v,
}
CORNERS = [-1000, -100, -21, -20, -6, -3, -1, -0.5, -0.1, 0, 0.1, 0.5, 1, 3, 5, 6, 20, 21, 100, 1000]
EXACT = {"rtol": 1e-12, "atol": 1e-12}


class Product(Elementwise):
    """h_t = f(x_t, h_{t-1}, v, W)."""

    def __init__(self, function):
        super().__init__(function)
        self.W = nn.Parameter(torch.rand(4, 4) - 0.5)

    def prepare(self, inputs):
        return (self.v, self.W), inputs

    def step(self, constants, x, state):
        h = self.function(x, state[0], *constants)
        return h, (h,)


def _cell(name):
    return Product(PRODUCTS[name]) if name in PRODUCTS else Elementwise(OPERATIONS[name])


def gradients(layer, inputs, state, **options):
    outputs, final = layer(inputs, state, **options)
    results = [outputs, *final]
    weights = [torch.linspace(0.5, 1.5, r.numel(), dtype=r.dtype).reshape(r.shape) for r in results]
    loss = sum((w * r).sum() for w, r in zip(weights, results, strict=True))
    leaves = [inputs, *state, *layer.parameters()]
    return results, torch.autograd.grad(loss, leaves, allow_unused=True)


def _check(name, inputs, state, **tolerance):
    """Both ways of running the step ``name`` give the same, forward and backward."""
    cell = _cell(name).to(inputs.dtype)
    state = (state.requires_grad_(),)
    ours = gradients(Recurrent(cell, "fused"), inputs.requires_grad_(), state)
    if name in SPELLED_OUT:
        cell.function = lambda x, h, v: SPELLED_OUT[name](h * v + x)
    expected = gradients(Recurrent(cell, "reference"), inputs, state)
    torch.testing.assert_close(ours[0], expected[0], **tolerance)
    for mine, truth in zip(ours[1], expected[1], strict=True):
        if truth is None or mine is None:  # none, or one of zeros: that is the same
            assert all(gradient is None or not gradient.any() for gradient in (mine, truth))
        else:
            torch.testing.assert_close(mine, truth, **tolerance)


@pytest.fixture(params=["C", "Python"])
def form(request, monkeypatch):
    """Once compiled, where there is a compiler, and once as if there were none."""

    def missing():
        raise compiler.NoCompiler("none for this test")

    if request.param == "Python":
        monkeypatch.setattr(compiler, "compiler", missing)


FORMS = tiers.quick_if(
    [(form, dtype) for dtype in (torch.float64, torch.float32) for form in ("C", "Python")],
    lambda case: case in [("C", torch.float32), ("Python", torch.float64)],
)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("name", tiers.every(3, [*OPERATIONS, *PRODUCTS]))
def test_every_rule_is_autograd_s(name):
    torch.manual_seed(0)
    inputs, state = torch.randn(5, 3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    _check(name, inputs, state, **EXACT)


@pytest.mark.parametrize(("form", "dtype"), FORMS, ids=str, indirect=["form"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_autograd_s_at_its_corners_and_far_out(name, form, dtype):
    torch.manual_seed(0)
    inputs = torch.tensor(CORNERS, dtype=dtype).reshape(1, -1, 4)
    _check(name, inputs, torch.zeros_like(inputs[0]), **(EXACT if dtype == torch.float64 else {}))


@pytest.mark.parametrize(("form", "dtype"), FORMS, ids=str, indirect=["form"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_is_no_finite_number_passes_as_in_the_reference(name, form, dtype):
    torch.manual_seed(0)
    inputs = torch.randn(2, 4, 4, dtype=dtype)  # the second step has them in its state
    inputs[0].diagonal()[:3] = inputs[0, 3, :3] = torch.tensor([nan, inf, -inf])
    if name == "gelu" and dtype == torch.float32:  # of +inf torch makes inf or NaN, by how many numbers there are
        inputs = inputs.where(inputs != inf, 1)
    cell = _cell(name).to(dtype)
    ours, expected = (Recurrent(cell, backend)(inputs) for backend in ("fused", "reference"))
    torch.testing.assert_close(ours, expected, equal_nan=True, **(EXACT if dtype == torch.float64 else {}))


def test_every_rule_is_tested(monkeypatch):
    done, expanded = set(), set()

    def watched(name, expansion):
        def watching(*arguments, **options):
            expanded.add(name)
            return expansion(*arguments, **options)

        return watching

    for name, expansion in list(EXPANSIONS.items()):
        monkeypatch.setitem(EXPANSIONS, name, watched(name, expansion))
    for name in [*OPERATIONS, *PRODUCTS]:
        cell = _cell(name)
        constants, prepared = cell.prepare(torch.randn(1, 2, 4))
        program = trace(cell, constants, prepared[0], cell.initial_state(2))
        done |= {node.operation for node in [*program.nodes, *derive(program).nodes]}
    assert not set(RULES) - done
    assert not set(EXPANSIONS) - expanded


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x, h, v, W: h * (W @ W.t()).sum(0) + x, "mm of two constants; compute it in prepare"),
        (lambda x, h, v, W: F.linear(h, W * v) + x, "mm with a matrix that is not constant over the sequence"),
        (lambda x, h, v, W: (h @ v).unsqueeze(-1) + x, "mv"),
    ],
)
def test_which_products_cannot_be_fused_is_named(function, names):
    with pytest.raises(InputError, match=f"cannot run Product: its step uses {names}"):
        engine.choose(Product(function), "fused")
