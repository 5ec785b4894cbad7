"""A layer under what torch offers around modules: hooks, transforms, tracers, replicas, devices, other weights."""

import copy
import io
import os
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.functional import linear
from torch.nn.parallel import replicate
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from rnnlab.cells import create
from rnnlab.engine.cpu import memory
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent, WeightDrop, Zoneout, from_torch, to_torch

T, B, F, H = 9, 3, 4, 5
BACKENDS = ["reference", "fused", "auto", "native"]


def make(name="rnn", backend="auto", **options):
    torch.manual_seed(0)
    return Recurrent(create(name, input_size=F, hidden_size=H, **options), backend).double()


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def by_hand(inputs, W, U, b):
    """The vanilla network."""
    h, outputs = inputs.new_zeros(inputs.shape[1], len(U)), []
    for x in inputs:
        h = (linear(x, W, b) + linear(h, U)).tanh()
        outputs.append(h)
    return torch.stack(outputs)


def close(ours, theirs, tolerance=1e-10):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


# Hooks


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pruned_weight_stays_pruned_and_learns(backend):
    layer = make(backend=backend)
    prune.l1_unstructured(layer.cell, "U", amount=0.5)
    cell, inputs = layer.cell, draw(T, B, F)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(inputs)[0].square().sum().backward()
        optimizer.step()
    state = {
        key: draw(*tensor.shape, seed=3) if "mask" not in key else tensor for key, tensor in cell.state_dict().items()
    }
    cell.load_state_dict(state)
    with torch.no_grad():
        close(layer(inputs)[0], by_hand(inputs, cell.W, cell.U_orig * cell.U_mask, cell.b))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", [nn.utils.weight_norm, parametrizations.weight_norm], ids=["hook", "parametrization"])
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_normalised_weight_follows_what_it_is_made_of(how, backend):
    layer = make(backend=backend)
    how(layer.cell, "U")
    inputs, optimizer = draw(T, B, F), torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):
        layer(inputs)[0].square().sum().backward()
        optimizer.step()
    parts = dict(layer.cell.named_parameters())
    g = parts.get("U_g", parts.get("parametrizations.U.original0"))
    v = parts.get("U_v", parts.get("parametrizations.U.original1"))
    with torch.no_grad():
        U = g * v / v.norm(dim=1, keepdim=True)
        close(layer(inputs)[0], by_hand(inputs, layer.cell.W, U, layer.cell.b))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
def test_hooks_of_a_cell_run_once_a_sequence(backend, wrapped):
    cell, calls = create("rnn", input_size=F, hidden_size=H).double(), []
    layer = Recurrent(Zoneout(cell, [0.1]).double() if wrapped else cell, backend)
    cell.register_forward_pre_hook(lambda module, args: calls.append(args) or (2 * args[0],))
    layer.eval()
    inputs = draw(T, B, F)
    layer(inputs)
    before = len(calls)
    outputs, _ = layer(inputs)
    assert len(calls) == before + 1
    if not wrapped:
        close(outputs, by_hand(2 * inputs, cell.W, cell.U, cell.b))


# Other weights, and what happens between a call and its gradient


@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_are_those_at_the_weights_of_the_call(backend, create_graph):
    layer, inputs = make(backend=backend), draw(T, B, F)
    fast = {name: draw(*p.shape, seed=2).mul(0.5).requires_grad_() for name, p in layer.named_parameters()}
    outputs, _ = functional_call(layer, fast, (inputs,))
    found = torch.autograd.grad(outputs.square().sum(), list(fast.values()), create_graph=create_graph)
    truth = by_hand(inputs, fast["cell.W"], fast["cell.U"], fast["cell.b"])
    expected = torch.autograd.grad(truth.square().sum(), list(fast.values()), create_graph=create_graph)
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs)
    if create_graph:
        second = [
            torch.autograd.grad(sum(g.square().sum() for g in gradients), list(fast.values()))
            for gradients in (found, expected)
        ]
        for ours, theirs in zip(*second, strict=True):
            close(ours, theirs)


