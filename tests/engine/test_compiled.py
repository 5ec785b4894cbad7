"""Corners of the compiled kernel: whatever is done with it, it gives what the plain loop gives."""

import gc
import logging
import os
import pickle
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from copy import deepcopy
from unittest.mock import Mock

import pytest
import tiers
import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.functional import layer_norm, linear
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from rnnlab import cells
from rnnlab.cells import Cell
from rnnlab.engine import arrays, fused, once
from rnnlab.engine.cpu import compiler, memory
from rnnlab.engine.cpu import threads as engine_threads
from rnnlab.engine.traced import known
from rnnlab.layers import Recurrent
from rnnlab.layers.regularisers import VariationalDropout, WeightDrop, Zoneout
from rnnlab.trees import map_state, tensors_of

T, B, N, H = 6, 5, 3, 4
LENGTHS = torch.tensor([2, T, 1, 3, T])
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(
    autouse=True, params=[pytest.param(False, id="", marks=pytest.mark.slow), pytest.param(True, id="large")]
)
def as_where_all_is_large(request, monkeypatch, own_products):
    """As with large arrays, whose memory is used again, on a processor with products of our own; and without either."""
    own_products(request.param)
    if request.param:
        monkeypatch.setattr(memory, "SMALLEST", 0)
        monkeypatch.setattr(memory, "_BLOCKS", [])


class Odd(Cell):
    """Any step, ``step(x, h, U, V, b) -> h`` or with more states, and any ``prepare(cell, inputs)``."""

    def __init__(self, step, prepare=None, states=1, first=None, input_size=N, hidden_size=H):
        super().__init__(input_size, hidden_size)
        self._step, self._prepare, self._first = step, prepare, first
        self.states = ("h", "c")[:states]
        for name, shape in (("W", (hidden_size, input_size)), ("U", (hidden_size,) * 2), ("V", (hidden_size,) * 2)):
            setattr(self, name, nn.Parameter(torch.randn(shape) / 2))
        self.b = nn.Parameter(torch.randn(hidden_size))
        self.double()

    def initial_state(self, batch_size):
        return self._first(batch_size) if self._first else super().initial_state(batch_size)

    def prepare(self, inputs, extra=None):
        if self._prepare is None:
            return (self.U, self.V, self.b), linear(inputs, self.W)
        return self._prepare(self, inputs, extra)

    def step(self, constants, x, state):
        results = self._step(x, *state, *constants)
        return results if isinstance(results, tuple) else (results, (results,))


def rnn(x, h, U, V, b):
    return (x + linear(h, U) + b).tanh()


def make(name="gru", **options):
    return cells.create(name, input_size=N, hidden_size=H, **options).double()


def draw(*shape, grad=False, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


def first_state(cell, batch_size=B, grad=True):
    shapes = [tensor.shape for tensor in tensors_of(cell.initial_state(batch_size))]
    return tuple(draw(*shape, grad=grad, seed=i + 1) for i, shape in enumerate(shapes))


def weighted(tensors):
    """A number with another gradient for every element."""
    tensors = [tensor for tensor in tensors if tensor.is_floating_point()]
    return sum((t * torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype).reshape(t.shape)).sum() for t in tensors)


def everything(cell, backend, inputs, state, lengths=None, loss=weighted, **context):
    """Outputs, final states, and the gradients of everything that takes one; none and zeros are the same."""
    outputs, final = Recurrent(cell, backend)(inputs, state, lengths, **context)
    results = [outputs, *tensors_of(final)]
    tensors = [inputs, *tensors_of(state), *context.values(), *cell.parameters()]
    leaves = list({id(tensor): tensor for tensor in tensors if tensor.requires_grad}.values())
    found = torch.autograd.grad(loss(results), leaves, allow_unused=True)
    gradients = [torch.zeros_like(a) if g is None else g for a, g in zip(leaves, found, strict=True)]
    return [*(result.detach() for result in results), *gradients]


def same(found, expected, **options):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        scale = theirs.detach().double().nan_to_num(0, 0, 0).abs().max().item() if theirs.numel() else 1
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 * max(scale, 1), **options)


def agree(cell, inputs=None, state=None, lengths=None, in_c=True, **options):
    """The fused step gives what the reference gives, and, ``in_c``, it is compiled."""
    inputs = draw(T, B, N, grad=True) if inputs is None else inputs
    state = first_state(cell, inputs.shape[1]) if state is None else state
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = everything(cell, "fused", inputs, state, lengths, **options)
    assert not in_c or any(step.kernel for step in known(cell))
    same(found, everything(cell, "reference", inputs, state, lengths, **options), equal_nan=True)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    once.forget_warnings()


