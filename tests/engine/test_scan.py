"""Cells that are linear in their state: recognised as such, and run in blocks with the reference's numbers."""

from importlib import import_module

import pytest
import torch
from outside.shapes import MinGRU
from torch import nn
from torch.nn.functional import linear

from rnnlab import cells, engine
from rnnlab.cells import Cell
from rnnlab.engine.cpu import compiler
from rnnlab.engine.scan import scan
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent


class Rotation(Cell):
    """Two states that turn into each other, as in a linear recurrent unit written with real numbers.

    (p, q) is multiplied with a complex number that depends on the input, and the output is no linear function of it.
    """

    states = ("p", "q")

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.angle = nn.Parameter(torch.rand(hidden_size))
        self.W = nn.Parameter(torch.randn(hidden_size, input_size) * 0.3)
        self.V = nn.Parameter(torch.randn(hidden_size, hidden_size) * 0.3)

    def prepare(self, inputs):
        x = inputs @ self.W.t()
        return (self.angle.cos(), self.angle.sin(), self.V), (x, x.sigmoid())

    def step(self, constants, inputs, state):
        cos, sin, V = constants
        x, keep = inputs
        p, q = state
        p, q = keep * (cos * p - sin * q) + x, torch.where(x > 0, keep * (sin * p + cos * q), q)
        return p.tanh() * (q @ V.t()), (p, q)


class Matrix(Cell):
    """A matrix, a vector, and what the step before read: states of several shapes, each by itself linear."""

    states = ("C", "n", "last")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.W = nn.Parameter(torch.randn(4 * hidden_size, input_size) * 0.5)

    def prepare(self, inputs):
        q, k, v, f = linear(inputs, self.W).chunk(4, dim=-1)
        return (), (q, k, v, f.sigmoid())

    def initial_state(self, batch_size):
        like, H = self.W, self.hidden_size
        return like.new_zeros(batch_size, H, H), like.new_zeros(batch_size, H), like.new_zeros(batch_size, H)

    def step(self, constants, inputs, state):
        q, k, v, f = inputs
        C, n, last = state
        C = f.unsqueeze(-1) * C + v.unsqueeze(-1) * k.unsqueeze(1)
        n = f * n + k * last
        return (C * q.unsqueeze(1)).sum(-1) / (1 + n * n) + last, (C, n, k)


@pytest.fixture(params=["compiled", "blocks"])
def form(request, monkeypatch):
    def missing():
        raise compiler.NoCompiler("none for this test")

    if request.param == "blocks":
        monkeypatch.setattr(compiler, "compiler", missing)
    return request.param


def _results(cell, backend, inputs, state, lengths):
    layer = Recurrent(cell, backend)
    outputs, final = layer(inputs, state, lengths)
    results = [outputs, *final]
    weights = [torch.linspace(0.5, 1.5, r.numel(), dtype=r.dtype).reshape(r.shape) for r in results]
    loss = sum((w * r).sum() for w, r in zip(weights, results, strict=True))
    return results, torch.autograd.grad(loss, [inputs, *state, *layer.parameters()])


