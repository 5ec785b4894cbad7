"""Compiled steps under ``torch.autocast``: both factors of a step's products are bfloat16, everything else is float32.

The truth is a plain transcription of that rounding in torch, and the same cell in float64.
"""

import logging
from contextlib import nullcontext
from copy import deepcopy

import pytest
import tiers
import torch
from rounding import RoundedProduct
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from rnnlab import cells
from rnnlab.cells import Cell
from rnnlab.engine import fused, native, once
from rnnlab.engine.cpu import gemm, memory, tune
from rnnlab.engine.cpu.own_gemm import OwnGemm
from rnnlab.engine.reference import precision
from rnnlab.engine.traced import known
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent, Zoneout
from rnnlab.trees import tensors_of

T, B, F, H = 12, 5, 6, 16
LENGTHS = torch.tensor([7, 10, 1, 10, 3])  # two steps are only padding
CPU = torch.device("cpu")


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


def make(name="lstm", backend="fused", **options):
    torch.manual_seed(0)
    return Recurrent(cells.create(name, input_size=F, hidden_size=H, **options), backend)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def everything(layer, inputs, lengths=None, state=None, within=bfloat16, **options):
    """Outputs and final states, and the gradients of a loss with a random weight for each of their numbers."""
    inputs = inputs.detach().requires_grad_()
    with within():
        outputs, final = layer(inputs, state, lengths)
    results = [outputs, *tensors_of(final)]
    loss = sum((result * draw(*result.shape, seed=i).to(result)).sum() for i, result in enumerate(results))
    given = [inputs, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]
    found = torch.autograd.grad(loss, given, allow_unused=True, materialize_grads=True, **options)
    return results, list(found)


def in_double(layer, inputs, lengths=None):
    exact = Recurrent(deepcopy(layer.cell).double(), "reference", reverse=layer.reverse)
    return everything(exact, inputs.double(), lengths)  # autocast leaves float64 alone


def distance(found, expected):
    """Largest relative distance of two tensors, in the norm: one number that is rounded the other way hardly counts."""
    pairs = list(zip(found, expected, strict=True))
    assert all(one.shape == other.shape for one, other in pairs)
    return max(((one.double() - other).norm() / other.double().norm().clamp(min=1e-6)).item() for one, other in pairs)


# The rounding