@pytest.mark.parametrize("wrap", [lambda cell: WeightDrop(cell, 0.4), lambda cell: Zoneout(cell, [0.4])])
def test_a_mode_switched_before_the_gradient_changes_nothing(wrap):
    found = []
    for backend in ("reference", "fused"):
        torch.manual_seed(0)
        layer = Recurrent(wrap(create("gru", input_size=F, hidden_size=H)).double(), backend)
        inputs = draw(T, B, F).requires_grad_()
        torch.manual_seed(1)
        outputs, _ = layer(inputs)
        layer.eval()
        layer.cell.rates, layer.cell.share = (0.9,), 0.9
        gradients = torch.autograd.grad(outputs.square().sum(), [inputs, *layer.parameters()], create_graph=True)
        found.append([*gradients, *torch.autograd.grad(gradients[0].square().sum(), list(layer.parameters()))])
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs)


def test_a_weight_changed_in_place_before_a_second_derivative_is_told():
    layer = make("peephole", backend="fused")
    outputs, _ = layer(draw(T, B, F))
    with torch.no_grad():
        layer.cell.W.mul_(0.5)
    with pytest.raises(RuntimeError, match="changed in place"):
        torch.autograd.grad(outputs.sum(), layer.cell.U, create_graph=True)


def test_a_first_derivative_with_a_changed_weight_is_told_as_torch_tells_it():
    layer = make(backend="fused")
    outputs, _ = layer(draw(T, B, F))
    with torch.no_grad():
        layer.cell.U.mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


# Transforms


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_forward_derivatives_are_those_of_differences(backend, with_gradients):
    layer, x, v = make("gru", backend), draw(T, B, F), draw(T, B, F, seed=1)
    with torch.no_grad():
        truth = (layer(x + 1e-5 * v)[0] - layer(x - 1e-5 * v)[0]) / 2e-5
    with torch.set_grad_enabled(with_gradients), forward_ad.dual_level():
        close(forward_ad.unpack_dual(layer(forward_ad.make_dual(x, v))[0]).tangent, truth, 1e-6)
    with torch.set_grad_enabled(with_gradients):
        close(jvp(lambda t: layer(t)[0], (x,), (v,))[1], truth, 1e-6)


@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
def test_gradients_of_each_sequence_are_those_of_each_alone(backend):
    layer, inputs = make("lstm", backend), draw(T, B, F)
    weights = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(weights, sequence):
        return functional_call(layer, weights, (sequence.unsqueeze(1),))[0].square().sum()

    found = vmap(grad(loss), (None, 1))(weights, inputs)
    for row in range(B):
        alone = torch.autograd.grad(layer(inputs[:, row : row + 1])[0].square().sum(), list(layer.parameters()))
        for ours, theirs in zip(found.values(), alone, strict=True):
            close(ours[row], theirs)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "mingru"])
@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_several_gradients_at_once_are_those_one_by_one(backend, cell):
    layer, inputs = make(cell, backend), draw(T, B, F).requires_grad_()
    outputs, _ = layer(inputs)
    many = draw(3, *outputs.shape, seed=4)
    leaves = [inputs, *layer.parameters()]
    found = torch.autograd.grad(outputs, leaves, many, is_grads_batched=True, retain_graph=True)
    for place, gradient in enumerate(many):
        for ours, theirs in zip(found, torch.autograd.grad(outputs, leaves, gradient, retain_graph=True), strict=True):
            close(ours[place], theirs)


class Counting(TorchDispatchMode):
    products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        Counting.products += "mm" in function.overloadpacket.__name__
        return function(*args, **(kwargs or {}))


def test_a_mode_that_looks_at_operations_sees_those_of_every_step():
    layer = make("rnn", "fused")
    Counting.products = 0
    with Counting(), torch.no_grad():
        layer(draw(T, B, F))
    assert Counting.products == 1 + T


# Tracers