@pytest.fixture
def threads():
    """Sets the number of threads for this test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def texts(monkeypatch):
    """The C texts of steps that libraries were asked for."""
    asked, load = [], compiler.load

    def watching(text, *defines):
        if "void whole(" not in text:  # that one is of products
            asked.append(text)
        return load(text, *defines)

    monkeypatch.setattr(compiler, "load", watching)
    return asked


# Odd steps


def _raw(cell, inputs, extra):
    return (cell.U, cell.W, cell.b), inputs


def _rows_scaled(cell, inputs, extra):
    """Constants that have a row for every sequence, and a gradient."""
    return (cell.U, cell.V, inputs.mean(0) @ cell.W.t()), linear(inputs, cell.W)


def _times(cell, inputs, extra):
    return (cell.U, cell.V, cell.b), (linear(inputs, cell.W), inputs[..., :1].abs())


def _times_flat(cell, inputs, extra):
    return (cell.U, cell.V, cell.b), (linear(inputs, cell.W), inputs[..., 0])


def _twice(cell, inputs, extra):
    x = linear(inputs, cell.W)
    return (cell.U, cell.U, cell.b), (x, x)


def _doubling(x, h, U, V, b):
    for _ in range(60):
        h = h * h * 0.1 + h * 0.5 + x * 0.1
    return h


STEPS = {
    "product of a product": lambda x, h, U, V, b: linear(linear(h, U), V) + x,
    "product of an activated product": lambda x, h, U, V, b: x + linear(linear(h, U).tanh(), V),
    "product of product of product": lambda x, h, U, V, b: (linear(linear(linear(h, U), V).tanh(), U) + x).tanh(),
    "product is the state": lambda x, h, U, V, b: (x + h, (linear(h, U),)),
    "product with a bias": lambda x, h, U, V, b: (linear(h, U, b) + x).sigmoid(),
    "weight used twice": lambda x, h, U, V, b: (linear(h, U) + linear((h * x).tanh(), U)).tanh(),
    "weight used both ways": lambda x, h, U, V, b: (h @ U + linear(x, U) * 0.3).tanh(),
    "untransposed": lambda x, h, U, V, b: (h @ U + x).tanh() @ V,
    "slices": lambda x, h, U, V, b: torch.cat([h[:, 1:] * x[:, :-1], h[:, :1] * b[:1]], -1) + linear(h, U),
    "part of a product": lambda x, h, U, V, b: x + linear(h, U)[:, 1:3].sum(-1, keepdim=True) * b,
    "chunk and cat": lambda x, h, U, V, b: x + torch.cat(torch.cat([h, linear(h, U)], -1).chunk(4, -1)[1:3], -1) * b,
    "part and whole of a product": lambda x, h, U, V, b: (
        torch.cat([h[:, 1:], (linear(h, U) * x)[:, :1]], -1) + (linear(h, U) * x).tanh()
    ),
    "stack": lambda x, h, U, V, b: torch.stack([h, linear(h, U), x * h], -1).sum(-1) * 0.5 + x,
    "nested layer_norm": lambda x, h, U, V, b: layer_norm(layer_norm(linear(h, U), (H,), b).tanh() + x, (H,), None, b),
    "softmax": lambda x, h, U, V, b: (linear(h, U) + x).softmax(-1) * (h * b).softmax(-1).sum(-1, keepdim=True) + h / 2,
    "where and clamp": lambda x, h, U, V, b: torch.where(h > x, linear(h, U).clamp(-0.2, 0.3), x.clamp(min=0.0)),
    "relu at 0": lambda x, h, U, V, b: (h - h.detach()).relu() + linear(h, U).relu() + x,
    "a formula of constants": lambda x, h, U, V, b: h * (b.exp() / (1 + b * b)).sum(-1, keepdim=True) + x,
    "many shared values": _doubling,
    "output is the input": lambda x, h, U, V, b: (x, ((x + linear(h, U)).tanh(),)),
    "output is the old state": lambda x, h, U, V, b: (h, ((x + linear(h, U)).tanh(),)),
    "state is the input": lambda x, h, U, V, b: (linear(h, U), (x,)),
    "state is forgotten": lambda x, h, U, V, b: (x + h * b, (torch.zeros_like(h),)),
    "state never changes": lambda x, h, U, V, b: ((x + linear(h, U)).tanh(), (h,)),
    "state is detached": lambda x, h, U, V, b: (h * b + x, ((linear(h.detach(), U) + x).tanh(),)),
    "state is not used": lambda x, h, U, V, b: x.tanh() * b,
}
TWO_STATES = {
    "swapped": lambda x, h, c, U, V, b: (x * h + c, (c, h)),
    "swapped through a product": lambda x, h, c, U, V, b: (h + x, (linear(c, U), (x + h).tanh())),
    "one unchanged": lambda x, h, c, U, V, b: ((x + h).tanh(), (h, c * b + linear(h, U))),
    "both the same": lambda x, h, c, U, V, b: (h * c, ((x + linear(c, U)).tanh(),) * 2),
    "product of both": lambda x, h, c, U, V, b: (h, ((linear(h * c, U) + x).tanh(), linear(c + h, V))),
}
PREPARED = {
    "parts of weights": (
        lambda x, h, U, V, b: (linear(h[:, :2], U) + linear(h[:, 1:3].tanh(), V) + x).tanh(),
        lambda cell, inputs, extra: ((cell.U[:, :2], cell.V[:, 1:3], cell.b), linear(inputs, cell.W)),
    ),
    "inputs as they are": (lambda x, h, U, W, b: (linear(x, W) + linear(h, U)).tanh(), _raw),
    "product of state and input": (
        lambda x, h, M, N, b: (linear(torch.cat([h, x], -1), M) + linear(torch.cat([x, h], -1), N)).tanh(),
        lambda cell, inputs, extra: ((torch.cat([cell.U, cell.W], 1), torch.cat([cell.W, cell.V], 1), cell.b), inputs),
    ),
    "constants by row": (lambda x, h, U, V, r: (x + linear(h * r, U) + linear((r * 2).tanh(), V)) * r, _rows_scaled),
    "one number a row": (lambda x, h, U, V, b: (x[0] + linear(h, U) * x[1]).tanh() * x[1].exp(), _times),
    "one number a row, flat": (lambda x, h, U, V, b: (x[0] + linear(h, U) * x[1].unsqueeze(-1)).tanh(), _times_flat),
    "everything twice": (lambda x, h, U, V, b: (x[0] * x[1] + linear(h, U) + linear(h * x[0], V)).tanh(), _twice),
    "an activated input": (
        lambda x, h, U, V, b: (x[0] + linear(h, U) * x[1]).tanh(),
        lambda cell, inputs, extra: ((cell.U, cell.V, cell.b), (lambda x: (x, F.silu(x)))(linear(inputs, cell.W))),
    ),
    "slices of an input": (
        lambda x, h, U, V, b: (x[0] + linear(h, U) * x[1]).tanh(),
        lambda cell, inputs, extra: (
            (cell.U, cell.V, cell.b),
            tuple(linear(inputs, torch.cat([cell.W, 2 * cell.W])).chunk(2, -1)),
        ),
    ),
    "a mask": (
        lambda x, h, U, V, b: torch.where(x[1] | ~x[2], (x[0] + linear(h, U)).tanh(), h) * b,
        lambda cell, inputs, extra: (
            (cell.U, cell.V, cell.b),
            (linear(inputs, cell.W), inputs[..., :1] > 0, inputs[..., 1:2] > 0.5),
        ),
    ),
    "whole numbers": (
        lambda x, h, U, V, b: (x[0] * x[1] + linear(h, U) + b * 0.5).tanh(),
        lambda cell, inputs, extra: (
            (cell.U, cell.V, cell.b.sign().long()),
            (linear(inputs, cell.W), inputs[..., :1].long()),
        ),
    ),
    "a single number": (
        lambda x, h, U, V, b: (x + linear(h, U) * b).tanh(),
        lambda cell, inputs, extra: ((cell.U, cell.V, cell.b.sum()), linear(inputs, cell.W)),
    ),
}


def odd(name):
    if name in PREPARED:
        return Odd(*PREPARED[name])
    return Odd(STEPS.get(name) or TWO_STATES[name], states=1 + (name in TWO_STATES))


ODD = [*STEPS, *TWO_STATES, *PREPARED]


@pytest.mark.parametrize(
    ("name", "lengths"),
    [*((name, LENGTHS) for name in ODD), *tiers.every(3, ((name, None) for name in ODD))],
    ids=lambda given: given if isinstance(given, str) else "whole" if given is None else "lengths",
)
def test_odd_steps(name, lengths):
    agree(odd(name), lengths=lengths, in_c=name not in ("stack", "one number a row, flat"))


@pytest.mark.parametrize("width", [2, 3, 4, 5, 7, 8, 130])
def test_rows_of_any_width_are_summed_and_normalised(width):
    def step(x, h, U, V, b):  # sums alone are made by quarters, of whatever is left over by itself
        shape = (width,)
        return (layer_norm(x, shape, b) + layer_norm(linear(h, U), shape)).tanh() + (h * b).mean(-1, keepdim=True)

    agree(Odd(step, hidden_size=width))


def test_of_a_normalised_input_only_two_numbers_a_row_are_kept():
    cell = Odd(lambda x, h, U, V, b: (layer_norm(x, (H,), b) + linear(h, U)).tanh())
    agree(cell)
    lowered = fused.traced(cell).lowered
    widths = [one.width for one in lowered.forward.arrays() if one.kind == "kept"]
    assert widths == [1, 1]  # mean and scale
    assert lowered.kept_inputs == [0]


@pytest.mark.parametrize("name", ["nested layer_norm", "softmax", "product of a product", "many shared values"])
def test_odd_steps_of_one_column_and_one_row(name):
    if "layer_norm" in name:  # the shape is an argument
        step = lambda x, h, U, V, b: layer_norm(linear(h, U), (1,), b).tanh() + layer_norm(x * h, (1,), None, b)  # noqa: E731
    else:
        step = STEPS[name]
    agree(Odd(step, hidden_size=1), draw(T, 1, N, grad=True))
    agree(Odd(step, hidden_size=1), draw(1, B, N, grad=True))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("name", [*list(STEPS)[::4], *TWO_STATES, "constants by row", "parts of weights", "a mask"])
def test_odd_steps_without_gradients(name, lengths):
    cell = odd(name)
    with torch.no_grad():
        fused_, reference = (
            tensors_of(Recurrent(cell, backend)(draw(T, B, N), first_state(cell), lengths))
            for backend in ("fused", "reference")
        )
    same(fused_, reference)


def test_states_of_different_widths():
    def first(rows):
        return torch.zeros(rows, 2, dtype=torch.float64), torch.zeros(rows, H, dtype=torch.float64)

    def prepare(cell, inputs, extra):
        return (cell.U[:, :2], cell.V[:2], cell.b), linear(inputs, cell.W)

    def step(x, h, c, U, V, b):
        c = (x + linear(h, U) + c * b).tanh()
        return h, (linear(c, V), c)

    agree(Odd(step, prepare, states=2, first=first), lengths=LENGTHS)


def _counted(dtype):
    """A state that is no number of the cell's own type beside one that is."""

    def first(rows):
        return torch.zeros(rows, H, dtype=torch.float64), torch.zeros(rows, 1, dtype=dtype)

    def step(x, h, n, U, V, b):
        new = (x + linear(h, U)).tanh()
        return new * 2, (new, h[:, :1] > 0 if dtype == torch.bool else n + 1)

    return Odd(step, states=2, first=first)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32], ids=str)
