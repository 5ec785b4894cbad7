"""Steps with matrix states, compiled head by head, give what the plain loop gives."""

import logging
from functools import partial
from itertools import product

import pytest
import tiers
import torch
from torch import nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from rnnlab import __main__, cells, contracts
from rnnlab.cells import Cell
from rnnlab.contracts import cell as contract
from rnnlab.engine import fused, once, reference
from rnnlab.engine.choose import choose
from rnnlab.engine.cpu import head_kernel, kernel
from rnnlab.engine.cpu import linear as products
from rnnlab.engine.cpu.memory import take
from rnnlab.layers import Recurrent
from rnnlab.trees import map_state, tensors_of

B, N = 3, 4


class Delta(Cell):
    """The delta rule; the read-out is divided by its root mean square and multiplied by a gain."""

    states = ("S",)

    def __init__(self, heads=2, d_k=3, d_v=5):
        super().__init__(N, heads * d_v)
        self.sizes = [heads * d_k, heads * d_k, heads * d_v, heads]
        self.shape = (heads, d_k, d_v)
        self.W = nn.Parameter(torch.randn(sum(self.sizes), N) / 2)
        self.gain = nn.Parameter(torch.randn(d_v))

    def initial_state(self, batch_size):
        return (self.W.new_zeros(batch_size, *self.shape),)

    def prepare(self, inputs):
        heads, d_k, d_v = self.shape
        q, k, v, beta = linear(inputs, self.W).split(self.sizes, dim=-1)
        q, k = q.unflatten(-1, (heads, d_k)), k.unflatten(-1, (heads, d_k))
        k = k / (k.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        return (self.gain,), (q, k, v.unflatten(-1, (heads, d_v)), beta.sigmoid().unsqueeze(-1))

    def step(self, constants, inputs, state):
        (gain,), (q, k, v, beta), (S,) = constants, inputs, state
        S = 0.9 * S
        S = S + k.unsqueeze(-1) * (beta * (v - (S * k.unsqueeze(-1)).sum(-2))).unsqueeze(-2)
        y = (S * q.unsqueeze(-1)).sum(-2)
        y = gain * y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return y.flatten(1), (S,)


class Decaying(Cell):
    """A decay for each head and a bias for each output; the two states exchange places in every step."""

    states = ("S", "R")

    def __init__(self, heads=3, size=4):
        super().__init__(N, heads * size)
        self.heads, self.size = heads, size
        self.W = nn.Parameter(torch.randn(3 * heads * size, N) / 2)
        self.decay = nn.Parameter(torch.randn(heads, 1, 1))
        self.b = nn.Parameter(torch.randn(heads * size))

    def initial_state(self, batch_size):
        shape = (batch_size, self.heads, self.size, self.size)
        return self.W.new_zeros(shape), self.W.new_ones(shape)

    def prepare(self, inputs):
        parts = linear(inputs, self.W).unflatten(-1, (3, self.heads, self.size)).unbind(2)
        return (self.decay, self.b), parts

    def step(self, constants, inputs, state):
        (decay, b), (q, k, v), (S, R) = constants, inputs, state
        S = (S * decay).tanh() + k.unsqueeze(-1) * v.unsqueeze(-2)
        y = (S * q.unsqueeze(-1)).sum(-2) + (R * k.unsqueeze(-2)).sum(-1)
        weights = (S.sum(-1) / 10).softmax(-1)
        return (y * weights).flatten(1) * b + b, (R, S)


class Activated(Delta):
    """The delta rule whose keys are normalised and whose rates are squashed, and scaled by ``rate``, in `activate`."""

    rate = 1.0

    def prepare(self, inputs):
        q, k, v, beta = linear(inputs, self.W).split(self.sizes, dim=-1)
        return (self.gain,), (*(part.unflatten(-1, (self.shape[0], -1)) for part in (q, k, v)), beta)

    def activate(self, constants, inputs):
        q, k, v, beta = inputs
        k = k / (k.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        return q, k, v, self.rate * beta.sigmoid().unsqueeze(-1)


class Cumulative(Activated):
    """An `activate` that no step with heads can contain."""

    def activate(self, constants, inputs):
        q, k, v, beta = inputs
        return super().activate(constants, (q, k.cumsum(-1), v, beta))


class Twice(Decaying):
    """The same constant is passed twice."""

    def prepare(self, inputs):
        (decay, b), parts = super().prepare(inputs)
        return (decay, decay, b), parts

    def step(self, constants, inputs, state):
        decay, again, b = constants
        output, (S, R) = super().step((decay, b), inputs, state)
        return output, (S, R * again)


class Shared(Cell):
    """All heads share query, key and decay; the output is normalised over all heads, gated and projected."""

    states = ("S",)

    def __init__(self, heads=2, d_k=3, d_v=4):
        super().__init__(N, heads * d_v)
        self.sizes = [d_k, d_k, heads * d_v, heads * d_v, 1, 1]
        self.shape = (heads, d_k, d_v)
        self.W = nn.Parameter(torch.randn(sum(self.sizes), N) / 2)
        self.gain = nn.Parameter(torch.randn(d_k))
        self.b = nn.Parameter(torch.randn(heads * d_v))
        self.U = nn.Parameter(torch.randn(heads * d_v, heads * d_v) / 2)

    def initial_state(self, batch_size):
        return (self.W.new_zeros(batch_size, *self.shape),)

    def prepare(self, inputs):
        q, k, v, g, scale, decay = linear(inputs, self.W).split(self.sizes, dim=-1)
        decay = decay.sigmoid()[..., None, None]
        return (self.gain, self.b, self.U), (q.unsqueeze(-2), k.unsqueeze(-2), v, g, scale, decay)

    def step(self, constants, inputs, state):
        (gain, b, U), (q, k, v, g, scale, decay), (S,) = constants, inputs, state
        k = gain * k / (k.square().sum(-1, keepdim=True) + 0.1).sqrt()
        v = (v * g.sigmoid()).unflatten(-1, (self.shape[0], self.shape[2]))
        S = decay * S + k.unsqueeze(-1) * v.unsqueeze(-2)
        y = (S * q.unsqueeze(-1)).sum(-2).flatten(1) * scale + b
        y = b * y / (y.square().mean(-1, keepdim=True) + 0.1).sqrt()
        return linear(y * g.tanh(), U), self.after(S, y)

    def after(self, S, y):
        return (S,)


class Fed(Shared):
    """The normalised output is added to the state."""

    def after(self, S, y):
        return (S + y.unflatten(-1, (self.shape[0], 1, self.shape[2])),)


def mlstm(heads, size=4, **options):
    return cells.create("mlstm", input_size=N, hidden_size=heads * size, heads=heads, **options)


def wide(name, size=16):
    return cells.create(name, input_size=N, hidden_size=2 * size, heads=2)


def steady():
    """A `Decaying` whose tanh does not saturate, where 1 - tanh² of a rounded tanh has few correct digits."""
    cell = Decaying()
    with torch.no_grad():
        cell.decay.tanh_()
    return cell


def everything(run, cell, T, lengths=None, state=None):
    """Outputs and final state with and without gradients, and all gradients."""
    draw = torch.Generator().manual_seed(1)

    def random(tensor):
        return torch.randn(tensor.shape, generator=draw, dtype=torch.float64).to(tensor.dtype)

    like = cell.W
    inputs = random(like.new_empty(T, B, N)).requires_grad_()
    state = map_state(lambda s: (0.3 * random(s)).requires_grad_(), cell.initial_state(B))
    outputs, final = run(cell, inputs, state, lengths)
    results = [outputs, *tensors_of(final)]
    loss = torch.stack([(result * random(result)).sum() for result in results]).sum()
    wanted = [inputs, *tensors_of(state), *cell.parameters()]
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    with torch.no_grad():
        again = [run(cell, inputs, state, lengths)]
    return [tensor for tensor in [*results, *tensors_of(again), *gradients] if tensor is not None]


def distance(found, expected):
    """The largest error relative to the largest magnitude of a tensor."""
    pairs = [(a.detach(), b.detach()) for a, b in zip(found, expected, strict=True)]
    return max(float((a - b).abs().max() / (b.abs().max() + 1e-30)) for a, b in pairs)


def check(cell, T, lengths=None):
    cell = cell.double()
    found, expected = (everything(run, cell, T, lengths) for run in (fused.run, reference.run))
    assert found[0].grad_fn.name() == "_HeadsBackward"
    assert distance(found, expected) < 1e-11


CELLS = {
    "mlstm": lambda: mlstm(1),
    "mlstm-2": lambda: mlstm(2, 5, forget_gate="exp"),
    "mlstm-3": lambda: mlstm(3),
    "mlstm-of-numbers": lambda: mlstm(3, 1),
    "delta": Delta,
    "delta-1": lambda: Delta(1, 8, 2),
    "activated": Activated,
    "decaying": Decaying,
    "twice": Twice,
    "shared": Shared,
    "shared-1": lambda: Shared(1),
    "shared-4": lambda: Shared(4, 2, 2),
}
for _name, _heads in product(("hgrn2", "mamba2"), (1, 2, 4)):
    _options = {"input_size": N, "hidden_size": 3 * _heads, "heads": _heads, "key_size": 2 + _heads}
    CELLS[f"{_name}-{_heads}"] = partial(cells.create, _name, **_options)
QUICK = {
    "activated",
    "mlstm",
    "mlstm-2",
    "mlstm-3",
    "mlstm-of-numbers",
    "delta",
    "delta-1",
    "decaying",
    "shared",
    "mamba2-2",
}


@pytest.mark.parametrize("name", tiers.quick_if(CELLS, QUICK.__contains__))
@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_it_computes_what_the_plain_loop_computes(name, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    cell = CELLS[name]()
    for T, lengths in ((1, None), (5, None), (11, torch.tensor([3, 11, 1]))):
        check(cell, T, lengths)


def watched(cell):
    """Return a list to which every call of a cell adds whether its values have been through `activate`."""
    seen = []
    cell.register_forward_hook(lambda cell, inputs, result: seen.append(result[1][3].dim() == 4))
    return seen


def test_a_compiled_step_includes_activate():
    cell, plain = Activated().double(), Delta().double()
    plain.load_state_dict(cell.state_dict())
    seen = watched(cell)
    expected = everything(reference.run, plain, 5)
    assert distance(everything(fused.run, cell, 5), expected) < 1e-11
    assert not any(seen)
    cell.rate = 0.5  # a step is traced again when an option changes
    found = everything(fused.run, cell, 5)
    assert not any(seen)
    assert distance(found, everything(reference.run, cell, 5)) < 1e-11
    assert distance(found, expected) > 1e-3


@pytest.mark.parametrize("reason", ["not supported", "autocast", "another backend"])
def test_activate_runs_for_all_steps_where_a_step_does_not_contain_it(reason):
    cell = (Cumulative if reason == "not supported" else Activated)().double()
    seen, inputs = watched(cell), torch.randn(5, B, N, dtype=torch.float64)
    run = reference.run if reason == "another backend" else fused.run
    with torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"):
        found = run(cell, inputs, cell.initial_state(B))
    assert reason == "not supported" or all(seen)
    expected = reference.run(cell, inputs, cell.initial_state(B))
    assert distance([found[0]], [expected[0]]) < (1e-1 if reason == "autocast" else 1e-11)


class FromTheFront(Activated):
    """An `activate` that counts axes from the front; one step has one axis less than all steps."""

    axis = 3

    def activate(self, constants, inputs):
        q, k, v, beta = inputs
        return super().activate(constants, (q.softmax(self.axis), k, v, beta))


@pytest.mark.parametrize("axis", [2, 3], ids=["another axis", "no axis"])
def test_an_activate_that_counts_axes_from_the_front_runs_for_all_steps(axis, caplog, monkeypatch):
    monkeypatch.setattr(once, "_WARNED", set())
    monkeypatch.setattr(FromTheFront, "axis", axis)
    cell = FromTheFront().double()
    with caplog.at_level(logging.WARNING):
        found = everything(fused.run, cell, 5)
    assert distance(found, everything(reference.run, cell, 5)) < 1e-11
    assert [record.message for record in caplog.records] == [
        "activate of FromTheFront is not compiled with the step, which is slower: it gives one step other values "
        "than all steps; address axes from the end"
    ]
    if axis == 2:
        monkeypatch.setattr(contract, "INPUT", N)
        with pytest.raises(AssertionError, match="activate gives one step other values than all steps"):
            contract.pure_step(lambda *sizes: FromTheFront())


def test_hooks_see_what_prepare_returns_or_what_a_step_reads():
    cell = Activated().double()
    seen = watched(cell)
    found, expected = (everything(run, cell, 5) for run in (fused.run, reference.run))
    assert distance(found, expected) < 1e-11
    assert set(seen) == {False, True}


# Rows are computed one, four or more at a time, and sums over them accumulated in one part, in 4, 8 or more.
WIDTHS = [1, 3, 4, 6, 8, 12, 20, 24, 32, 40, 48, 64]


@pytest.mark.parametrize("width", tiers.quick_if(WIDTHS, (20, 32).__contains__))
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda width: mlstm(2, width), id="mlstm"),
        pytest.param(lambda width: Decaying(2, width), id="decaying"),
        pytest.param(lambda width: Delta(2, 24, width), id="delta", marks=pytest.mark.slow),
        pytest.param(lambda width: Delta(2, width, 32), id="delta, rows", marks=pytest.mark.slow),
    ],
)
def test_heads_of_every_width(make, width):
    single = make(width)
    found = everything(fused.run, single, 5)
    exact = everything(reference.run, single.double(), 5)
    assert found[0].dtype == torch.float32
    assert distance(found, exact) < 1e-4
    check(single, 5)


