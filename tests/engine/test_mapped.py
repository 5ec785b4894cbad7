"""A prepare that is one linear map is computed within the compiled call; the results are those of the plain loop."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import linear
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from rnnlab import cells
from rnnlab.cells import Cell
from rnnlab.engine import traced
from rnnlab.engine.mapped import mapped
from rnnlab.layers import Recurrent

T, B, N, H = 7, 5, 3, 4


class Plain(Cell):
    """An RNN with a bias in its map, as a user may write it."""

    def __init__(self, input_size=N, hidden_size=H):
        super().__init__(input_size, hidden_size)
        self.W = nn.Parameter(torch.randn(hidden_size, input_size))
        self.U = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size)
        self.b = nn.Parameter(torch.randn(hidden_size))
        self.calls = ()

    def prepare(self, inputs):
        return (self.U,), linear(inputs, self.W, self.b)

    def step(self, constants, x, state):
        (U,), (h,) = constants, state
        h = (x + linear(h, U)).tanh()
        return h, (h,)


class Keeping(Plain):
    """It puts the prepared inputs away."""

    def prepare(self, inputs):
        self.kept = linear(inputs, self.W, self.b)
        return (self.U,), self.kept


class Counting(Plain):
    """It calls another function."""

    counted = []

    def prepare(self, inputs):
        self.counted.append(1)
        return (self.U,), linear(inputs, self.W, self.b)


class Long(Plain):
    """It depends on the number of steps."""

    def prepare(self, inputs):
        return (self.U,), linear(inputs, self.W if inputs.shape[0] > 2 else self.U[:, :N], self.b)


class Switching(Plain):
    """It depends on an attribute."""

    on = True

    def prepare(self, inputs):
        return (self.U,), linear(inputs, self.W, self.b if self.on else None)


def is_mapped(layer, inputs):
    return mapped(layer.cell, inputs, layer.initial_state(inputs.shape[1])) is not None


def results(layer, inputs, way="fused", **given):
    """Outputs, final state and all gradients of a loss on both."""
    like = Recurrent(layer.cell, way)
    inputs = inputs.detach().requires_grad_()
    outputs, state = like(inputs, **given)
    loss = outputs.square().sum() + sum(part.sin().sum() for part in state)
    wanted = [inputs, *(p for p in layer.parameters() if p.requires_grad)]
    return [outputs, *state, *torch.autograd.grad(loss, wanted, allow_unused=True)]


def check(layer, inputs, **given):
    for ours, theirs in zip(results(layer, inputs, **given), results(layer, inputs, "reference", **given), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return Recurrent(Plain().double(), "fused")


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "layernorm_rnn", "indrnn", "lstmp"])
@pytest.mark.parametrize("size", [(1, 1, 3, 4), (7, 5, 3, 4), (200, 2, 20, 33)])
def test_cells(name, size):
    steps, rows, features, width = size
    torch.manual_seed(0)
    layer = Recurrent(cells.create(name, input_size=features, hidden_size=width).double(), "fused")
    assert is_mapped(layer, draw(steps, rows, features))
    check(layer, draw(steps, rows, features))
    check(layer, draw(steps, rows, features), lengths=torch.randint(1, steps + 1, (rows,)))


@pytest.mark.parametrize("width", [8, 64])
def test_an_lstm_is_that_of_torch(width):
    torch.manual_seed(0)
    theirs = nn.LSTM(5, width).double()
    layer = Recurrent(cells.create("lstm", input_size=5, hidden_size=width).double(), "fused")
    layer.cell.load_native(tuple(theirs.parameters()))
    inputs, upstream, first = draw(100, 20, 5).requires_grad_(), draw(100, 20, width), draw(2, 20, width, seed=1)
    found = []
    for run in (lambda: layer(inputs, tuple(first)), lambda: theirs(inputs, tuple(first.unsqueeze(1)))):
        outputs, (h, c) = run()
        loss = (outputs * upstream).sum() + h.sin().sum() + c.cos().sum()
        found.append([outputs, h.flatten(), c.flatten(), *torch.autograd.grad(loss, inputs)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_a_user_s_cell_is_mapped(layer):
    assert is_mapped(layer, draw(T, B, N))
    check(layer, draw(T, B, N))


@pytest.mark.parametrize("kind", [Keeping, Counting, Long])
def test_a_prepare_that_does_more_runs_at_every_call(kind):
    torch.manual_seed(0)
    layer = Recurrent(kind().double(), "fused")
    assert not is_mapped(layer, draw(T, B, N))
    Counting.counted.clear()
    for steps in (T, 2, T):
        check(layer, draw(steps, B, N))
    assert kind is not Counting or len(Counting.counted) >= 3
    if kind is Keeping:
        layer(draw(2, B, N))
        assert len(layer.cell.kept) == 2


def test_an_attribute_that_prepare_reads_may_change():
    layer = Recurrent(Switching().double(), "fused")
    for on in (True, False, True):
        layer.cell.on = on
        assert is_mapped(layer, draw(T, B, N))
        check(layer, draw(T, B, N))


@pytest.mark.parametrize("frozen", ["W", "U", "b", "W b", "W U b"])
def test_frozen_parameters(layer, frozen):
    check(layer, draw(T, B, N))
    for name in frozen.split():
        getattr(layer.cell, name).requires_grad_(False)
    check(layer, draw(T, B, N))
    with torch.no_grad():
        outputs = layer(draw(T, B, N))[0]
    torch.testing.assert_close(outputs, results(layer, draw(T, B, N), "reference")[0])


def test_only_the_final_state_has_a_loss(layer):
    found = []
    for way in ("fused", "reference"):
        inputs = draw(T, B, N).requires_grad_()
        state = Recurrent(layer.cell, way)(inputs)[1]
        found.append(torch.autograd.grad(state[0].sum(), [inputs, layer.cell.W]))
    torch.testing.assert_close(*found)


def test_replaced_tied_and_parametrized_parameters():
    torch.manual_seed(0)
    layer = Recurrent(Plain(H, H).double(), "fused")
    inputs, own = draw(T, B, H), layer.cell.W
    check(layer, inputs)
    layer.cell.W = nn.Parameter(draw(H, H, seed=1))
    check(layer, inputs)
    layer.cell.W = layer.cell.U
    check(layer, inputs)
    layer.cell.W = own
    check(layer, inputs)
    given = {name: parameter.detach() / 2 for name, parameter in layer.cell.named_parameters()}
    called = torch.func.functional_call(layer, {f"cell.{name}": value for name, value in given.items()}, (inputs,))
    expected = torch.func.functional_call(
        Recurrent(layer.cell, "reference"), {f"cell.{n}": v for n, v in given.items()}, (inputs,)
    )
    torch.testing.assert_close(called[0], expected[0])
    parametrizations.weight_norm(layer.cell, "W")
    assert not is_mapped(layer, inputs)
    check(layer, inputs)


def test_a_removed_bias():
    layer = Recurrent(cells.create("lstm", input_size=N, hidden_size=H).double(), "fused")
    check(layer, draw(T, B, N))
    layer.cell.b = None
    check(layer, draw(T, B, N))


def test_tied_when_first_seen():
    torch.manual_seed(0)
    layer = Recurrent(Plain(H, H).double(), "fused")
    layer.cell.W = layer.cell.U
    check(layer, draw(T, B, H))
    layer.cell.W = nn.Parameter(draw(H, H, seed=1))
    check(layer, draw(T, B, H))


def test_hooks_run(layer):
    check(layer, draw(T, B, N))
    seen = []
    handle = layer.cell.register_forward_hook(lambda cell, given, made: seen.append(len(given[0])))
    layer(draw(T, B, N))
    handle.remove()
    layer(draw(T, B, N))
    assert seen == [T]


def test_gradients_of_gradients_and_batches_of_gradients(layer):
    inputs = draw(4, 2, N).requires_grad_()
    assert is_mapped(layer, inputs)
    parameters = list(layer.parameters())

    def run(x, *_):
        return layer(x)[0]

    assert torch.autograd.gradcheck(run, (inputs, *parameters))
    assert torch.autograd.gradgradcheck(run, (inputs, *parameters))
    outputs, upstream = run(inputs), draw(6, 4, 2, H)
    at_once = torch.autograd.grad(outputs, [inputs, *parameters], upstream, is_grads_batched=True, retain_graph=True)
    for i, one in enumerate(upstream):
        found = torch.autograd.grad(outputs, [inputs, *parameters], one, retain_graph=True)
        torch.testing.assert_close([part[i] for part in at_once], list(found))


def test_kernels_of_another_device_do_without(layer, monkeypatch):
    monkeypatch.setattr(traced, "KERNELS", {})
    layer.cell.calls = (1,)  # another trace
    assert not is_mapped(layer, draw(T, B, N))
    check(layer, draw(T, B, N))


def test_a_batch_of_gradients_of_a_large_map():
    torch.manual_seed(0)
    layer = Recurrent(cells.create("rnn", input_size=64, hidden_size=256), "fused")
    inputs = torch.randn(64, 32, 64, requires_grad=True)
    outputs, upstream = layer(inputs)[0], torch.randn(2, 64, 32, 256)
    at_once = torch.autograd.grad(outputs, [inputs, layer.cell.W], upstream, is_grads_batched=True, retain_graph=True)
    for i, one in enumerate(upstream):
        found = torch.autograd.grad(outputs, [inputs, layer.cell.W], one, retain_graph=True)
        for part, whole in zip(at_once, found, strict=True):
            torch.testing.assert_close(part[i], whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant):
    torch.manual_seed(0)
    layer = Recurrent(cells.create("lstm", input_size=N, hidden_size=H).double(), "fused")
    found = []
    for _ in range(2):  # the first call of all is within a checkpoint
        inputs = draw(T, B, N).requires_grad_()
        outputs = checkpoint(lambda x: layer(x)[0], inputs, use_reentrant=reentrant)
        found.append(torch.autograd.grad(outputs.sum(), inputs) if not reentrant else _of(outputs, inputs))
    inputs = draw(T, B, N).requires_grad_()
    found.append(torch.autograd.grad(Recurrent(layer.cell, "reference")(inputs)[0].sum(), inputs))
    for one in found:
        torch.testing.assert_close(one[0], found[-1][0])


def _of(outputs, inputs):
    outputs.sum().backward()
    return (inputs.grad,)


def test_a_mode_of_torch_sees_the_map(layer):
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    layer(draw(T, B, N))
    with Mode():
        layer(draw(T, B, N))
    assert functional.linear in seen