def lstm(cell, x, h, c):
    i, f, g, o = (x + cell.b + RoundedProduct.apply(h, cell.U)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return h, c


def gru(cell, x, h):
    x_r, x_z, x_n = (x + cell.b).chunk(3, -1)
    U_r, U_z, U_n = cell.U.chunk(3)
    r, z = (x_r + RoundedProduct.apply(h, U_r)).sigmoid(), (x_z + RoundedProduct.apply(h, U_z)).sigmoid()
    n = (x_n + RoundedProduct.apply(r * h, U_n)).tanh()
    return ((1 - z) * n + z * h,)


def transcribed(cell, step):
    def run(inputs, state, lengths):
        outputs = []
        state, prepared = cell.initial_state(inputs.shape[1]), linear(inputs, cell.W).float()  # rounded by autocast
        with torch.autocast("cpu", enabled=False):
            for x in prepared:
                state = step(cell, x, *state)
                outputs.append(state[0])
        return torch.stack(outputs), state

    run.parameters = cell.parameters
    return run


class WithoutPairs(OwnGemm):
    """Products of our own on a processor without an instruction for bfloat16."""

    def __init__(self, dtype):
        super().__init__(dtype)
        self.multiplies_pairs = False


@pytest.fixture(params=["pairs", "floats", "BLAS"])
def product(request, monkeypatch, own_products):
    """The three products: of our own with and without an instruction for bfloat16, and the BLAS."""
    own_products(request.param != "BLAS")
    if request.param == "floats":
        monkeypatch.setattr(gemm, "OwnGemm", WithoutPairs)
    elif request.param == "pairs" and gemm.own(torch.float32, "pairs") is None:
        pytest.skip("this processor has no instruction for pairs of bfloat16 numbers")
    return request.param


@pytest.mark.parametrize(("step", "options"), [(lstm, {}), (gru, {"reset": "before"})])
@pytest.mark.usefixtures("product")
def test_both_factors_of_products_are_rounded_and_nothing_else(step, options):
    layer, inputs = make(step.__name__, **options), draw(T, B, F)
    results, gradients = everything(layer, inputs)
    expected, wanted = everything(transcribed(layer.cell, step), inputs)
    assert {tensor.dtype for tensor in (*results, *gradients)} == {torch.float32}
    assert distance(results, expected) < 2e-5
    # torch rounds the gradients of the inputs and of W to bfloat16.
    assert distance(gradients[:2], wanted[:2]) < 1e-3
    assert distance(gradients[2:], wanted[2:]) < 2e-5
    unrounded = everything(layer, inputs, within=nullcontext)[0]
    assert distance(unrounded, expected) > 5e-4


class Rounding(Cell):
    """A state of one number, multiplied by 1."""

    def __init__(self):
        super().__init__(1, 1)
        self.U = torch.nn.Parameter(torch.ones(1, 1))

    def prepare(self, inputs):
        return self.U, inputs

    def step(self, constants, x, state):
        (h,) = state
        return linear(h, constants) + x * 0, (h,)


def test_numbers_are_rounded_as_torch_rounds_them(product):
    odd = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, 1e-45, -1e-40, 3.4028235e38, -3.4e38, float("inf"), float("-inf")]
    bits = torch.randint(-(2**31), 2**31, (2000,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    nan = torch.tensor([0x7F800001, 0x7FC00000, 0x7FFFFFFF, -1], dtype=torch.int32)
    numbers = torch.cat([torch.tensor(odd), torch.cat([nan, bits]).view(torch.float32)]).unsqueeze(1)
    with bfloat16(), torch.no_grad():
        outputs, _ = Recurrent(Rounding(), "fused")(torch.zeros(4, len(numbers), 1), (numbers,))
    smallest = 1.2e-38 if product == "pairs" else 0  # the instruction takes denormal numbers for zeros
    torch.testing.assert_close(outputs[0], numbers.bfloat16().float(), rtol=0, atol=smallest, equal_nan=True)


# Errors


@pytest.mark.parametrize("name", tiers.core(sorted({*cells.available()} - {"lif"})))  # a spike is a jump
def test_every_cell_is_as_near_to_float64_as_the_plain_loop(name):
    layer, inputs = make(name), draw(T, B, F)
    exact = in_double(layer, inputs)
    compiled, plain = everything(layer, inputs), everything(Recurrent(layer.cell, "reference"), inputs)
    assert {tensor.dtype for tensor in (*compiled[0], *plain[0])} == {torch.float32}
    kinds = ["_EagerBackward", "StackBackward0"] if name == "s4d" else ["_CompiledBackward"]
    kinds = ["_HeadsBackward"] if name in tiers.MATRIX else kinds
    assert compiled[0][0].grad_fn.name() in kinds
    for ours, theirs, expected, bound in zip(compiled, plain, exact, (0.01, 0.025), strict=True):
        assert distance(ours, expected) < max(bound, 1.2 * distance(theirs, expected))


@pytest.mark.slow
@pytest.mark.parametrize("width", [32, 128, 256])
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_errors_of_long_sequences_stay_within_the_documented_bounds(name, width):
    torch.manual_seed(0)
    layer = Recurrent(cells.create(name, input_size=width, hidden_size=width), "fused")
    inputs = draw(200, 8, width)
    results, gradients = everything(layer, inputs)
    expected, wanted = in_double(layer, inputs)
    assert distance(results, expected) < 0.01
    assert distance(gradients, wanted) < 0.01


# What else a call may be


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_sequence_that_ends_early_or_is_reversed(lengths, reverse):
    layer = make()
    layer.reverse = reverse
    inputs = draw(T, B, F)
    results, gradients = everything(layer, inputs, lengths)
    expected, wanted = in_double(layer, inputs, lengths)
    assert distance(results, expected) < 0.02
    assert distance(gradients, wanted) < 0.04


def test_without_gradients_and_in_pieces_the_numbers_are_the_same():
    layer, inputs = make(), draw(T, B, F)
    with bfloat16():
        whole, final = layer(inputs)
        assert whole.grad_fn.name() == "_CompiledBackward"
        with torch.no_grad():
            first, state = layer(inputs[:5])
            rest, last = layer(inputs[5:], tuple(tensor.bfloat16().float() for tensor in state))
            again, _ = layer(inputs[5:], tuple(tensor.bfloat16() for tensor in state))
            assert torch.equal(rest, again), "a state of bfloat16 is converted"
            rest, last = layer(inputs[5:], state)
    assert torch.equal(torch.cat([first, rest]), whole)
    assert all(map(torch.equal, last, final))
    with bfloat16(), pytest.raises(InputError, match=r"the state is torch\.float64, but the cell's state is"):
        layer(inputs, tuple(tensor.double() for tensor in state))


@pytest.mark.parametrize("enabled", [True, False])
def test_the_backward_pass_has_the_precision_of_its_forward_pass(enabled):
    layer, inputs = make(), draw(T, B, F)
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        loss = (layer(inputs)[0] * draw(T, B, H)).sum()
    outside = torch.autograd.grad(loss, layer.cell.U, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=not enabled):
        inside = torch.autograd.grad(loss, layer.cell.U)
    assert torch.equal(*inside, *outside)


@pytest.mark.parametrize("inside", [True, False])
def test_the_gradient_of_a_gradient(inside):
    """Autograd differentiates the plain loop under the autocast of the call."""
    layer, inputs, weights = make("gru", reset="before"), draw(T, B, F).requires_grad_(), draw(T, B, H)
    found = []
    for one in (layer, Recurrent(layer.cell, "reference")):
        with bfloat16():
            outputs, _ = one(inputs, lengths=LENGTHS)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            (first,) = torch.autograd.grad((outputs * weights).sum(), inputs, create_graph=True)
            found.append([first, *torch.autograd.grad(first.square().sum(), [inputs, layer.cell.U, layer.cell.b])])
    assert distance(*found) < 1e-6


def test_several_gradients_at_once():
    layer, inputs = make(), draw(T, B, F).requires_grad_()
    with bfloat16():
        outputs, _ = layer(inputs, lengths=LENGTHS)
    weights = draw(2, T, B, H)
    batched = torch.autograd.grad(outputs, inputs, weights, is_grads_batched=True, retain_graph=True)[0]
    for one, weight in zip(batched, weights, strict=True):
        assert distance([one], torch.autograd.grad(outputs, inputs, weight, retain_graph=True)) < 0.02


def test_two_backward_passes_and_a_checkpoint_have_the_same_gradients():
    layer, inputs = make(), draw(T, B, F).requires_grad_()
    given = [inputs, *layer.parameters()]
    with bfloat16():
        loss = layer(inputs)[0].square().sum()
        kept = checkpoint(layer, inputs, use_reentrant=False)[0].square().sum()
    first = torch.autograd.grad(loss, given, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, given)))
    assert all(map(torch.equal, first, torch.autograd.grad(kept, given)))