def test_gradients_of_outputs_or_one_state_alone():
    cell = mlstm(2, 4).double()
    inputs = torch.randn(5, B, N, dtype=torch.float64)
    for which in range(4):
        found = []
        for run in (fused.run, reference.run):
            state = map_state(lambda s: (s + 0.3).requires_grad_(), cell.initial_state(B))
            outputs, final = run(cell, inputs, state)
            loss = [outputs, *tensors_of(final)][which].square().sum()
            found.append(torch.autograd.grad(loss, [*cell.parameters(), *tensors_of(state)], materialize_grads=True))
        assert distance(*found) < 1e-11


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_long_sequences(name):
    check(CELLS[name](), 200, torch.tensor([200, 7, 130]))


def test_an_output_that_a_state_reads_is_no_readout(caplog, monkeypatch):
    monkeypatch.setattr(once, "_WARNED", set())
    cell = Fed().double()
    with caplog.at_level(logging.WARNING):
        found = everything(fused.run, cell, 5)
    assert found[0].grad_fn.name() == "_EagerBackward"
    assert "its step uses sum over the heads or over a constant" in caplog.text
    assert distance(found, everything(reference.run, cell, 5)) < 1e-11


def test_other_steps_run_as_python(caplog, monkeypatch):
    class Halves(Delta):
        def step(self, constants, inputs, state):
            output, (S,) = super().step(constants, inputs, state)
            return output, (torch.cat(S.split([1, 2], 2), 2),)

    monkeypatch.setattr(once, "_WARNED", set())
    cell = Halves().double()
    with caplog.at_level(logging.WARNING):
        found = everything(fused.run, cell, 5)
    assert found[0].grad_fn.name() == "_EagerBackward"
    assert [record.message for record in caplog.records] == [
        "Halves runs as Python instead of C, much slower: its step uses split in a step with heads"
    ]
    assert distance(found, everything(reference.run, cell, 5)) < 1e-11
    assert choose(Delta()).name == "fused"
    assert choose(Halves()).name == "reference"


