"""What a step tells autograd, and what it reads besides its tensors: the compiled step follows, or is not used."""

import dataclasses
import logging
import sys
from functools import partial
from types import MethodType, ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from rnnlab.cells import Cell, create
from rnnlab.cells.base import input_weights, recurrent_weights
from rnnlab.engine.ir.watch import LARGEST, fingerprint
from rnnlab.engine.traced import VARIANTS, known
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent

T, B, F, H = 9, 3, 4, 5
SLOPE = 1.0


class Own(Cell):
    """h = f(x + U h, h)."""

    factor = 1.0

    def __init__(self, f=None, act=None):
        super().__init__(F, H)
        self.W, self.U = input_weights(1, H, F), recurrent_weights(1, H)
        self.f, self.act = f, act
        self.double()

    def prepare(self, inputs):
        return (self.U,), linear(inputs, self.W)

    def step(self, constants, x, state):
        z = x + linear(state[0], constants[0])
        h = self.f(z, state[0]) if self.f else self.by_act(z)
        return h, (h,)

    def by_act(self, z):
        act = self.act
        if callable(act):
            return act(z)
        if isinstance(act, dict):
            return (act["slope"] * z).tanh()
        if isinstance(act, list | tuple):
            return (act[0] * z).tanh()
        if isinstance(act, set):
            return z.relu() if "relu" in act else z.tanh()
        if hasattr(act, "slope"):
            return (act.slope * z).tanh()
        return (float(act) * z).tanh()


def by_loop(cell, inputs, f):
    """The loop written out."""
    h, outputs = inputs.new_zeros(inputs.shape[1], H), []
    for x in inputs:
        h = f(linear(x, cell.W) + linear(h, cell.U), h)
        outputs.append(h)
    return torch.stack(outputs)


def by_hand(cell, inputs, f):
    """Its outputs, and by autograd the gradients of both weights."""
    outputs = by_loop(cell, inputs, f)
    return [outputs.detach(), *torch.autograd.grad(outputs.square().sum(), [cell.W, cell.U])]


def found(layer, inputs):
    outputs, _ = layer(inputs)
    return [outputs.detach(), *torch.autograd.grad(outputs.square().sum(), [layer.cell.W, layer.cell.U])]


def same(ours, theirs):
    for mine, true in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-11)


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return torch.randn(T, B, F, dtype=torch.float64)


class Triangle(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx, gradient):
        (z,) = ctx.saved_tensors
        return gradient * (1 - z.abs()).clamp_min(0)


def no_grad(z, h):
    with torch.no_grad():
        scale = z.abs().mean(-1, keepdim=True) + 1
    return (z / scale).tanh()


@torch.no_grad()
def norm_of(z):
    return z.square().sum(-1, keepdim=True).sqrt() + 1


def gate_without_gradient(z, h):
    with torch.set_grad_enabled(False):
        gate = (2 * z).sigmoid()
    return gate * z.tanh()


def enabled_again(z, h):
    with torch.no_grad():
        held = z.sin()
        with torch.enable_grad():
            gate = z.sigmoid()
    return held * gate


def hooked(z, h):
    z = z + 0.0
    z.register_hook(lambda gradient: gradient.clamp(-0.05, 0.05))
    return z.tanh()


def energy(z, h):
    with torch.enable_grad():
        return -torch.autograd.grad((z - h).tanh().sum(), z, create_graph=True)[0] + z.tanh()


@pytest.mark.parametrize(
    "f",
    [
        no_grad,
        lambda z, h: (z / norm_of(z)).tanh(),
        gate_without_gradient,
        enabled_again,
        lambda z, h: z.tanh() + h.data,
    ],
    ids=["no_grad", "decorator", "set_grad_enabled", "enable_grad", "data"],
)
def test_what_has_no_gradient_has_none_compiled(f, inputs):
    layer = Recurrent(Own(f), "fused")
    same(found(layer, inputs), by_hand(layer.cell, inputs, f))


