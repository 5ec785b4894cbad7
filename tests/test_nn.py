"""`rnnlab.nn` behaves as ``torch.nn``: results, gradients, errors, and everything that users do to a layer."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from rnnlab import nn as compiled
from rnnlab.layers import Recurrent, from_torch

KINDS = ("RNN", "LSTM", "GRU")
OPTIONS = [
    dict(zip(("num_layers", "bidirectional", "batch_first", "bias"), values, strict=True))
    for values in itertools.product((1, 2), (False, True), (False, True), (True, False))
]


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    """Compiled steps run layers of any size, so that small tests test them."""
    monkeypatch.setattr(compiled, "FEWEST_STEPS", dict.fromkeys(compiled.FEWEST_STEPS, 0))
    monkeypatch.setattr(compiled, "LEAST_WORK", 0)


@pytest.fixture
def calls(monkeypatch):
    """The calls of compiled layers."""
    found = []
    forward = Recurrent.forward
    monkeypatch.setattr(Recurrent, "forward", lambda self, *given: found.append(self) or forward(self, *given))
    return found


def _pair(kind, *sizes, **options):
    torch.manual_seed(0)
    plain = getattr(nn, kind)(*sizes, **options).double()
    fast = getattr(compiled, kind)(*sizes, **options).double()
    fast.load_state_dict(plain.state_dict())
    return plain, fast


def _inputs(form, batch_first=False):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    if form == "batch":
        return draw(3, 40, 5) if batch_first else draw(40, 3, 5)
    if form == "unbatched":
        return draw(40, 5)
    lengths = (30, 21, 21, 2) if form == "sorted" else (21, 30, 2, 21)
    return pack_sequence([draw(length, 5) for length in lengths], enforce_sorted=form == "sorted")


def _tensors(result):
    outputs, states = result
    states = states if isinstance(states, tuple) else (states,)
    return [outputs.data if isinstance(outputs, PackedSequence) else outputs, *states]


def _gradients(layer, inputs, states=None):
    """Outputs and final states, and the gradients of a loss that depends on all of them."""
    found = _tensors(layer(inputs, states))
    loss = sum((tensor * (1.3 + number)).sin().sum() for number, tensor in enumerate(found))
    wanted = [*layer.parameters()]
    return [*found, *torch.autograd.grad(loss, wanted)]


@pytest.mark.parametrize("kind", KINDS)
def test_results_and_gradients_are_those_of_torch(kind, calls):
    forms = ("batch", "unbatched", "sorted", "unsorted")
    for options, form in itertools.product(OPTIONS, forms):
        plain, fast = _pair(kind, 5, 7, **options)
        inputs = _inputs(form, options["batch_first"])
        calls.clear()
        for one, other in zip(_gradients(plain, inputs), _gradients(fast, inputs), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)
        assert len(calls) == options["num_layers"] * (1 + options["bidirectional"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["batch", "unbatched", "unsorted"])
def test_initial_states_in_the_order_of_the_user(kind, form):
    plain, fast = _pair(kind, 5, 7, num_layers=2, bidirectional=True)
    batch = {"batch": (3,), "unbatched": (), "unsorted": (4,)}[form]
    states = [torch.randn(4, *batch, 7, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    states = tuple(states) if kind == "LSTM" else states[0]
    expected, found = ([*_gradients(layer, _inputs(form), states)] for layer in (plain, fast))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_packed_outputs_have_the_layout_of_the_inputs():
    plain, fast = _pair("GRU", 5, 7)
    inputs = _inputs("unsorted")
    expected, found = plain(inputs)[0], fast(inputs)[0]
    assert found.batch_sizes.equal(expected.batch_sizes)
    assert found.sorted_indices.equal(expected.sorted_indices)
    assert found.unsorted_indices.equal(expected.unsorted_indices)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("inputs", "states"),
    [
        (torch.zeros(6, 2, 4), None),  # features
        (torch.zeros(6, 2, 5, 1), None),  # axes
        (torch.zeros(6, 2, 5, dtype=torch.float64), None),  # dtype
        (torch.zeros(0, 2, 5), None),  # no steps
        (torch.zeros(6, 2, 5), torch.zeros(1, 3, 7)),  # batch of the state
        (torch.zeros(6, 2, 5), torch.zeros(2, 2, 7)),  # layers of the state
        (torch.zeros(6, 5), torch.zeros(1, 2, 7)),  # batched state, unbatched inputs
        (torch.zeros(6, 2, 5), torch.zeros(1, 2, 7, dtype=torch.float64)),
    ],
)
def test_errors_are_those_of_torch(kind, inputs, states):
    if kind == "LSTM" and states is not None:
        states = (states, states)
    messages = []
    for module in (nn, compiled):
        with pytest.raises((RuntimeError, ValueError)) as caught:
            getattr(module, kind)(5, 7)(inputs, states)
        messages.append((caught.type, str(caught.value)))
    assert messages[0] == messages[1]


def test_second_derivatives():
    _, fast = _pair("LSTM", 2, 3)
    inputs = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: fast(x)[0].sin().sum(), inputs)


def test_dropout_between_layers_only_in_training():
    torch.manual_seed(0)
    layer = compiled.GRU(5, 64, num_layers=2, dropout=0.5)
    inputs = torch.randn(40, 3, 5)
    assert not layer(inputs)[0].equal(layer(inputs)[0])
    layer.eval()
    assert layer(inputs)[0].equal(layer(inputs)[0])


class _Within(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, inputs):
        return self.layer(inputs)[0]


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_a_layer_of_torch(kind):
    plain, fast = _pair(kind, 5, 7, num_layers=2)
    assert isinstance(fast, type(plain))
    assert repr(fast) == repr(plain)
    inputs = _inputs("batch")
    expected = fast(inputs)[0]
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), from_torch(fast)):
        torch.testing.assert_close(other(inputs)[0], expected)
    torch.testing.assert_close(torch.jit.script(_Within(fast))(inputs), expected)
    replaced = {name: 2 * value for name, value in fast.named_parameters()}
    doubled = torch.func.functional_call(fast, replaced, inputs)[0]
    torch.testing.assert_close(doubled, torch.func.functional_call(plain, replaced, inputs)[0])
    torch.testing.assert_close(fast(inputs)[0], expected)


def test_changed_weights_are_used(calls):
    plain, fast = _pair("LSTM", 5, 7)
    inputs = _inputs("batch")
    fast(inputs)
    for layer in (plain, fast):
        weight_norm(layer, "weight_hh_l0")
        nn.init.constant_(layer.bias_ih_l0, 0.3)
    for one, other in zip(_gradients(plain, inputs), _gradients(fast, inputs), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)
    fast.float()
    assert fast(inputs.float())[0].dtype == torch.float32
    assert len(calls) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_each_sample(kind):
    """`call_for_per_sample_grads` replaces weights by a subclass of tensors, on which PyTorch's kernels must run."""
    plain, fast = _pair(kind, 5, 7, batch_first=True)
    inputs = torch.randn(3, 40, 5, dtype=torch.float64)
    for layer in (plain, fast):
        call_for_per_sample_grads(layer, batch_size=3)(inputs)[0].sin().sum().backward()
    for one, other in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(other.grad_sample, one.grad_sample)