@pytest.mark.parametrize("make", [Delta, Activated, pytest.param(Shared, marks=pytest.mark.slow)])
def test_gradients_can_be_differentiated_and_computed_twice(make):
    cell = make(1, 2, 2).double()
    inputs = torch.randn(3, 2, N, dtype=torch.float64, requires_grad=True)
    found = []
    for run in (fused.run, reference.run):
        loss = run(cell, inputs, cell.initial_state(2))[0].square().sum()
        first = torch.autograd.grad(loss, cell.W, retain_graph=True)[0]
        assert torch.equal(torch.autograd.grad(loss, cell.W, retain_graph=True)[0], first)
        (gradient,) = torch.autograd.grad(loss, cell.W, create_graph=True)
        found.append([first, *torch.autograd.grad(gradient.square().sum(), (cell.W, inputs))])
    assert distance(*found) < 1e-9

    def rerun(inputs):
        return fused.run(cell, inputs, cell.initial_state(2))[0]

    loss = checkpoint(rerun, inputs, use_reentrant=False).square().sum()
    assert distance(torch.autograd.grad(loss, [cell.W]), found[1][:1]) < 1e-11


def test_numbers_that_are_not_finite_spread_as_in_the_plain_loop():
    cell = mlstm(2).double()
    inputs = torch.randn(6, B, N, dtype=torch.float64)
    inputs[2, 0, 0], inputs[3, 1, 1] = torch.nan, torch.inf
    results = []
    for run in (fused.run, reference.run):
        outputs, final = run(cell, inputs, cell.initial_state(B))
        results.append([outputs, *tensors_of(final), *torch.autograd.grad(outputs[:, 2].sum(), [cell.b])])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [Delta, partial(wide, "hgrn2")])