@pytest.mark.usefixtures("form", "device")
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 16, 23])
@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("kind", [MinGRU, Rotation, Matrix])
def test_the_numbers_are_the_reference_s(kind, varying, steps):
    torch.manual_seed(0)
    cell = kind(3, 4).double()
    inputs = torch.randn(steps, 3, 3, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn_like(start, requires_grad=True) for start in cell.initial_state(3))
    lengths = torch.tensor([1, steps, (steps + 1) // 2]) if varying else None
    ours, expected = (_results(cell, backend, inputs, state, lengths) for backend in ("scan", "reference"))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("device")
def test_a_gradient_of_a_gradient(form):
    cell = Rotation(2, 3).double()
    inputs = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: Recurrent(cell, "scan")(x)[0], (inputs,))


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("steps", [1000, 8000])
def test_single_precision_holds_over_long_sequences(form, steps):
    torch.manual_seed(0)
    cell = MinGRU(4, 8)
    inputs, state = torch.randn(steps, 2, 4, requires_grad=True), (torch.randn(2, 8, requires_grad=True),)
    ours = _results(cell, "scan", inputs, state, None)
    double = MinGRU(4, 8).double()
    double.load_state_dict(cell.state_dict())
    expected = _results(
        double,
        "scan",
        inputs.detach().double().requires_grad_(),
        (state[0].detach().double().requires_grad_(),),
        None,
    )
    for i, (mine, truth) in enumerate(zip([*ours[0], *ours[1]], [*expected[0], *expected[1]], strict=True)):
        # Those of the weights are PyTorch's product over all steps: some processors add them up in one chain, which by
        # itself is off by 4e-6 after 16,000 numbers.
        tolerance = 1e-6 if i < 4 else 1e-5
        assert (mine - truth).abs().max() <= tolerance * truth.abs().max()


@pytest.mark.usefixtures("device")
def test_the_recurrence_alone():
    torch.manual_seed(0)
    a, b, h = torch.rand(50, 2, 3), torch.randn(50, 2, 3), torch.randn(2, 3)
    (found,) = scan([[a]], [b], [h])
    for t in range(50):
        h = a[t] * h + b[t]
        torch.testing.assert_close(found[t], h)


@pytest.mark.parametrize(
    ("step", "operation"),
    [
        (lambda x, h: (x + h).tanh(), "tanh"),
        (lambda x, h: h * h + x, "mul"),
        (lambda x, h: x / h, "div"),
        (lambda x, h: torch.where(h > 0, h, x), "gt"),
        (lambda x, h: x + h.sum(-1, keepdim=True), "sum"),
        (lambda x, h: x + torch.cat(h.chunk(2, -1)[::-1], -1), "split"),
        (lambda x, h: x + h.detach(), "detach"),
        (lambda x, h: x + h.relu(), "relu"),
    ],
)
def test_what_is_not_linear_is_refused_by_name(step, operation):
    class Other(Cell):
        def __init__(self):
            super().__init__(4, 4)
            self.unused = nn.Parameter(torch.zeros(1))

        def prepare(self, inputs):
            return (), inputs

        def step(self, constants, x, state):
            h = step(x, state[0])
            return h, (h,)

    with pytest.raises(InputError, match=f"'scan' cannot run Other: its step uses {operation} with its state"):
        engine.choose(Other(), "scan")


def test_the_lecture_s_cells_are_not_linear():
    for name in ("rnn", "lstm", "gru"):
        assert "scan" not in engine.backends_of(cells.create(name, input_size=2, hidden_size=3))
    assert "scan" in engine.backends_of(MinGRU(2, 3))


@pytest.fixture
def no_compiler(monkeypatch):
    def missing():
        raise compiler.NoCompiler("none for this test")

    monkeypatch.setattr(compiler, "compiler", missing)


def test_without_a_compiler_auto_scans(no_compiler):
    assert Recurrent(MinGRU(2, 3)).choice[::2] == ("scan", "it is linear in its state")


@pytest.mark.parametrize(("batch", "expected"), [(2, "scan"), (3, "reference")])
def test_auto_scans_small_states_only(monkeypatch, no_compiler, batch, expected):
    """A head of 64 has 4,096 numbers."""
    ran = []
    for name in ("reference", "scan"):
        module = import_module(f"rnnlab.engine.{name}")
        monkeypatch.setattr(module, "run", lambda *given, n=name, run=module.run: ran.append(n) or run(*given))
    layer = Recurrent(cells.create("hgrn2", input_size=3, hidden_size=64))
    assert layer(torch.randn(6, batch, 3))[0].shape == (6, batch, 64)
    assert ran == [expected]


def test_an_infinite_query_does_not_reach_the_state():
    torch.manual_seed(0)
    cell = cells.create("linear_attention", input_size=3, hidden_size=4, norm="none")
    cell.W.data[:4, 0], cell.W.data[4:, 0] = 10, 0  # the first input reaches the query only
    inputs = torch.randn(7, 2, 3)
    inputs[2, 0, 0] = 3e38
    (found, (S,)), (expected, (wanted,)) = (Recurrent(cell, name)(inputs) for name in ("scan", "reference"))
    assert S.isfinite().all()
    torch.testing.assert_close(S, wanted)
    torch.testing.assert_close(found, expected, equal_nan=True)