def test_states_keep_their_types(dtype):
    cell = _counted(dtype)
    state = (draw(B, H, grad=True), torch.zeros(B, 1, dtype=dtype))
    agree(cell, state=state, lengths=LENGTHS, in_c=False)


def test_a_state_of_whole_numbers_is_exact():
    cell = _counted(torch.int64)
    state = (draw(B, H, grad=True), torch.full((B, 1), 2**53 + 1))
    assert Recurrent(cell, "fused")(draw(T, B, N), state)[1][1].tolist() == [[2**53 + 1 + T]] * B


def test_complex_constants():
    def prepare(cell, inputs, extra):
        return (cell.U, cell.V, torch.complex(cell.b, cell.b + 1)), linear(inputs, cell.W)

    agree(Odd(lambda x, h, U, V, b: (x + h * b.abs()).tanh(), prepare), in_c=False)


def _place(cell, inputs, extra):
    """Something that all sequences share at a step, in memory of its own, that takes no gradient."""
    place = torch.linspace(-1, 1, len(inputs) * H, dtype=inputs.dtype).reshape(-1, 1, H)
    return (cell.U, cell.V, cell.b), (linear(inputs, cell.W), place - 0.5)


@pytest.mark.parametrize(
    "step",
    [
        lambda x, h, U, V, b: (x[0] + x[1] + linear(h, U)).tanh(),
        lambda x, h, U, V, b: (x[0] + linear((x[1] + linear(h, U)).tanh(), V)).tanh(),
        lambda x, h, U, V, b: (x[0] + x[1] + linear(linear(h, U).tanh(), V)).tanh(),
        lambda x, h, U, V, b: (x[0] + linear(x[1], V) + linear(h, U)).tanh(),
        lambda x, h, U, V, b: (x[0] + linear(x[1].tanh(), V) + linear(h, U)).tanh(),
    ],
    ids=["alone", "within", "around", "its product", "its activated product"],
)
def test_inputs_that_all_sequences_share(step):
    agree(Odd(step, _place), in_c=False)
    agree(Odd(step, _place), draw(T, 1, N, grad=True), in_c=False)


def test_a_long_step_compiles_in_bounded_time(texts):
    cell, start = Odd(_doubling), time.perf_counter()
    Recurrent(cell, "fused")(draw(T, B, N))[0].sum().backward()
    assert len(texts) == 1
    assert len(texts[0]) < 60_000  # it would double with each of sixty lines if shared values were written out
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("count", tiers.quick_if([300, 1000], lambda count: count == 1000))
def test_a_step_too_deep_to_compile_runs_and_says_so_once(count, caplog):
    def step(x, h, U, V, b):
        for _ in range(count):
            h = h * 0.9 + x * 0.1
        return h

    cell = Odd(step)
    for _ in range(2):
        agree(cell, draw(2, 2, N, grad=True), in_c=False)
    said = [record.getMessage() for record in caplog.records]
    if fused.traced(cell).kernel is None:
        assert len(said) == 1
        assert "too many consecutive operations" in said[0]
    else:
        assert not said


# What lies where


def _overlapping():
    return draw(100).as_strided((T, B, N), (B, 1, 1))