def test_autocast_changes_nothing_in_a_step_without_products(make, dtype):
    cell = make()
    inputs = torch.randn(5, B, N)
    with torch.autocast("cpu", dtype):
        found, expected = (run(cell, inputs, cell.initial_state(B))[0] for run in (fused.run, reference.run))
    assert found.grad_fn.name() == "_HeadsBackward"
    assert distance([found], [expected]) < 1e-5


def test_autocast_rounds_the_factors_of_the_readout():
    cell, inputs = Shared(), torch.randn(5, B, N)
    exact = reference.run(cell, inputs, cell.initial_state(B))[0]
    for dtype, is_compiled in ((torch.bfloat16, True), (torch.float16, False)):
        with torch.autocast("cpu", dtype):
            outputs, _ = fused.run(cell, inputs, cell.initial_state(B))
        assert (outputs.grad_fn.name() == "_HeadsBackward") == is_compiled
        assert 1e-5 < distance([outputs], [exact]) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [lambda: mlstm(2, 16), lambda: Delta(2, 8, 16), steady, *(partial(wide, name) for name in ("hgrn2", "mamba2"))],
)
def test_single_precision_stays_near_double(make):
    single = make()
    found = everything(fused.run, single, 512)
    plain = everything(reference.run, single, 512)
    exact = everything(reference.run, single.double(), 512)
    assert {tensor.dtype for tensor in found} == {torch.float32}
    bound = 2 * distance(plain, exact)  # mlstm divides by sums that may cancel
    assert distance(found, exact) < max(1e-5, bound)