@pytest.mark.parametrize("kind", KINDS)
def test_conversion_by_swapping_parameters_after_a_call(kind, monkeypatch):
    """PyTorch swaps tensors only if nothing else, such as a kept view, refers to them."""
    _, fast = _pair(kind, 5, 7)
    monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
    fast(_inputs("batch"))[0].sum().backward()
    assert fast.float().weight_hh_l0.dtype == torch.float32


def test_frozen_weights_get_no_gradient():
    _, fast = _pair("GRU", 5, 7)
    fast.weight_hh_l0.requires_grad_(False)
    fast(_inputs("batch"))[0].sum().backward()
    assert fast.weight_hh_l0.grad is None
    assert fast.weight_ih_l0.grad is not None


def _dtype_or_error(layer, inputs):
    """Return the dtype of the outputs; the error on a processor on which oneDNN has no LSTM in bfloat16."""
    try:
        return layer(inputs)[0].dtype
    except RuntimeError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore:.torch.jit", "ignore:LSTM with projections", "ignore::torch.jit.TracerWarning")
def test_what_pytorch_runs_itself(calls):
    inputs = torch.randn(40, 3, 5)
    compiled.LSTM(5, 7, proj_size=3)(inputs)
    layer = compiled.LSTM(5, 7)
    with torch.no_grad():
        layer(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert _dtype_or_error(layer, inputs) == _dtype_or_error(nn.LSTM(5, 7), inputs)
    torch.jit.trace(layer, inputs)
    torch.func.jacrev(lambda x: layer(x)[0].sum())(inputs)
    assert not calls


def test_small_layers_are_left_to_pytorch(monkeypatch, calls):
    monkeypatch.undo()
    forward = Recurrent.forward
    monkeypatch.setattr(Recurrent, "forward", lambda self, *given: calls.append(self) or forward(self, *given))
    for kind in KINDS:
        getattr(compiled, kind)(5, 7)(torch.randn(4, 2, 5))
    assert not calls
    for kind in KINDS:
        getattr(compiled, kind)(128, 128)(torch.randn(64, 32, 128))
    assert len(calls) == 3