@pytest.mark.parametrize(
    ("f", "named"),
    [
        (lambda z, h: Triangle.apply(z - 0.2) * 0.7 + 0.3 * h, "Triangle.*surrogate"),
        (hooked, "hook"),
        (energy, "sum over all axes"),
        (lambda z, h: z.tanh() * (0.5 if h.requires_grad else 0.4), "requires_grad"),
        (lambda z, h: (z / z.shape[0]).tanh(), "arithmetic with the batch size"),
        (lambda z, h: (z * (1.0 / z.size(0))).tanh(), "arithmetic with the batch size"),
        (lambda z, h: (z / len(z)).tanh(), "len"),
        (lambda z, h: z.tanh() if z.shape[0] > 2 else z.sin(), "arithmetic with the batch size"),
        (lambda z, h: (z - z.mean(0)).tanh(), "sequences of a batch"),
        (lambda z, h: z.tanh() + z[0], "sequences of a batch"),
        (lambda z, h: z.tanh() * float(h.detach().numpy().max() + 1), "numpy"),
        (lambda z, h: z.tanh() * (h.tolist()[0][0] + 1), "tolist"),
    ],
)
def test_what_cannot_be_noted_is_named_once_and_runs_as_written(f, named, inputs, caplog):
    cell = Own(f)
    with pytest.raises(InputError, match=named):
        Recurrent(cell, "fused")
    with caplog.at_level(logging.WARNING):
        layers = [Recurrent(cell), Recurrent(cell)]
    assert [layer.choice.name for layer in layers] == ["reference"] * 2
    assert len(caplog.messages) <= 1
    rows = [torch.randn(T, rows, F, dtype=torch.float64) for rows in (1, 2, 5)]
    for given in (inputs, *rows):
        same(found(layers[0], given)[:1], [by_loop(cell, given, f).detach()])


def test_a_step_that_writes_to_its_cell_is_not_compiled():
    def note(z, h):
        cell.last = float(len(cell.__dict__))
        cell.count = getattr(cell, "count", 0) + 1
        return z.tanh()

    cell = Own(note)
    assert Recurrent(cell).choice.name == "reference"


@dataclasses.dataclass
class Slope:
    slope: float


class Slotted:
    __slots__ = ("slope",)

    def __init__(self, slope):
        self.slope = slope


CHANGES = {
    "float": (1.0, 0.3),
    "numpy": (np.float32(1), np.float32(0.3)),
    "array": (np.array(1.0), np.array(0.3)),
    "builtin": (torch.tanh, torch.relu),
    "lambda": (lambda z: z.tanh(), lambda z: z.sigmoid()),
    "partial": (partial(torch.clamp, min=-1.0, max=1.0), partial(torch.clamp, min=-0.1, max=0.1)),
    "submodule": (nn.Tanh(), nn.Sigmoid()),
    "submodule's option": (nn.LeakyReLU(0.1), nn.LeakyReLU(0.9)),
    "dictionary": ({"slope": 1.0}, {"slope": 0.3}),
    "list": ([1.0], [0.3]),
    "namespace": (SimpleNamespace(slope=1.0), SimpleNamespace(slope=0.3)),
    "dataclass": (Slope(1.0), Slope(0.3)),
    "slots": (Slotted(1.0), Slotted(0.3)),
    "set": ({"tanh"}, {"relu"}),
    "sign of zero": (0.0, -0.0),
}


@pytest.mark.parametrize("backend", ["fused", "auto"])
@pytest.mark.parametrize("kind", CHANGES)
def test_an_attribute_that_changes_is_followed(kind, backend, inputs):
    first, second = CHANGES[kind]
    cell = Own(act=first)
    layer = Recurrent(cell, backend)
    for act in (first, second):
        cell.act = act
        layer(inputs)
        with torch.no_grad():
            outputs = layer(inputs)[0]
        expected = by_hand(cell, inputs, lambda z, h: cell.by_act(z))
        same(found(layer, inputs), expected)
        same([outputs], expected[:1])


def test_a_value_within_an_attribute_that_changes_is_followed(inputs):
    for act, change in (
        ({"slope": 1.0}, lambda act: act.update(slope=0.3)),
        ([1.0], lambda act: act.__setitem__(0, 0.3)),
        (Slope(1.0), lambda act: setattr(act, "slope", 0.3)),
        (nn.LeakyReLU(0.1), lambda act: setattr(act, "negative_slope", 0.7)),
    ):
        cell = Own(act=act)
        layer = Recurrent(cell, "fused")
        layer(inputs)
        change(act)
        same(found(layer, inputs), by_hand(cell, inputs, lambda z, h, cell=cell: cell.by_act(z)))


def sloped(z, h):
    return (SLOPE * z).tanh()


def test_the_code_of_a_step_and_what_it_refers_to_are_followed(inputs, monkeypatch):
    cell = Own(sloped)
    layer = Recurrent(cell, "fused")

    def check(f):
        layer(inputs)
        same(found(layer, inputs), by_hand(cell, inputs, f))

    check(lambda z, h: z.tanh())
    monkeypatch.setattr(sys.modules[__name__], "SLOPE", 0.4)
    check(lambda z, h: (0.4 * z).tanh())
    new = ModuleType("edited")
    exec("def sloped(z, h):\n    return z.sin()", vars(new))
    monkeypatch.setattr(sloped, "__code__", new.sloped.__code__)  # as an editor's reload does
    check(lambda z, h: z.sin())
    monkeypatch.setattr(
        Own,
        "step",
        lambda self, constants, x, state: (lambda h: (h, (h,)))((x + linear(state[0], constants[0])).sigmoid()),
    )
    check(lambda z, h: z.sigmoid())
    cell.step = MethodType(
        lambda self, constants, x, state: (lambda h: (h, (h,)))((x + linear(state[0], constants[0])).atan()), cell
    )
    check(lambda z, h: z.atan())