@pytest.mark.parametrize("name", ["gru", "lstm", "mingru"])
@pytest.mark.filterwarnings("ignore")
def test_a_trace_of_torch_computes_on_new_inputs(name):
    layer = make(name).eval()
    with torch.no_grad():
        traced = torch.jit.trace(layer, draw(T, B, F))
        close(traced(draw(T, B, F, seed=1))[0], layer(draw(T, B, F, seed=1))[0])
        if name != "mingru":  # by torch.nn's kernel, for any number of steps
            close(traced(draw(2 * T, B, F))[0], layer(draw(2 * T, B, F))[0])
            file = io.BytesIO()
            torch.onnx.export(layer, (draw(T, B, F),), file, dynamo=False)
            assert name.upper().encode() in file.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_runs_on_other_shapes_and_an_exported_one_on_other_numbers():
    layer = make("gru", "auto")
    compiled = torch.compile(layer, backend="eager")
    for shape in ((T, B, F), (T + 2, B, F), (T, B + 2, F)):
        inputs = draw(*shape)
        gradients = []
        for run in (compiled, layer):
            outputs, _ = run(inputs)
            gradients.append([outputs, *torch.autograd.grad(outputs.square().sum(), list(layer.parameters()))])
        for ours, theirs in zip(*gradients, strict=True):
            close(ours, theirs)
    program = torch.export.export(layer, (draw(T, B, F),))
    close(program.module()(draw(T, B, F, seed=5))[0], layer(draw(T, B, F, seed=5))[0])


@pytest.mark.filterwarnings("ignore")
def test_a_script_is_refused_with_what_to_use():
    with pytest.raises(InputError, match=r"use torch.jit.trace, torch.export or torch.compile"):
        torch.jit.script(nn.Sequential(make("gru")))


# Replicas, devices, memory