@pytest.fixture
def taken(monkeypatch):
    """The arrays that the engine allocates."""
    arrays = []

    def counted(shape, dtype):
        arrays.append(take(shape, dtype))
        return arrays[-1]

    for module in (head_kernel, kernel):
        monkeypatch.setattr(module, "take", counted)
    return arrays


@pytest.mark.parametrize("name", tiers.quick_if(["mlstm", "hgrn2", "mamba2"], "mlstm".__eq__))
def test_a_training_step_keeps_a_small_part_of_the_states(name, taken):
    T, cell = 1024, wide(name, 8)
    outputs, _ = fused.run(cell, torch.randn(T, B, N), cell.initial_state(B))
    outputs.sum().backward()
    # The arrays with T entries are the outputs and the gradients of the inputs; the others hold states.
    held = sum(tensor.numel() for tensor in taken if len(tensor) != T)
    every_state = T * sum(tensor.numel() for tensor in tensors_of(cell.initial_state(B)))
    assert every_state / 100 < held < every_state / 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlstm", "hgrn2", "mamba2"])
def test_all_arrays_of_a_training_step_are_small_beside_the_states(name, taken):
    T, cell = 1024, wide(name, 64)
    outputs, _ = fused.run(cell, torch.randn(T, B, N), cell.initial_state(B))
    outputs.sum().backward()
    every_state = T * sum(tensor.numel() for tensor in tensors_of(cell.initial_state(B)))
    assert sum(tensor.numel() for tensor in taken) < 0.15 * every_state