def test_the_trace_is_the_one_without_autocast():
    layer, inputs = make(), draw(T, B, F)
    everything(layer, inputs, within=nullcontext)
    before = known(layer.cell)
    everything(layer, inputs)
    assert known(layer.cell) == before


@pytest.mark.parametrize("smallest", [0, memory.SMALLEST])
def test_the_step_may_write_over_what_was_converted_for_it(smallest, monkeypatch):
    found = []
    monkeypatch.setattr(memory, "SMALLEST", smallest)
    monkeypatch.setattr(fused, "owned", lambda *trees: found.append(memory.owned(*trees)) or found[-1])
    everything(make(), draw(T, B, F))
    assert found == [[True]]


def test_random_masks_are_drawn_once_a_call():
    layer = Recurrent(Zoneout(make().cell, [0.5]), "fused").train()
    inputs = draw(T, B, F).requires_grad_()
    with bfloat16():
        outputs, _ = layer(inputs)
    (plain,) = torch.autograd.grad(outputs.square().sum(), inputs, retain_graph=True)
    (again,) = torch.autograd.grad(outputs.square().sum(), inputs, create_graph=True)
    assert distance([again.detach()], [plain]) < 0.02


def test_threads_share_out_the_rows():
    layer, inputs = make(), draw(60, 63, F)
    expected = everything(layer, inputs)
    try:
        torch.set_num_threads(2)
        for _ in range(4):  # they may run one after the other
            assert max(map(distance, everything(layer, inputs), expected)) < 1e-5
    finally:
        torch.set_num_threads(1)