@pytest.mark.parametrize("name", ["gru", "lstm"])
@pytest.mark.parametrize("initial_state", ["zero", "learned"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_replica_runs_and_its_gradients_reach_the_model(name, initial_state, backend, monkeypatch):
    monkeypatch.setattr(
        sys.modules["torch.nn.parallel.replicate"],
        "_broadcast_coalesced_reshape",
        lambda tensors, devices, detach=False: [[tensor.clone() for tensor in tensors] for _ in devices],
    )
    layer = Recurrent(create(name, input_size=F, hidden_size=H), backend, initial_state)
    inputs = draw(T, B, F, dtype=torch.float32)
    outputs = [replica(inputs)[0] for replica in replicate(layer, [0, 1])]
    sum(output.sum() for output in outputs).backward()
    close(outputs[1], layer(inputs)[0], 1e-6)
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("name", ["gru", "lstm", "mingru", "lmu", "clockwork"])
def test_a_layer_made_without_numbers_runs_once_it_has_them(name):
    good = Recurrent(create(name, input_size=F, hidden_size=8)).eval()
    with torch.device("meta"):
        empty = Recurrent(create(name, input_size=F, hidden_size=8)).eval()
        assert empty(torch.randn(T, B, F))[0].shape == (T, B, good.output_size)
    empty.to_empty(device="cpu").load_state_dict(good.state_dict())
    inputs = draw(T, B, F, dtype=torch.float32)
    close(empty(inputs)[0], good(inputs)[0], 1e-6)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_memory_back(use_reentrant, monkeypatch):
    monkeypatch.setattr(memory, "SMALLEST", 0)
    monkeypatch.setattr(memory, "_BLOCKS", [])
    layers = [Recurrent(create("lstm", input_size=16, hidden_size=16), "fused") for _ in range(4)]
    inputs = draw(64, 8, 16, dtype=torch.float32).requires_grad_()

    def held(through):
        outputs = inputs
        for layer in layers:
            outputs = through(layer, outputs)
        size = sum(block.storage.nbytes() for block in memory._BLOCKS if not memory._is_free(block))
        inputs.grad = None
        outputs.sum().backward()
        return size, inputs.grad

    whole, expected = held(lambda layer, x: layer(x)[0])
    less, found = held(lambda layer, x: checkpoint(lambda t: layer(t)[0], x, use_reentrant=use_reentrant))
    assert less < 0.55 * whole
    close(found, expected, 1e-6)


def test_checkpointing_a_layer_for_the_first_time_saves_as_much_as_the_second():
    layer, inputs = make("gru"), draw(T, B, F).requires_grad_()
    layer.cell.note = 1  # so that it is traced anew
    checkpoint(lambda t: layer(t)[0].sum(), inputs, use_reentrant=False).backward()
    assert inputs.grad is not None


# What is given


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.uint16, torch.uint32, torch.uint64])
def test_lengths_are_integers_of_any_type(backend, dtype):
    layer, inputs, lengths = make("gru", backend), draw(T, B, F), torch.tensor([2, T, 5])
    close(layer(inputs, None, lengths.to(dtype))[0], layer(inputs, None, lengths)[0], 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_of_no_sequences_has_lengths_too(backend):
    outputs, _ = make("lstm", backend)(draw(T, 0, F), None, torch.zeros(0, dtype=torch.int64))
    assert outputs.shape == (T, 0, H)


def test_a_state_of_another_type_is_refused():
    layer = make("lstm").float()
    with pytest.raises(InputError, match=r"the state is torch.float64, but the cell's state is torch.float32"):
        layer(draw(T, B, F, dtype=torch.float32), (torch.zeros(B, H).double(), torch.zeros(B, H).double()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_by_autocast_is_near_and_comes_with_gradients(backend):
    layer = make("lstm", backend).float()
    inputs = draw(T, B, F, dtype=torch.float32)
    expected = layer(inputs)[0].detach()
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(enabled):
            outputs, _ = layer(inputs)
        close(outputs.float(), expected, 0.05)
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        layer(inputs)[0].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.slow
def test_bfloat16_needs_no_instructions_that_a_processor_may_lack():
    code = """
        import torch
        from rnnlab.cells import create
        from rnnlab.layers import Recurrent
        layer, inputs = Recurrent(create("lstm", input_size=8, hidden_size=16)), torch.randn(20, 4, 8)
        with torch.no_grad():
            with torch.autocast("cpu", torch.bfloat16):
                layer(inputs)
            Recurrent(layer.cell.bfloat16())(inputs.bfloat16())
    """
    lacking = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=lacking, check=True, capture_output=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_negated_view_has_its_own_sign(backend):
    layer = make("rnn", backend)
    inputs = torch.complex(draw(T, B, F), draw(T, B, F, seed=1)).conj().imag
    assert inputs.is_neg()
    close(layer(inputs)[0], by_hand(inputs.resolve_neg(), layer.cell.W, layer.cell.U, layer.cell.b))
    h = torch.complex(draw(B, H), draw(B, H, seed=1)).conj().imag
    close(layer(draw(T, B, F), (h,))[0], layer(draw(T, B, F), (h.resolve_neg(),))[0])


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_frozen_weights_stay_frozen_on_the_way(kind):
    module = kind(F, H)
    module.weight_hh_l0.requires_grad_(False)
    stack = from_torch(module)
    assert [name for name, p in stack.named_parameters() if not p.requires_grad] == ["layers.0.cell.U"]
    back = to_torch(stack)
    assert [name for name, p in back.named_parameters() if not p.requires_grad] == ["weight_hh_l0"]
    assert not any(p.requires_grad for p in from_torch(module.requires_grad_(False)).parameters())


def test_a_cell_that_is_wrapped_later_runs_as_it_is_then():
    layer, inputs = make("gru"), draw(T, B, F)
    plain = layer(inputs)[0]
    layer.cell = Zoneout(layer.cell, [0.5])
    layer.eval()
    wrapped = layer(inputs)[0]
    assert not torch.equal(plain, wrapped)
    close(wrapped, Recurrent(layer.cell, "reference")(inputs)[0])


def test_masks_are_the_plain_loop_s_where_all_sequences_end_early():
    found = []
    for backend in ("reference", "fused"):
        layer = Recurrent(Zoneout(make("gru").cell, [0.5]), backend).train()
        for _ in range(2):
            torch.manual_seed(3)
            found.append(layer(draw(T, B, F), None, torch.tensor([3, 5, 4]))[0])
    for other in found[1:]:
        close(other, found[0])


def test_nothing_is_said_where_nothing_is_unusual(caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("rnn", "gru", "lstm", "mingru"):
            layer = copy.deepcopy(make(name))
            layer(draw(T, B, F))[0].sum().backward()
    assert not caplog.messages
