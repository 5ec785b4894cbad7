"""The traced step and its derived backward step; the contract suite runs the backend over every cell besides."""

import gc
import re
import subprocess
import sys
import weakref

import pytest
import torch
from outside.shapes import LayerNormLSTM, Regularised
from torch import nn
from torch.nn.functional import linear, silu, softplus

from rnnlab import __main__, cells, engine
from rnnlab.cells import Cell
from rnnlab.engine import fused
from rnnlab.engine.derive import RULES
from rnnlab.engine.trace import trace
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent

OUTSIDE = torch.zeros(2, 4)
OPERATIONS = {  # each in a step h = f(x, h, v), v a vector parameter
    "add": lambda x, h, v: x + h + v + 1,
    "sub": lambda x, h, v: (x - h) - v,
    "rsub": lambda x, h, v: 1 - h * x,
    "neg": lambda x, h, v: -h + x * v,
    "mul": lambda x, h, v: h * v * x * 0.5,
    "square": lambda x, h, v: h * h + x * v,
    "div": lambda x, h, v: x / (1 + h * h) + v / 2,
    "reciprocal": lambda x, h, v: (1 + h * h).reciprocal() * x * v,
    "pow": lambda x, h, v: h**3 * v + x,
    "sqrt": lambda x, h, v: (1 + h * h).sqrt() + x * v,
    "abs": lambda x, h, v: h.abs() * v + x,
    "exp": lambda x, h, v: (h * v).exp() * 0.1 + x,
    "log": lambda x, h, v: (2 + h * h).log() * v + x,
    "sin": lambda x, h, v: (h * v).sin() + x,
    "cos": lambda x, h, v: (h * v).cos() + x,
    "sigmoid": lambda x, h, v: (h * v + x).sigmoid(),
    "tanh": lambda x, h, v: (h * v + x).tanh(),
    "relu": lambda x, h, v: (h * v + x).relu(),
    "softplus": lambda x, h, v: softplus(h * v + x),
    "softplus-beta": lambda x, h, v: softplus(h * v + x, 2.0),
    "silu": lambda x, h, v: silu(h * v + x),
    "where": lambda x, h, v: torch.where(h > x, h * v, x),
    "zeros_like": lambda x, h, v: torch.where(h > 0, h * v, torch.zeros_like(h)) + x,
    "detach": lambda x, h, v: (h.sign() - h).detach() * v + h * 0.5 + x,  # a straight-through estimator
    "sum": lambda x, h, v: h / (1 + (h * h).sum(-1, keepdim=True)) + x * v,
    "mean": lambda x, h, v: h - h.mean(-1, keepdim=True) + x * v,
    "cat": lambda x, h, v: torch.cat([h.chunk(2, -1)[1] * 0.5, x.chunk(2, -1)[0]], -1) * v,
    "half-used": lambda x, h, v: torch.cat([h.chunk(2, -1)[0], h.chunk(2, -1)[0] * 0.3], -1) + x * v,
    "unused-input": lambda x, h, v: h * v,
    "no-state": lambda x, h, v: x * v,
}


class Elementwise(Cell):
    """h_t = f(x_t, h_{t-1}, v)."""

    def __init__(self, function, hidden_size=4):
        super().__init__(hidden_size, hidden_size)
        self.function = function
        self.v = nn.Parameter(torch.rand(hidden_size) + 0.2)

    def prepare(self, inputs):
        return self.v, inputs

    def step(self, v, x, state):
        h = self.function(x, state[0], v)
        return h, (h,)


def gradients(layer, inputs, state, **options):
    outputs, final = layer(inputs, state, **options)
    results = [outputs, *final]
    weights = [torch.linspace(0.5, 1.5, r.numel(), dtype=r.dtype).reshape(r.shape) for r in results]
    loss = sum((w * r).sum() for w, r in zip(weights, results, strict=True))
    leaves = [inputs, *state, *layer.parameters()]
    return results, torch.autograd.grad(loss, leaves, allow_unused=True)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_rule_is_autograd_s(name):
    torch.manual_seed(0)
    cell = Elementwise(OPERATIONS[name]).double()
    inputs = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    state = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True),)
    ours, expected = (gradients(Recurrent(cell, backend), inputs, state) for backend in ("fused", "reference"))
    for mine, truth in zip(ours[0], expected[0], strict=True):
        torch.testing.assert_close(mine, truth, rtol=0, atol=1e-12)
    for mine, truth in zip(ours[1], expected[1], strict=True):
        if truth is None:
            assert mine is None or not mine.any()
        else:
            torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-12)


def test_every_rule_is_tested():
    tested = set()
    for function in OPERATIONS.values():
        cell = Elementwise(function)
        constants, prepared = cell.prepare(torch.randn(1, 2, 4))
        program = trace(cell, constants, prepared[0], cell.initial_state(2))
        tested |= {node.operation for node in program.nodes}
    program = trace(LayerNormLSTM(4, 4), *_first(LayerNormLSTM(4, 4)))
    tested |= {node.operation for node in program.nodes}
    assert set(RULES) - tested <= {"ones_like", "lt", "ge", "le", "eq", "ne"}  # of no gradient, like gt


def _first(cell):
    constants, prepared = cell.prepare(torch.randn(1, 2, 4))
    return constants, prepared[0], cell.initial_state(2)


def _layer(name="gru", **options):
    return Recurrent(cells.create(name, input_size=3, hidden_size=4, **options).double(), "fused")


def test_the_gradient_of_a_gradient():
    layer = _layer(reset="before")
    inputs = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x, lengths=torch.tensor([3, 2]))[0], (inputs,))


