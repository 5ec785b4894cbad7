"""The traced step and its derived backward step; the contract suite runs the backend over every cell besides."""

import gc
import re
import subprocess
import sys
import weakref

import pytest
import torch
from outside.shapes import Elementwise, Regularised
from torch.nn.functional import linear

from rnnlab import __main__, cells, engine
from rnnlab.engine import fused
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent

OUTSIDE = torch.zeros(2, 4)


def _layer(name="gru", **options):
    return Recurrent(cells.create(name, input_size=3, hidden_size=4, **options).double(), "fused")


@pytest.mark.usefixtures("device")
def test_the_gradient_of_a_gradient():
    layer = _layer(reset="before")
    inputs = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x, lengths=torch.tensor([3, 2]))[0], (inputs,))


@pytest.mark.usefixtures("device")
def test_two_backward_passes_give_the_same():
    layer = _layer("lstm")
    inputs = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    loss = layer(inputs)[0].square().sum()
    first = torch.autograd.grad(loss, [inputs, *layer.parameters()], retain_graph=True)
    second = torch.autograd.grad(loss, [inputs, *layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("device")
def test_called_twice_before_backward():
    layer = _layer()
    inputs = torch.randn(5, 2, 3, dtype=torch.float64)
    both = layer(inputs)[0].sum() + layer(2 * inputs)[0].sum()
    together = torch.autograd.grad(both, list(layer.parameters()))
    apart = [torch.autograd.grad(layer(k * inputs)[0].sum(), list(layer.parameters())) for k in (1, 2)]
    for a, *b in zip(together, *apart, strict=True):
        torch.testing.assert_close(a, b[0] + b[1])


@pytest.mark.usefixtures("device")
def test_weights_changed_between_forward_and_backward_are_noticed():
    layer = _layer()
    loss = layer(torch.randn(5, 2, 3, dtype=torch.float64))[0].sum()
    with torch.no_grad():
        layer.cell.U.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.usefixtures("device")
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


@pytest.mark.usefixtures("device")
def test_a_changed_option_changes_the_program():
    cell = cells.create("rnn", input_size=3, hidden_size=4)
    layer, inputs = Recurrent(cell, "fused"), torch.randn(5, 2, 3)
    before = layer(inputs)[0]
    cell.activation = "relu"
    assert not torch.equal(layer(inputs)[0], before)
    torch.testing.assert_close(layer(inputs)[0], Recurrent(cell, "reference")(inputs)[0])


@pytest.mark.usefixtures("device")
def test_masks_are_drawn_anew_each_time():
    layer = Recurrent(Regularised(3, 8), "fused").train()
    inputs = torch.randn(5, 2, 3)
    assert not torch.equal(layer(inputs)[0], layer(inputs)[0])


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
        (lambda x, h, v: x * v.expand_as(x) + h, "expand over the sequences of a batch"),
        (lambda x, h, v: OUTSIDE, "return of a tensor that is neither constant, nor per step, nor state"),
    ],
)
def test_what_cannot_be_fused_is_named(function, names):
    with pytest.raises(
        InputError, match=f"backend 'fused' cannot run Elementwise: its step uses {names}.*'reference' can"
    ):
        engine.choose(Elementwise(function), "fused")


def test_explain_prints_both_steps(capsys):
    assert __main__.main(["explain", "cell=gru", "cell.reset=before"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("def forward(constants, inputs, state):")
    assert "def backward(" in printed
    forward = printed.split("def backward(")[0]
    assert forward.count(" @ ") == 2  # two products that depend on each other
    assert forward.count("torch.sigmoid(") == 2


def test_linear_is_a_product_with_a_constant():
    class Strange(Elementwise):
        def step(self, v, x, state):
            h = x + linear(state[0], state[0][:1].expand(4, 4)) * v
            return h, (h,)

    with pytest.raises(InputError, match="cannot run Strange"):
        engine.choose(Strange(None), "fused")


@pytest.mark.slow  # test_start.py has a command that compiles
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
    backward = fused.traced(cell).python.source.split("def backward")[1]
    made = re.findall(r"^    (g\d+) = ", backward, re.MULTILINE)
    assert made
    assert all(len(re.findall(rf"\b{name}\b", backward)) > 1 for name in made)


def test_explain_says_where_there_is_no_c(capsys):
    assert __main__.main(["explain", "cell=s4d"]) == 0
    said = capsys.readouterr().out
    assert "def backward(" in said
    assert "# No C code: the step uses a tensor of shape [B, " in said