def test_variables_of_a_closure_and_defaults_are_followed(inputs):
    slope = 0.9

    def f(z, h, factor=1.0, *, shift=0.0):
        return (slope * factor * z + shift).tanh()

    cell = Own(f)
    layer = Recurrent(cell, "fused")
    layer(inputs)
    slope = 0.4
    same(found(layer, inputs), by_hand(cell, inputs, lambda z, h: (0.4 * z).tanh()))
    f.__defaults__ = (2.0,)
    same(found(layer, inputs), by_hand(cell, inputs, lambda z, h: (0.8 * z).tanh()))
    f.__kwdefaults__ = {"shift": 0.5}
    same(found(layer, inputs), by_hand(cell, inputs, lambda z, h: (0.8 * z + 0.5).tanh()))


def test_an_attribute_of_the_class_is_followed(inputs, monkeypatch):
    cell = Own(act=None)
    cell.f = MethodType(lambda self, z, h: (self.factor * z).tanh(), cell)
    layer = Recurrent(cell, "fused")
    layer(inputs)
    monkeypatch.setattr(Own, "factor", 0.3)
    same(found(layer, inputs), by_hand(cell, inputs, lambda z, h: (0.3 * z).tanh()))


def test_what_torch_derives_from_a_class_is_followed_as_the_class_is(inputs, monkeypatch):
    cell = Own(lambda z, h: (cell.factor * z).tanh())
    torch.nn.utils.parametrizations.weight_norm(cell, "U")
    layer = Recurrent(cell, "fused")
    layer(inputs)
    monkeypatch.setattr(Own, "factor", 0.3)
    outputs, _ = layer(inputs)
    same([outputs], [by_loop(cell, inputs, lambda z, h: (0.3 * z).tanh())])


def test_the_backend_and_the_options_of_a_layer_can_change(inputs):
    layer = Recurrent(create("gru", input_size=F, hidden_size=H)).double()
    assert layer.choice.name == "fused"
    layer.backend = "reference"
    assert layer.choice.name == "reference"
    layer = Recurrent(create("gru", input_size=F, hidden_size=H), "native").double()
    layer.cell.reset = "before"
    with pytest.raises(InputError, match="native"):
        layer(inputs)


def test_a_cell_whose_step_was_replaced_is_not_run_by_torch_nn(inputs):
    class Squared(type(create("lstm", input_size=F, hidden_size=H))):
        def step(self, constants, x, state):
            output, state = super().step(constants, x, state)
            return output.square(), state

    layer = Recurrent(Squared(F, H).double())
    with torch.no_grad():
        plain, _ = Recurrent(layer.cell, "reference")(inputs)
        same([layer(inputs)[0]], [plain])
    assert (plain >= 0).all()
    with pytest.raises(InputError, match="native"):
        Recurrent(layer.cell, "native")


def test_a_value_that_changes_at_every_call_is_not_compiled_every_time(inputs, monkeypatch):
    monkeypatch.setattr("rnnlab.engine.traced.Traced.lowered", None)
    cell = Own(act=1.0)
    layer = Recurrent(cell, "auto")
    for step in range(VARIANTS + 3):
        cell.act = 1.0 + step
        same(found(layer, inputs), by_hand(cell, inputs, lambda z, h: cell.by_act(z)))
    assert len(known(cell)) == VARIANTS
    assert Recurrent(cell).choice.name == "reference"


def test_a_hook_on_a_module_within_the_step_runs_at_every_step(inputs):
    cell, seen = Own(act=nn.Tanh()), []
    layer = Recurrent(cell)
    layer(inputs)
    handle = cell.act.register_forward_hook(lambda module, args, output: seen.append(1))
    layer(inputs)
    assert len(seen) == T
    handle.remove()
    assert Recurrent(cell).choice.name == "fused"


def test_a_cell_too_large_to_look_at_in_every_call_runs_as_written(inputs):
    cell = Own(act=1.0)
    cell.words = [[number] for number in range(LARGEST + 1)]
    assert Recurrent(cell).choice.name == "reference"


def test_a_fingerprint_ends_on_circles_and_keeps_no_cell_alive():
    import gc
    import weakref

    cell = Own(act=1.0)
    cell.me, cell.circle = cell, {}
    cell.circle["again"] = cell.circle
    cell.method = cell.by_act
    assert fingerprint(cell) == fingerprint(cell)
    Recurrent(cell)(torch.randn(T, B, F, dtype=torch.float64))
    seen = weakref.ref(cell)
    del cell
    gc.collect()
    assert seen() is None