def test_two_backward_passes_give_the_same():
    layer = _layer("lstm")
    inputs = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    loss = layer(inputs)[0].square().sum()
    first = torch.autograd.grad(loss, [inputs, *layer.parameters()], retain_graph=True)
    second = torch.autograd.grad(loss, [inputs, *layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_called_twice_before_backward():
    layer = _layer()
    inputs = torch.randn(5, 2, 3, dtype=torch.float64)
    both = layer(inputs)[0].sum() + layer(2 * inputs)[0].sum()
    together = torch.autograd.grad(both, list(layer.parameters()))
    apart = [torch.autograd.grad(layer(k * inputs)[0].sum(), list(layer.parameters())) for k in (1, 2)]
    for a, *b in zip(together, *apart, strict=True):
        torch.testing.assert_close(a, b[0] + b[1])


def test_weights_changed_between_forward_and_backward_are_noticed():
    layer = _layer()
    loss = layer(torch.randn(5, 2, 3, dtype=torch.float64))[0].sum()
    with torch.no_grad():
        layer.cell.U.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_what_a_forward_keeps_is_freed_with_its_results(name):
    # A result that its own backward step holds would stay until the garbage collector looks for cycles.
    layer = _layer(name)
    gc.collect()
    gc.disable()
    try:
        outputs, state = layer(torch.randn(5, 2, 3, dtype=torch.float64))
        watched = [weakref.ref(outputs), *map(weakref.ref, state), weakref.ref(outputs.grad_fn)]
        del outputs, state
        assert [reference() for reference in watched] == [None] * len(watched)
    finally:
        gc.enable()


def test_a_changed_option_changes_the_program():
    cell = cells.create("rnn", input_size=3, hidden_size=4)
    layer, inputs = Recurrent(cell, "fused"), torch.randn(5, 2, 3)
    before = layer(inputs)[0]
    cell.activation = "relu"
    assert not torch.equal(layer(inputs)[0], before)
    torch.testing.assert_close(layer(inputs)[0], Recurrent(cell, "reference")(inputs)[0])


def test_masks_are_drawn_anew_each_time():
    layer = Recurrent(Regularised(3, 8), "fused").train()
    inputs = torch.randn(5, 2, 3)
    assert not torch.equal(layer(inputs)[0], layer(inputs)[0])


def test_bfloat16_goes_by_the_reference():
    layer = _layer().float()
    inputs = torch.randn(5, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        ours = layer(inputs)[0]
        expected = Recurrent(layer.cell, "reference")(inputs)[0]
    assert torch.equal(ours, expected)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x, h, v: torch.cumsum(h, -1) + x * v, "cumsum"),
        (lambda x, h, v: h.add_(x * v), "add_"),
        (lambda x, h, v: h + x * v * torch.rand_like(x), "rand_like"),
        (lambda x, h, v: torch.where(torch.rand_like(x) > 0.5, h, x * v), "rand_like"),
        (lambda x, h, v: h + x * v * torch.ones(4), "ones"),
        (lambda x, h, v: x * v + h.sum(), "sum over all axes"),
        (lambda x, h, v: x * v + h.mean(), "mean over all axes"),
        (lambda x, h, v: x * v + h.abs() ** v, "pow with a tensor as exponent"),
        (lambda x, h, v: x * v + 2**h, "pow with a tensor as exponent"),
        (lambda x, h, v: OUTSIDE, "return of a tensor that is neither constant, nor per step, nor state"),
    ],
)
def test_what_cannot_be_fused_is_named(function, names):
    with pytest.raises(
        InputError, match=f"backend 'fused' cannot run Elementwise, its step does {names}.*'reference' can"
    ):
        engine.choose(Elementwise(function), "fused")


def test_explain_prints_both_steps(capsys):
    assert __main__.main(["explain", "cell=gru", "cell.reset=before"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("def forward(constants, inputs, state):")
    assert "def backward(" in printed
    forward = printed.split("def backward(")[0]
    assert forward.count("torch.mm(") == 2  # two products that depend on each other
    assert forward.count("torch.sigmoid(") == 2


def test_linear_is_a_product_with_a_constant():
    class Strange(Elementwise):
        def step(self, v, x, state):
            h = x + linear(state[0], state[0][:1].expand(4, 4)) * v
            return h, (h,)

    with pytest.raises(InputError, match="cannot run Strange"):
        engine.choose(Strange(None), "fused")


def test_the_first_use_does_not_import_the_compiler():
    code = (
        "import sys, torch; from rnnlab import cells, engine; before = set(sys.modules);"
        "engine.choose(cells.create('lstm', input_size=2, hidden_size=3), 'fused');"
        "print([name for name in set(sys.modules) - before if 'dynamo' in name or 'inductor' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_the_reference_s_backward_is_linear_in_the_length():
    # Indexing a prepared [T, B, F] a step at a time has a backward that fills all of it with zeros at every step.
    layer = Recurrent(cells.create("gru", input_size=3, hidden_size=4), "reference")
    seen, waiting = set(), [layer(torch.randn(5, 2, 3))[0].grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    names = {type(node).__name__ for node in seen}
    assert "UnbindBackward0" in names
    assert "SelectBackward0" not in names


def test_the_backward_step_computes_nothing_that_nobody_asks_for():
    cell = Elementwise(lambda x, h, v: (h - 1) / 2 * v + x / 3)
    backward = fused.steps_of(cell).source.split("def backward")[1]
    made = re.findall(r"^    (g\d+) = ", backward, re.MULTILINE)
    assert made
    assert all(len(re.findall(rf"\b{name}\b", backward)) > 1 for name in made)