def test_auto_is_fused_in_inference_too(monkeypatch):
    """torch.nn's kernels fail under autocast on processors without the instructions for it."""
    monkeypatch.setattr(native, "run", None)
    layer, inputs = make("lstm", "auto"), draw(T, B, F)
    with bfloat16(), torch.no_grad():
        assert torch.equal(layer(inputs)[0], Recurrent(layer.cell, "fused")(inputs)[0])


def test_float16_runs_in_the_plain_loop(caplog):
    once.forget_warnings()
    layer, inputs = make(), draw(T, B, F)
    with torch.autocast("cpu", torch.float16), caplog.at_level(logging.WARNING):
        outputs, _ = layer(inputs)
        expected, _ = Recurrent(layer.cell, "reference")(inputs)
    assert torch.equal(outputs, expected)
    assert outputs.dtype == torch.float32
    assert "LSTM runs in a plain loop under autocast, as float16 is not compiled on a CPU; use bfloat16" in caplog.text


def test_float64_is_left_alone():
    layer, inputs = make(), draw(T, B, F).double()
    layer.double()
    found, expected = (everything(layer, inputs, within=way) for way in (bfloat16, nullcontext))
    assert max(map(distance, found, expected)) == 0


@pytest.mark.parametrize("backend", ["reference", "fused", "scan", "native", "auto"])
def test_every_backend_takes_bfloat16_and_returns_float32(backend):
    layer, inputs = make("lstm" if backend == "native" else "mingru", backend), draw(T, B, F)
    exact = in_double(layer, inputs)
    with bfloat16():
        outputs, state = layer(inputs.bfloat16())
    assert {tensor.dtype for tensor in (outputs, *state)} == {torch.float32}
    assert distance([outputs, *state], exact[0]) < 0.02


def test_precision():
    single, double = torch.float32, torch.float64
    assert precision(CPU, single) == precision(CPU, double) == "ieee"
    with bfloat16():
        assert precision(CPU, single) == "bf16"
        assert precision(CPU, double) == "ieee"
    with torch.autocast("cpu", torch.float16):
        assert precision(CPU, single) == "fp16"
    before = torch.get_float32_matmul_precision()
    try:
        for word, expected in (("highest", "ieee"), ("high", "tf32"), ("medium", "tf32")):
            torch.set_float32_matmul_precision(word)
            assert precision(torch.device("cuda"), single) == expected
            assert precision(CPU, single) == precision(torch.device("cuda"), double) == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_first_product_within_autocast_is_measured_in_float32():
    with bfloat16():
        assert set(tune.measure(torch.float32)) == {"step", "sequence"}
        assert gemm.mm(draw(3, 4), draw(4, 5)).dtype == torch.float32