def test_explain_prints_the_step_of_a_head(capsys):
    assert __main__.main(["explain", "cell=mlstm"]) == 0
    printed = capsys.readouterr().out
    assert "def backward(" in printed
    assert "enum { HEADS = 1, RECORD = 48 };" in printed


def test_explain_prints_the_readout(capsys):
    for name in ("hgrn2", "mamba2"):
        assert __main__.main(["explain", f"cell={name}", "hidden_size=8", "cell.heads=2"]) == 0
        recurrence, readout = capsys.readouterr().out.split("/* The readout, ")
        assert "static void forward_step(" in recurrence
        assert "sqrt_" not in recurrence.partition("step.h")[2]  # the norm is in the readout
        assert "sqrt_" in readout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlstm", "hgrn2", "mamba2"])
def test_the_contract_of_a_cell_holds(name):
    contracts.check_cell(name)
    contracts.check_cell(name, heads=2)


def test_gradients_of_what_a_wide_cell_reads_are_joined_without_a_copy(monkeypatch):
    """The memory of input products is reused according to the width of the cell, not only to that of its inputs."""
    pairs, joined = [], products.joined
    monkeypatch.setattr(products, "joined", lambda parts: pairs.append((parts[0], joined(parts))) or pairs[-1][1])
    layer = Recurrent(cells.create("mlstm", input_size=2, hidden_size=64, heads=2))
    layer(torch.randn(128, 64, 2))[0].sum().backward()
    wide = [(first, whole) for first, whole in pairs if whole.shape[-1] == 4 * 64]
    assert [first.data_ptr() == whole.data_ptr() for first, whole in wide] == [True]


def test_a_call_is_independent_of_the_layout_and_the_numbers_of_the_call_before():
    """The kernel keeps the arrangement of its last call; every call differs from the one before it in one respect."""
    cell = cells.create("mlstm", input_size=N, hidden_size=8, heads=2)
    layer, twin = Recurrent(cell, backend="fused"), Recurrent(cell, backend="reference")
    wide = torch.randn(9, 6, 2 * N)
    state = twin(wide[..., :N])[1]
    turned = map_state(lambda part: part.transpose(0, -1).contiguous().transpose(0, -1), state)
    few = map_state(lambda part: part[:1], state)
    calls = [
        (wide[:1, :, :N], state),
        (wide[:1, :, N:], state),
        (wide[:1, :, N:], turned),
        (wide[:1, :1, N:], few),
        (wide[:7, :, :N].transpose(0, 1)[:, :6].contiguous().transpose(0, 1), state),
        (wide[:1, ::2, :N], map_state(lambda part: part[::2], state)),
    ]
    for gradients in (False, True, False):
        for inputs, before in calls:
            with torch.set_grad_enabled(gradients):
                found, wanted = (tensors_of(one(inputs, before)) for one in (layer, twin))
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        layer.double(), layer.float()


@pytest.mark.parametrize("gradients", [False, True])
def test_few_steps_run_where_they_take_less_time(gradients, monkeypatch):
    slow, plain = [], reference.run
    monkeypatch.setattr(reference, "run", lambda cell, *given, **more: slow.append(cell) or plain(cell, *given, **more))
    few, large = [cells.create("linear_attention", input_size=N, hidden_size=size) for size in (8, 128)]
    long = cells.create("mlstm", input_size=N, hidden_size=8)
    with torch.set_grad_enabled(gradients):
        for cell, steps in [(few, 1), (few, 2), (large, 1), (long, 1)]:
            Recurrent(cell)(torch.randn(steps, 4, N))
    assert slow == ([few, long] if gradients else [few])