LAYOUTS = {
    "same for all sequences": lambda: draw(T, 1, N).expand(T, B, N),
    "same for all steps": lambda: draw(1, B, N).expand(T, B, N),
    "same everywhere": lambda: draw(N).expand(T, B, N),
    "one number": lambda: draw(1).expand(T, B, N),
    "one sequence": lambda: draw(N).expand(T, 1, N),
    "batch first": lambda: draw(B, T, N).transpose(0, 1),
    "features first": lambda: draw(N, B, T).permute(2, 1, 0),
    "sliced": lambda: draw(2 * T, B + 2, 3 * N)[::2, 1:-1, N : 2 * N],
    "every second feature": lambda: draw(T, B, 2 * N)[..., ::2],
    "overlapping": _overlapping,
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_inputs_however_they_lie(name, grad):
    # As they are in the step: a product of them, and a formula.
    cell = Odd(lambda x, h, U, W, b: (linear(x, W) + linear(h, U) + x[:, :1]).tanh(), _raw)
    inputs = LAYOUTS[name]()
    lengths = LENGTHS if inputs.shape[1] == B else None
    if grad and name == "overlapping":
        inputs = draw(100, grad=True).as_strided((T, B, N), (B, 1, 1))
    elif grad:
        inputs = LAYOUTS[name]().requires_grad_()
    agree(cell, inputs)
    agree(cell, inputs, lengths=lengths)


@pytest.mark.parametrize("steps", [T, 20])  # short and long sequences take weights differently
@pytest.mark.parametrize(
    "weight",
    [
        lambda U, V, b: b.expand(H, H),
        lambda U, V, b: b.unsqueeze(-1).expand(H, H),
        lambda U, V, b: b[:1].expand(H, H),
        lambda U, V, b: U.t(),
        lambda U, V, b: torch.cat([U, V], 1)[:, 2:6],
        lambda U, V, b: torch.cat([U, V], 0)[::2],
        lambda U, V, b: torch.cat([U, V], 1)[:, ::2],
        lambda U, V, b: torch.stack([U, V], -1)[..., 1],
        lambda U, V, b: torch.cat([b, b]).as_strided((H, H), (1, 1)),
    ],
    ids=["same rows", "same columns", "one number", "transposed", "columns", "rows", "spread", "apart", "overlapping"],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_weights_however_they_lie(weight, steps, transposed):
    def prepare(cell, inputs, extra):
        return (weight(cell.U, cell.V, cell.b), cell.V, cell.b), linear(inputs, cell.W)

    step = rnn if transposed else lambda x, h, U, V, b: (x + h @ U).tanh()
    agree(Odd(step, prepare), draw(steps, B, N, grad=True))


@pytest.mark.parametrize("column", [False, True])
def test_weights_of_one_row_or_column_however_they_lie(column):
    def prepare(cell, inputs, extra):
        U = cell.U[:, 1:2] if column else cell.U[1:2]
        return (U, cell.V, cell.b), linear(inputs, cell.W)

    def step(x, h, U, V, b):
        return (x + (linear(h[:, :1], U) if column else linear(h, U))).tanh()

    agree(Odd(step, prepare))


@pytest.mark.parametrize("name", ["gru", "lstm"])
@pytest.mark.parametrize(
    "layout",
    [
        lambda n: draw(1, H).expand(n, H),
        lambda n: draw(H, n).t(),
        lambda n: draw(2 * n, 3 * H)[::2, H : 2 * H],
        lambda n: draw(1, 1).expand(n, H),
    ],
    ids=["expanded", "transposed", "sliced", "one number"],
)
def test_states_however_they_lie(name, layout):
    cell = make(name)
    state = tuple(layout(B).requires_grad_() for _ in cell.states)
    agree(cell, state=state, lengths=LENGTHS)


@pytest.mark.parametrize("mode", ["grad", "no_grad"])
def test_one_tensor_for_all_states(mode, caplog):
    # The step must not be read as if its states were always the same.
    cell, other = make("lstm"), first_state(make("lstm"))
    one = draw(B, H, grad=True)
    for state in ((one, one), other, (one, one)):
        if mode == "grad":
            agree(cell, state=state)
        else:
            with torch.no_grad():
                found, expected = (Recurrent(cell, b)(draw(T, B, N), state)[0] for b in ("fused", "reference"))
            same([found], [expected])
    assert not caplog.records  # that it cannot be compiled


def test_one_tensor_for_a_state_and_a_constant():
    def prepare(cell, inputs, extra):
        return (cell.U, cell.V, inputs[0, :, :1] + cell.b if extra is None else extra), linear(inputs, cell.W)

    cell, one = Odd(rnn, prepare), draw(B, H, grad=True)
    agree(cell, state=(one,), extra=one)
    agree(cell, extra=one)


def test_constants_that_are_none_now_and_then():
    cell = Odd(
        lambda x, h, U, b, c: (linear(h, U, b) + x).tanh() if c is None else (linear(h, U) + x).tanh() * c,
        lambda cell, inputs, extra: ((cell.U, cell.b, cell.c), linear(inputs, cell.W)),
    )
    b = cell.b
    for cell.b, cell.c in ((b, None), (None, b), (b, None)):
        agree(cell)


def test_inputs_of_a_step_that_are_none():
    agree(
        Odd(
            lambda x, h, U, V, b: (x[0] + linear(h, U)).tanh() if x[1] is None else h,
            lambda cell, inputs, extra: ((cell.U, cell.V, cell.b), (linear(inputs, cell.W), None)),
        )
    )


@pytest.mark.parametrize(
    "loss",
    [
        lambda r: r[0].sum(),
        lambda r: r[0].mean((0, 1)).prod(),
        lambda r: r[0].mean(-1).square().sum(),
        lambda r: (r[0].permute(2, 1, 0) * draw(H, B, T)).sum(),
        lambda r: r[0][::2, 1:, 1:3].square().sum(),
        lambda r: r[0][-1].sum(),
        lambda r: r[1].sum(),
        lambda r: r[1].t()[1:].square().sum(),
        lambda r: r[2].mean(0).prod(),
        lambda r: (r[0][1] * r[2]).sum(),
    ],
    ids=["sum", "means", "mean", "permuted", "part", "last", "state", "state's part", "other state", "both"],
)
def test_upstream_gradients_however_they_come(loss):
    cell = make("lstm")
    agree(cell, loss=loss)
    agree(cell, loss=loss, lengths=LENGTHS)


def test_upstream_gradients_of_one_column():
    agree(Odd(rnn, hidden_size=1), loss=lambda r: r[0].sum())


# Lengths


@pytest.mark.parametrize(
    "lengths",
    [
        [T] * B,
        [1] * B,
        [1, T, 1, T, T],
    ],
)
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_lengths_at_their_ends(name, lengths):
    for loss in (weighted, lambda r: r[0].square().sum(), lambda r: weighted(r[1:])):
        agree(make(name), lengths=torch.tensor(lengths), loss=loss)


@pytest.mark.parametrize(
    "lengths",
    [
        LENGTHS.int(),
        LENGTHS.to(torch.uint8),
        LENGTHS.to(torch.int16),
        torch.stack([LENGTHS, LENGTHS.flip(0)], 1)[:, 0],
        LENGTHS.repeat_interleave(2)[::2],
        torch.tensor(3).expand(B),
    ],
    ids=["int32", "uint8", "int16", "column", "every second", "expanded"],
)
def test_lengths_however_they_lie(lengths):
    agree(make(), lengths=lengths)


def test_lengths_that_are_used_again():
    cell, found = make(), []
    for backend in ("fused", "reference"):
        lengths = LENGTHS.clone()
        outputs, final = Recurrent(cell, backend)(draw(T, B, N), None, lengths)
        lengths.fill_(T)
        found.append(torch.autograd.grad(weighted([outputs, *final]), list(cell.parameters())))
    same(*found)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["lstm", "raw"])
def test_what_stands_in_the_padding_reaches_nothing(name, value):
    cell = odd("product of state and input") if name == "raw" else make(name)
    inputs, upstream = draw(T, B, N), draw(T, B, H)
    past = torch.arange(T).unsqueeze(1) >= LENGTHS
    found = []
    for padding in (0.0, value):
        filled = inputs.masked_fill(past.unsqueeze(-1), padding).requires_grad_()
        gradient = upstream.masked_fill(past.unsqueeze(-1), padding)
        outputs, final = Recurrent(cell, "fused")(filled, first_state(cell), LENGTHS)
        leaves = [filled, *cell.parameters()]
        gradients = torch.autograd.grad(
            [outputs, *final], leaves, [gradient, *map(torch.ones_like, final)], allow_unused=True
        )
        found.append([outputs, *final, *(g for g in gradients if g is not None)])
    assert all(tensor.isfinite().all() for tensor in found[1])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["gru", "lstm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_finite_number_passes_as_in_the_reference(name, value):
    inputs = draw(T, B, N).clone()
    inputs[2, 0, 0], inputs[4, 3, 1] = value, -value
    agree(make(name), inputs.requires_grad_())
    agree(make(name), inputs, lengths=LENGTHS)


# Memory that is used again


def _kept(how):
    """A cell that puts away what its steps read."""

    def prepare(cell, inputs, extra):
        x = linear(inputs, cell.W)
        how(cell, x)
        return (cell.U, cell.V, cell.b), x

    return prepare


def _put(cell, x):
    cell.kept = x


KEEPING = {
    "itself": _put,
    "detached": lambda cell, x: _put(cell, x.detach()),
    "its data": lambda cell, x: _put(cell, x.data),
    "as an array": lambda cell, x: _put(cell, torch.from_numpy(x.detach().numpy())),
    "its last step": lambda cell, x: _put(cell, x[-1]),
    "its last step detached": lambda cell, x: _put(cell, x.detach()[-1]),
    "in a list": lambda cell, x: (_put(cell, x.detach()), cell.__dict__.setdefault("all", []).append(x)),
    "where it has a gradient": lambda cell, x: _put(cell, x) if x.requires_grad else None,
}


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("name", KEEPING)
def test_what_a_cell_puts_away_stays_as_it_was(name, call):
    found = []
    for backend in ("fused", "reference"):
        torch.manual_seed(0)
        layer = Recurrent(
            Odd(lambda x, h, U, V, b: (x + linear(linear(h, U).sigmoid(), V)).tanh(), _kept(KEEPING[name])), backend
        )
        for _ in range(call):
            outputs, _ = layer(draw(T, B, N))
            kept = layer.cell.kept
            before = kept.detach().clone()
            outputs.sum().backward()
        assert torch.equal(before, kept)
        found.append(kept.detach())
    same([found[0]], [found[1]])


def test_a_loss_on_what_a_cell_puts_away_reaches_its_weights():
    found = []
    for backend in ("fused", "reference"):
        torch.manual_seed(0)
        layer = Recurrent(Odd(rnn, _kept(_put)), backend)
        for _ in range(2):
            outputs, _ = layer(draw(T, B, N))
            loss = outputs.sum() + layer.cell.kept.square().sum()
            found.append(torch.autograd.grad(loss, [layer.cell.W, layer.cell.U]))
    for ours, theirs in zip(found[:2], found[2:], strict=True):
        same(ours, theirs)


@pytest.mark.parametrize("how", [lambda x: x, torch.Tensor.detach], ids=["itself", "detached"])
def test_what_a_hook_puts_away_stays_as_it_was(how):
    def prepare(cell, inputs, extra):
        return (cell.U, cell.V, cell.b), cell.projection(inputs)

    cell, seen = Odd(rnn, prepare), []
    cell.projection = nn.Linear(N, H).double()
    layer = Recurrent(cell, "fused")
    layer(draw(T, B, N))[0].sum().backward()
    cell.projection.register_forward_hook(lambda module, given, made: seen.append(how(made)))  # after the first use
    layer(draw(T, B, N))[0].sum().backward()
    (kept,) = [one for one in seen if len(one) == T]  # the others are of trial runs
    same([kept.detach()], [F.linear(draw(T, B, N), cell.projection.weight, cell.projection.bias).detach()])


@pytest.mark.parametrize("first", ["own", "given"])
def test_what_the_caller_gives_stays_as_it_was(first):
    def prepare(cell, inputs, extra):
        return (cell.U, cell.V, cell.b), linear(inputs, cell.W) if extra is None else extra

    layer = Recurrent(Odd(rnn, prepare), "fused")
    given = draw(T, B, H)
    before = given.clone()
    for context in ({}, {"extra": given}) if first == "own" else ({"extra": given}, {}, {"extra": given}):
        layer(draw(T, B, N), **context)[0].sum().backward()
    assert torch.equal(given, before)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_inputs_stay_as_they_were(lengths):
    layer = Recurrent(
        Odd(
            lambda x, h, U, V, b: (x + linear(linear(h, U).sigmoid(), V)).tanh(),
            lambda c, i, e: ((c.U, c.V, c.b), i),
            input_size=H,
        ),
        "fused",
    )
    inputs, state = draw(T, B, H, grad=True), (draw(B, H),)
    before = [inputs.detach().clone(), state[0].clone()]
    for _ in range(3):
        layer(inputs, state, lengths)[0].sum().backward()
    assert all(torch.equal(a, b) for a, b in zip([inputs.detach(), *state], before, strict=True))


def test_two_gradients_are_not_one_memory():
    # What is added gets the same gradient; written to one of them (as a second backward pass does), the other stays.
    def prepare(cell, inputs, extra):
        return (cell.U, cell.V, cell.b), (inputs, inputs if extra is None else extra)

    cell = Odd(lambda x, h, U, V, b: (x[0] + x[1] + linear(h, U)).tanh(), prepare, input_size=H)
    found = []
    for backend in ("fused", "reference"):
        leaves = [draw(T, B, H, grad=True, seed=1), draw(T, B, H, grad=True, seed=2)]
        for _ in range(2):
            Recurrent(cell, backend)(leaves[0], extra=leaves[1])[0].sum().backward()
        found.append([leaf.grad for leaf in leaves])
    same(*found)


@pytest.mark.parametrize("name", ["gru", "lstm"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_results_stay_as_they_were(name, lengths):
    layer = Recurrent(make(name), "fused")
    held = []
    for call in range(8):
        inputs, state = draw(T, B, N, grad=True, seed=call), first_state(layer.cell)
        outputs, final = layer(inputs, state, lengths)
        results = [outputs, *final]
        if call % 4 != 3:  # one without a backward pass, one with two
            for again in (True, False)[call % 2 :]:
                leaves = [inputs, *state, *layer.parameters()]
                results += torch.autograd.grad(weighted([outputs, *final]), leaves, retain_graph=again)
        held += [(result, result.detach().clone()) for result in results]
        with torch.no_grad():
            held += [(result, result.clone()) for result in [*tensors_of(layer(inputs, state, lengths))]]
    assert all(torch.equal(result.detach(), copy) for result, copy in held)


def test_many_graphs_at_once():
    layer, cell = Recurrent(make("lstm"), "fused"), make("lstm")
    cell = layer.cell
    losses = [weighted([layer(draw(T, B, N, seed=i))[0]]) for i in range(4)]
    parameters = list(layer.parameters())
    found = {i: torch.autograd.grad(losses[i], parameters, retain_graph=i == 2) for i in (2, 0, 3, 1)}
    same(torch.autograd.grad(losses[2], parameters), found[2])
    for i, gradients in found.items():
        same(
            gradients,
            everything(cell, "reference", draw(T, B, N, seed=i), cell.initial_state(B), loss=lambda r: weighted(r[:1]))[
                3:
            ],
        )


@pytest.fixture
def only_new_objects():
    """The garbage collector looks at what is made from here on: at a small part of all there is."""
    gc.collect()
    gc.freeze()


def _tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.usefixtures("only_new_objects")
@pytest.mark.parametrize("kind", ["forward", "backward", "twice", "create_graph", "sizes"])
def test_nothing_piles_up(kind):
    layer = Recurrent(make(), "fused")
    parameters = list(layer.parameters())
    counts = []
    for call in range(12):
        steps = 4 + call % 3 if kind == "sizes" else T
        loss = layer(draw(steps, B, N))[0].sum()
        if kind == "twice":
            torch.autograd.grad(loss, parameters, retain_graph=True)
        if kind != "forward":
            torch.autograd.grad(loss, parameters, create_graph=kind == "create_graph")
        del loss
        if call % 6 >= 3:
            counts.append((_tensors(), len(memory._BLOCKS)))
    assert max(counts[:3]) == max(counts[3:])


def test_a_layer_goes_with_its_last_name():
    layer = Recurrent(make(), "fused")
    outputs, (final,) = layer(draw(T, B, N))
    watched = [weakref.ref(thing) for thing in (layer.cell, layer.cell.U, outputs, final, outputs.grad_fn)]
    (outputs.sum() + final.sum()).backward()
    del layer, outputs, final
    gc.collect()
    assert [reference() for reference in watched] == [None] * len(watched)


# Derivatives


def test_a_backward_pass_that_was_interrupted_does_not_go_on(monkeypatch):
    """What the forward pass kept is written over by then."""
    outputs, _ = Recurrent(make("lstm"), "fused")(draw(T, B, N))
    monkeypatch.setattr(arrays, "gradients", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        outputs.backward(torch.ones_like(outputs))
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="run the forward pass again"):
        outputs.backward(torch.ones_like(outputs))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_three_backward_passes(name, lengths):
    layer = Recurrent(make(name), "fused")
    inputs, state = draw(T, B, N, grad=True), first_state(layer.cell)
    outputs, final = layer(inputs, state, lengths)
    leaves = [inputs, *state, *layer.parameters()]
    passes = []
    for number in range(3):
        passes.append(torch.autograd.grad(weighted([outputs, *final]), leaves, retain_graph=number < 2))
        layer(inputs, state, lengths)[0].sum().backward()  # takes whatever memory is spare
    for later in passes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(passes[0], later, strict=True))
    same(passes[0], everything(layer.cell, "reference", inputs, state, lengths)[1 + len(final) :])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(weighted([outputs, *final]), leaves)


WRAPPERS = {
    "plain": lambda cell: cell,
    "zoneout": lambda cell: Zoneout(cell, (0.3,)),
    "dropout": lambda cell: VariationalDropout(cell, 0.3, 0.3, 0.3),
    "weight drop": lambda cell: WeightDrop(cell, 0.4),
    "all": lambda cell: VariationalDropout(Zoneout(WeightDrop(cell, 0.3), (0.2, 0.4)), 0.2, 0.2, 0.2),
}


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_gradients_of_gradients_and_masks(name, train):
    cell = WRAPPERS[name](make("lstm")).double().train(train)
    found = []
    for backend in ("fused", "reference"):
        torch.manual_seed(1)
        inputs, state = draw(T, B, N, grad=True), first_state(cell)
        outputs, final = Recurrent(cell, backend).train(train)(inputs, state, LENGTHS)
        leaves = [inputs, *state, *cell.parameters()]
        loss = weighted([outputs, *final])
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        random = torch.get_rng_state()
        again = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        found.append([outputs.detach(), *final, *first, *again, random.double()])
    same(*found)


def _a_weight_here_and_there(cell, inputs, extra):
    return (cell.U, cell.V, cell.b), linear(linear(inputs, cell.W, cell.b), cell.U)


@pytest.mark.parametrize(
    "cell",
    [
        lambda: Odd(rnn, _a_weight_here_and_there),
        lambda: Odd(lambda x, h, c, U, V, b: (linear(h, U) + x * b, (h, c.detach())), states=2),
        lambda: odd("everything twice"),
        lambda: odd("constants by row"),
    ],
    ids=["a weight also in prepare", "a state without gradient", "everything twice", "constants by row"],
)
def test_gradients_of_gradients(cell):
    cell, found = cell(), []
    for backend in ("fused", "reference"):
        inputs = draw(T, B, N, grad=True)
        outputs, _ = Recurrent(cell, backend)(inputs, first_state(cell, grad=False), LENGTHS)
        leaves = [inputs, *cell.parameters()]
        first = torch.autograd.grad(weighted([outputs]), leaves, create_graph=True, allow_unused=True)
        loss = sum(g.square().sum() for g in first if g is not None)
        again = torch.autograd.grad(loss, leaves, allow_unused=True)
        found.append([g for g in (*first, *again) if g is not None])
    same(*found)


def test_the_gradient_of_a_gradient_where_there_is_none():
    cell = Odd(lambda x, h, U, V, b: (x.detach() * h.detach(), (h.detach(),)))
    inputs = draw(T, B, N, grad=True)
    outputs, _ = Recurrent(cell, "fused")(inputs)
    assert torch.autograd.grad(outputs.sum(), inputs, create_graph=True, allow_unused=True) == (None,)


@pytest.mark.parametrize("which", ["weight", "input", "state"])
def test_a_change_before_the_backward_pass_is_noticed(which):
    for backend in ("fused", "reference"):
        layer = Recurrent(make(), backend)
        inputs, state = draw(T, B, N).clone(), (draw(B, H).clone(),)
        outputs, _ = layer(inputs, state)
        with torch.no_grad():
            {"weight": layer.cell.U, "input": inputs, "state": state[0]}[which].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            outputs.sum().backward()


@pytest.mark.parametrize("name", ["gru", "lstm"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_a_result_changed_in_place_is_noticed_or_right(name, lengths):
    cell, inputs = make(name), draw(T, B, N)
    for place in range(1 + len(cell.states)):
        found = []
        for backend in ("reference", "fused"):
            results = tensors_of(Recurrent(cell, backend)(inputs, None, lengths))
            with suppress(RuntimeError) if backend == "fused" else nullcontext():
                results[place].mul_(3)
                found.append(torch.autograd.grad(weighted(results), list(cell.parameters())))
        same(found[-1], found[0])


FROZEN = {
    "all weights": ["W", "U", "b", "b_u"],
    "recurrent weights": ["U"],
    "input weights": ["W", "b"],
    "biases": ["b", "b_u"],
    "nothing": [],
}


@pytest.mark.parametrize("grad", [False, True], ids=["inputs without gradient", "inputs with"])
@pytest.mark.parametrize("name", FROZEN)
def test_frozen_parameters(name, grad):
    cell = make()
    agree(cell, lengths=LENGTHS)
    for parameter in FROZEN[name]:
        getattr(cell, parameter).requires_grad_(False)
    state = (draw(B, H, grad=True),)
    agree(cell, draw(T, B, N, grad=grad), state, LENGTHS)
    assert not name.startswith("all") or not Recurrent(cell, "fused")(draw(T, B, N))[0].requires_grad
    for parameter in cell.parameters():
        parameter.requires_grad_(True)
    agree(cell)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_without_gradients_between_calls_with_them(guard):
    layer, state = Recurrent(make("lstm"), "fused"), (draw(B, H), draw(B, H, seed=1))
    with guard():  # first: what is traced here must serve a later call, too
        before = layer(draw(T, B, N), state, LENGTHS)
    agree(layer.cell, state=state, lengths=LENGTHS)
    with guard():
        after = layer(draw(T, B, N), state, LENGTHS)
    assert not any(tensor.requires_grad for tensor in tensors_of(after))
    expected = Recurrent(layer.cell, "reference")(draw(T, B, N), state, LENGTHS)
    for found in (before, after):
        same(tensors_of(found), [tensor.detach() for tensor in tensors_of(expected)])


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputing_a_forward_pass(reentrant):
    layer, found = Recurrent(Zoneout(make("lstm"), (0.3,)).double(), "fused"), []
    for run in (layer, lambda inputs: checkpoint(layer, inputs, use_reentrant=reentrant)):
        torch.manual_seed(3)
        inputs = draw(T, B, N, grad=True)
        layer.zero_grad()
        weighted([run(inputs)[0]]).backward()
        found.append([leaf.grad for leaf in (inputs, *layer.parameters())])
    same(*found)


def test_a_prepare_with_a_memory_of_its_own_runs_as_often_as_in_the_reference():
    def prepare(cell, inputs, extra):
        x = linear(inputs, cell.W)
        return (cell.U, cell.V, cell.b), cell.norm(x.flatten(0, 1)).reshape(x.shape)

    cell = Odd(rnn, prepare)
    cell.norm = nn.BatchNorm1d(H).double()
    other = deepcopy(cell)
    for one, backend in ((cell, "fused"), (other, "reference")):
        layer = Recurrent(one, backend)
        for seed in range(2):
            layer(draw(T, B, N, seed=seed))[0].sum().backward()
    assert cell.norm.num_batches_tracked == other.norm.num_batches_tracked == 2
    same(list(cell.buffers()), list(other.buffers()))


# Sizes


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_no_size_needs_another_text(name, texts):
    shapes = [(1, 1), (1, 5), (7, 1), (2, 4), (5, 8), (3, 17), (20, 33), (40, 2)]
    for hidden in (2, 3, 7, 8, 9, 16, 31):
        cell = cells.create(name, input_size=N, hidden_size=hidden).double()
        for steps, rows in shapes:
            agree(cell, draw(steps, rows, N, grad=True))
            with torch.no_grad():
                Recurrent(cell, "fused")(draw(steps, rows, N))
    assert len(set(texts)) == 2  # with a backward step, and without


def test_the_smallest_layer():
    for name in ("rnn", "lstm", "gru"):
        cell = cells.create(name, input_size=1, hidden_size=1).double()
        for steps, rows in ((1, 1), (1, 4), (5, 1), (5, 4)):
            agree(cell, draw(steps, rows, 1, grad=True))


def test_no_sequences_at_all():
    agree(make(), draw(T, 0, N, grad=True), in_c=False)
    agree(make(), draw(T, 0, N, grad=True), lengths=torch.zeros(0, dtype=torch.int64), in_c=False)


def test_as_many_sequences_as_columns():
    cell = Odd(lambda x, h, U, V, r: (x * r + linear(h, U) + (r + h).softmax(-1)).tanh(), _rows_scaled)
    for rows in (H, 2, 1, 3, H):
        agree(cell, draw(T, rows, N, grad=True))


# A layer that is changed


def test_another_precision():
    layer = Recurrent(make("lstm"), "fused")
    agree(layer.cell)
    for dtype, exact in ((torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.1), (torch.float64, 1e-12)):
        layer.to(dtype)
        inputs = draw(T, B, N).to(dtype).requires_grad_()
        found, expected = (everything(layer.cell, b, inputs, layer.initial_state(B)) for b in ("fused", "reference"))
        assert {tensor.dtype for tensor in found} == {dtype}
        torch.testing.assert_close(found, expected, rtol=exact, atol=exact)


@pytest.mark.parametrize(
    "copy", [deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["deepcopy", "pickle"]
)
def test_a_copy_is_on_its_own(copy):
    layer = Recurrent(make(), "fused", initial_state="learned")
    expected = layer(draw(T, B, N))[0]
    expected.sum().backward()
    other = copy(layer)
    assert torch.equal(other(draw(T, B, N))[0], expected)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1)
    assert torch.equal(other(draw(T, B, N))[0], expected)
    agree(other.cell)
    agree(layer.cell)


@pytest.mark.parametrize("assign", [False, True])
def test_weights_that_are_loaded(assign):
    layer, other = Recurrent(make(), "fused"), Recurrent(make(), "fused")
    layer(draw(T, B, N))[0].sum().backward()
    layer.load_state_dict(other.state_dict(), assign=assign)
    assert torch.equal(layer(draw(T, B, N))[0], other(draw(T, B, N))[0])
    agree(layer.cell)


def test_training_goes_the_same_way():
    found = []
    for backend in ("fused", "reference"):
        torch.manual_seed(0)
        layer = Recurrent(make("lstm"), backend)
        optimizer = torch.optim.Adam(layer.parameters(), 0.01)
        for seed in range(5):
            optimizer.zero_grad(set_to_none=seed % 2 == 0)
            weighted(tensors_of(layer(draw(T, B, N, seed=seed), None, LENGTHS))).backward()
            optimizer.step()
        found.append([parameter.detach() for parameter in layer.parameters()])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_an_option_that_is_a_tuple():
    cell = Zoneout(make(), (0.3,)).double().eval()
    agree(cell)
    cell.rates = (0.6,)
    agree(cell)


def test_training_and_evaluation_in_turn():
    cell = Zoneout(make(), (0.5,)).double()
    layer = Recurrent(cell, "fused")
    expected = Recurrent(cell.eval(), "reference")(draw(T, B, N))[0].detach()
    for train in (True, False, True, False):
        outputs = layer.train(train)(draw(T, B, N))[0].detach()
        assert torch.allclose(outputs, expected, **EXACT) == (not train)


def test_other_weights_for_one_call():
    cell, other = make(), make()
    layer = Recurrent(cell, "fused")
    weights = {f"cell.{name}": parameter for name, parameter in other.named_parameters()}
    outputs, _ = torch.func.functional_call(layer, weights, (draw(T, B, N),))
    found = torch.autograd.grad(weighted([outputs]), list(other.parameters()))
    expected = torch.autograd.grad(
        weighted([Recurrent(other, "reference")(draw(T, B, N))[0]]), list(other.parameters())
    )
    same(found, expected)


def test_distributed_training(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    cell, fired = make(), []
    for parameter in cell.parameters():
        parameter.register_hook(lambda gradient: fired.append(1))
        parameter.register_post_accumulate_grad_hook(lambda parameter: fired.append(2))
    expected = everything(cell, "reference", draw(T, B, N), cell.initial_state(B))[2:]
    fired.clear()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        layer = DistributedDataParallel(Recurrent(cell, "fused"))
        for _ in range(2):
            cell.zero_grad()
            weighted(tensors_of(layer(draw(T, B, N)))).backward()
            same([parameter.grad for parameter in cell.parameters()], expected)
    finally:
        del layer
        distributed.destroy_process_group()
    assert fired.count(1) == fired.count(2) == 2 * len(expected)


# Threads and processes


@pytest.mark.parametrize("rows", [1, 3, 4, 7, 8, 9, 11, 13, 16, 33])
@pytest.mark.parametrize("name", ["lstm", "by row"])
def test_the_number_of_threads_changes_nothing(name, rows, threads):
    cell = odd("constants by row") if name == "by row" else make(name)
    lengths = 1 + torch.arange(rows) % T
    for given in (None, lengths):
        found = []
        for count in (1, 2, 3):
            threads(count)
            found.append(everything(cell, "fused", draw(T, rows, N, grad=True), first_state(cell, rows), given))
        same(found[1], found[0])
        same(found[2], found[0])


def test_threads_set_in_between(threads):
    cell = make("lstm")
    expected = everything(cell, "reference", draw(T, 16, N), cell.initial_state(16))
    layer = Recurrent(cell, "fused")
    threads(1)
    results = tensors_of(layer(draw(T, 16, N)))
    threads(2)
    same(torch.autograd.grad(weighted(results), list(cell.parameters())), expected[3:])
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("count", [1, 2])
def test_several_python_threads_at_once(count, threads):
    threads(count)
    cell = Zoneout(make("lstm"), (0.2,)).double().eval()
    layer = Recurrent(cell, "fused")
    expected = [everything(cell, "reference", draw(T, 9, N, seed=i), cell.initial_state(9)) for i in range(8)]

    def work(i):
        results = tensors_of(layer(draw(T, 9, N, seed=i)))
        gradients = [
            torch.autograd.grad(weighted(results), list(cell.parameters()), retain_graph=k) for k in (True, False)
        ]
        return [[*(result.detach() for result in results), *part] for part in gradients]

    with ThreadPoolExecutor(4) as pool:
        for i, both in enumerate(pool.map(work, list(range(8)) * 10)):
            for found in both:
                same(found, expected[i % 8])


def test_what_several_python_threads_make_at_once_is_one():
    """Since Python 3.12 `functools.cached_property` has no lock: each thread would have a kernel of its own."""
    both = threading.Barrier(2, timeout=60)

    class Slow:
        @once.once
        def made(self):
            both.wait()
            return object()

    slow = Slow()
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: slow.made, range(2))
    assert one is other is slow.made


def test_the_first_use_by_several_python_threads_at_once():
    layers = [Recurrent(make("lstm"), "fused") for _ in range(4)]

    def work(i):
        torch.manual_seed(0)
        layer = layers[i % 4]
        return torch.autograd.grad(weighted(tensors_of(layer(draw(T, B, N)))), list(layer.parameters()))

    with ThreadPoolExecutor(8) as pool:
        for i, found in enumerate(pool.map(work, range(16))):
            cell = layers[i % 4].cell
            same(found, everything(cell, "reference", draw(T, B, N), cell.initial_state(B))[3:])


@pytest.mark.parametrize("count", [1, 2])
def test_a_child_process(count, threads):
    threads(count)
    cell = make("lstm")
    layer, inputs = Recurrent(cell, "fused"), draw(T, 9, N)
    expected = [result.detach() for result in tensors_of(layer(inputs))]
    gradients = torch.autograd.grad(weighted(tensors_of(layer(inputs))), list(cell.parameters()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are threads is the point
        child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)  # as PyTorch's own workers do: its products wait for threads that are not there
            torch.get_num_threads = lambda: count
            results = tensors_of(layer(inputs))
            same([result.detach() for result in results], expected)
            same(torch.autograd.grad(weighted(results), list(cell.parameters())), gradients)
            with torch.no_grad():
                same(tensors_of(layer(inputs)), expected)
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)
    same([result.detach() for result in tensors_of(layer(inputs))], expected)


def test_gradients_that_vanish_are_zero_before_they_take_long():
    cell = cells.create("rnn", input_size=N, hidden_size=H)
    inputs = torch.randn(100, B, N, requires_grad=True)
    flushed = torch.tensor(1e-40).mul(1).item() == 0  # by whoever ran before
    torch.set_flush_denormal(False)
    tiny = {}
    try:
        for backend in ("fused", "reference"):
            outputs, _ = Recurrent(cell, backend)(inputs)
            (gradient,) = torch.autograd.grad(outputs[-1].sum() * 1e-25, inputs)
            size = gradient.abs()
            tiny[backend] = int(((size > 0) & (size < torch.finfo(torch.float32).tiny)).sum())
            assert (size[-1] > 0).all()
            assert backend == "reference" or (size[:20] == 0).all()
        assert torch.tensor(1e-40).mul(1).item() > 0  # the processor's mode is what it was
    finally:
        torch.set_flush_denormal(flushed)
    assert tiny["fused"] < tiny["reference"] / 2, tiny


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_step_itself_has_numbers_however_small(dtype):
    cell = Odd(lambda x, h, U, V, b: h * b + (x.abs() * torch.finfo(x.dtype).tiny / 64).log()).to(dtype)
    inputs = draw(T, B, N).to(dtype)
    flushed = (torch.tensor(torch.finfo(dtype).tiny, dtype=dtype) / 64).mul(1).item() == 0  # by whoever ran before
    torch.set_flush_denormal(False)
    try:
        for guard in (nullcontext, torch.no_grad):
            with guard():
                found, expected = (Recurrent(cell, backend)(inputs)[0] for backend in ("fused", "reference"))
            assert expected.isfinite().all()
            torch.testing.assert_close(found, expected)
    finally:
        torch.set_flush_denormal(flushed)


def test_what_threads_work_on_stays_though_the_call_is_interrupted(monkeypatch, threads):
    threads(2)
    cell, begun = make("lstm"), []

    def interrupted(tasks):
        begun.extend(tasks)
        memory._BLOCKS[:] = [block for block in memory._BLOCKS if not memory._is_free(block)]  # of completed products
        raise KeyboardInterrupt

    step = fused.traced(cell)
    monkeypatch.setattr(step.kernel.blas, "openmp", [0, 0, 0])
    monkeypatch.setattr(engine_threads, "_together", interrupted)
    monkeypatch.setattr(memory, "SMALLEST", 1)
    monkeypatch.setattr(memory, "_BLOCKS", [])
    with suppress(KeyboardInterrupt):
        Recurrent(cell, "fused")(draw(T, 16, N))
    assert len(begun) == 2
    assert memory._BLOCKS
    assert not any(map(memory._is_free, memory._BLOCKS))
    begun.clear()
    assert all(map(memory._is_free, memory._BLOCKS))


# Defaults


def test_whatever_the_default_device_is():
    cell = make("lstm")
    expected = everything(cell, "reference", draw(T, B, N, grad=True), first_state(cell))
    layer, inputs, state = Recurrent(cell, "fused"), draw(T, B, N, grad=True), first_state(cell)
    with torch.device("meta"):
        results = tensors_of(layer(inputs, state))
    loss = weighted(results)
    with torch.device("meta"):
        gradients = torch.autograd.grad(loss, [inputs, *state, *cell.parameters()])
    same([*(result.detach() for result in results), *gradients], expected)


def test_whatever_the_default_type_is():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        compiler.Blas()  # which tries a product
        assert memory._counts.__wrapped__()
    finally:
        torch.set_default_dtype(before)


# What cannot be compiled


@pytest.mark.parametrize(
    ("step", "first", "names"),
    [
        (
            lambda x, h, U, V, b: ((h * x.unsqueeze(1)).sum(-1), (h * 0.5 + x.unsqueeze(-1) * x.unsqueeze(1),)),
            lambda rows: (torch.zeros(rows, H, H, dtype=torch.float64),),
            "uses a tensor of shape",
        ),
        (lambda x, h, U, V, b: h * U[1] + x, None, "split over the sequences of a batch"),
    ],
    ids=["matrix state", "row of a weight"],
)
def test_what_cannot_be_compiled_is_named_once(step, first, names, caplog):
    caplog.set_level(logging.WARNING)
    cell = Odd(step, first=first)
    for _ in range(2):
        agree(cell, in_c=False)
        agree(cell, lengths=LENGTHS, in_c=False)
        with torch.no_grad():
            Recurrent(cell, "fused")(draw(T, B, N))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "runs as Python instead of C" in said[0]
    assert names in said[0]


def test_what_cannot_be_fused_goes_by_the_reference_and_is_named_once(caplog):
    cell = Odd(lambda x, h, U, V, b: torch.cumsum(x + linear(h, U), -1).tanh())
    inputs, state = draw(T, B, N, grad=True), first_state(cell)
    for _ in range(3):
        same(everything(cell, "auto", inputs, state), everything(cell, "reference", inputs, state))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "cumsum" in said[0]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_the_memory_of_what_nobody_else_holds_is_used_again(name, grad):
    _, prepared = make(name).prepare(draw(T, B, N, grad=grad))
    alone = map_state(memory.alone_like, prepared)
    assert memory.owned(prepared, alone) == [True]
    kept = prepared.detach()
    assert memory.owned(prepared, alone) == [False]
    del kept
    assert memory.owned(prepared, alone) == [True]
