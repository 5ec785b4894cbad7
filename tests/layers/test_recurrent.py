import copy
import pickle
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from rnnlab import cells, engine
from rnnlab.cells import Cell
from rnnlab.engine.cpu.kernel import Kernel
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent, Stack, Zoneout, from_torch, to_torch
from rnnlab.trees import tensors_of

T, B, F, H = 6, 4, 3, 5
LENGTHS = [4, 6, 1, 4]  # in no order, the longest and the shortest possible among them

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
    ),
]
CELLS = {
    "rnn-tanh": ("rnn", {"activation": "tanh"}),
    "rnn-relu": ("rnn", {"activation": "relu"}),
    "lstm": ("lstm", {}),
    "gru-after": ("gru", {"reset": "after"}),
    "gru-before": ("gru", {"reset": "before"}),
}
NATIVE = [name for name in CELLS if name != "gru-before"]  # torch.nn has no GRU that resets before the product
RUNS = [(name, backend) for backend in ("reference", "fused") for name in CELLS] + [(name, "native") for name in NATIVE]
TORCH = {
    "rnn-tanh": (nn.RNN, {"nonlinearity": "tanh"}),
    "rnn-relu": (nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, {}),
    "gru-after": (nn.GRU, {}),
}


def randomize(module):
    # New biases are mostly zero, and a term that is zero cannot be seen to be missing.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return module


def make_layer(name, backend="reference", *, bias=True, dtype=torch.float64, device="cpu", **options):
    kind, cell_options = CELLS[name]
    cell = cells.create(kind, input_size=F, hidden_size=H, bias=bias, **cell_options)
    return randomize(Recurrent(cell, backend, **options)).to(device, dtype)


def draw(*shape, seed, like=None):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn if like is None else drawn.to(like)


def draw_state(layer, like=None):
    return tuple(draw(B, H, seed=10 + i, like=like) for i, _ in enumerate(layer.cell.states))


def loss_of(outputs, state):
    """A number on which every output and every final state has an influence of its own."""
    parts = [outputs, *tensors_of(state)]
    return sum((part * draw(*part.shape, seed=20 + i, like=part)).sum() for i, part in enumerate(parts))


def assert_close(actual, expected, tolerance=1e-12):
    """The largest error, relative to the largest magnitude."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def everything(layer, lengths=None):
    """Outputs, final states and every gradient, by name."""
    like = next(layer.parameters())
    inputs = draw(T, B, F, seed=2, like=like).requires_grad_()
    state = tuple(part.requires_grad_() for part in draw_state(layer, like))
    outputs, final = layer(inputs, state, lengths)
    loss_of(outputs, final).backward()
    named = {"outputs": outputs, "inputs.grad": inputs.grad}
    named |= {f"final.{i}": part for i, part in enumerate(final)}
    named |= {f"state.{i}.grad": part.grad for i, part in enumerate(state)}
    named |= {f"{key}.grad": parameter.grad for key, parameter in layer.named_parameters()}
    return {key: value.detach() for key, value in named.items()}


def compare_backends(name, bias, with_lengths, dtype, tolerance, device="cpu"):
    lengths = torch.tensor(LENGTHS, device=device) if with_lengths else None
    reference = make_layer(name, "reference", bias=bias, dtype=dtype, device=device)
    native = make_layer(name, "native", bias=bias, dtype=dtype, device=device)
    native.load_state_dict(reference.state_dict())
    expected, actual = everything(reference, lengths), everything(native, lengths)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert value.any(), f"{key} is all zero, which tells nothing"
        assert_close(actual[key], value, tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("with_lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("name", NATIVE)
def test_backends_agree_in_float64(name, bias, with_lengths, device):
    compare_backends(name, bias, with_lengths, torch.float64, 1e-10, device)


# On a CPU only: cuDNN may compute float32 in TF32, with three digits.
@pytest.mark.parametrize("with_lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("name", NATIVE)
def test_backends_agree_in_float32(name, bias, with_lengths):
    compare_backends(name, bias, with_lengths, torch.float32, 1e-5)


def torch_module(name, num_layers, bias, **options):
    kind, own = TORCH[name]
    return randomize(kind(F, H, num_layers, bias=bias, **own, **options).double())


def compare_with_torch(stack, module):
    """Outputs, final states and every gradient; their state is [layers, B, H], in a tuple for an LSTM only."""
    inputs = draw(T, B, F, seed=2)
    parts = len(stack.layers[0].cell.states)
    initial = [draw(len(stack.layers), B, H, seed=10 + part) for part in range(parts)]

    ours_inputs, ours_initial = inputs.clone().requires_grad_(), [part.clone().requires_grad_() for part in initial]
    outputs, final = stack(ours_inputs, tuple(zip(*[part.unbind() for part in ours_initial], strict=True)))
    final = [torch.stack(part) for part in zip(*final, strict=True)]
    loss_of(outputs, final).backward()

    torch_inputs, torch_initial = inputs.clone().requires_grad_(), [part.clone().requires_grad_() for part in initial]
    expected, expected_final = module(torch_inputs, tuple(torch_initial) if parts > 1 else torch_initial[0])
    expected_final = expected_final if parts > 1 else [expected_final]
    loss_of(expected, list(expected_final)).backward()

    assert_close(outputs, expected, 1e-10)
    for actual, wanted in zip(final, expected_final, strict=True):
        assert_close(actual, wanted, 1e-10)
    assert_close(ours_inputs.grad, torch_inputs.grad, 1e-10)
    for actual, wanted in zip(ours_initial, torch_initial, strict=True):
        assert_close(actual.grad, wanted.grad, 1e-10)
    for layer, (W, U, *biases) in zip(stack.layers, module.all_weights, strict=True):
        assert_close(layer.cell.W.grad, W.grad, 1e-10)
        assert_close(layer.cell.U.grad, U.grad, 1e-10)
        assert (layer.cell.b is None) == (not biases)
        if biases:
            assert_close(layer.cell.b.grad, biases[0].grad, 1e-10)
        if biases and hasattr(layer.cell, "b_u"):
            assert_close(layer.cell.b_u.grad, biases[1].grad[2 * H :], 1e-10)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("name", TORCH)
def test_weights_from_torch(name, num_layers, bias):
    module = torch_module(name, num_layers, bias)
    stack = from_torch(module, backend="reference")
    assert [layer.choice.name for layer in stack.layers] == ["reference"] * num_layers
    compare_with_torch(stack, module)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("name", TORCH)
def test_weights_to_torch(name, num_layers, bias):
    kind, options = CELLS[name]

    def cell(input_size, hidden_size):
        return cells.create(kind, input_size=input_size, hidden_size=hidden_size, bias=bias, **options)

    stack = randomize(Stack.build(cell, F, H, num_layers, backend="reference").double())
    module = to_torch(stack)
    assert type(module) is TORCH[name][0]
    compare_with_torch(stack, module)


def test_conversion_keeps_dropout_mode_and_dtype_both_ways():
    module = torch_module("lstm", 2, True, dropout=0.25).eval()
    stack = from_torch(module)
    assert (stack.dropout, stack.training, stack.layers[0].cell.W.dtype) == (0.25, False, torch.float64)
    back = to_torch(stack)
    assert (back.dropout, back.training, back.weight_hh_l1.dtype) == (0.25, False, torch.float64)
    assert to_torch(stack.train()).training


def test_batch_first_is_not_taken_over():
    module = torch_module("gru-after", 1, True, batch_first=True)
    inputs = draw(T, B, F, seed=2)
    assert_close(from_torch(module)(inputs)[0], module(inputs.transpose(0, 1))[0].transpose(0, 1))


def test_what_torch_does_not_have_is_refused():
    with pytest.raises(InputError, match="sums of directions"):
        to_torch(Stack.build(cells.find("gru"), F, H, 1, bidirectional="sum"))
    with pytest.raises(InputError, match="no norm and no connection"):
        to_torch(Stack([make_layer("lstm"), Recurrent(cells.create("rnn", input_size=H, hidden_size=H))], norm="rms"))
    with pytest.raises(InputError, match="projection_size=5 must be below hidden_size=5"):
        to_torch(Stack([Recurrent(cells.create("lstmp", input_size=F, hidden_size=H, projection_size=H))]))
    with pytest.raises(InputError, match=r"torch\.nn has no layer for a stack of GRU"):
        to_torch(Stack([make_layer("gru-before")]))
    mixed = [Recurrent(cells.create("gru", input_size=F, hidden_size=H))]
    mixed.append(Recurrent(cells.create("lstm", input_size=H, hidden_size=H)))
    with pytest.raises(InputError, match=r"torch\.nn has no layer for a stack of GRU.*, LSTM"):
        to_torch(Stack(mixed))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_each_sequence_ends_at_its_own_length(name, backend, device):
    layer = make_layer(name, backend, device=device)
    inputs, state = draw(T, B, F, seed=2).to(device), draw_state(layer, next(layer.parameters()))
    outputs, final = layer(inputs, state, torch.tensor(LENGTHS, device=device))
    for b, length in enumerate(LENGTHS):
        alone, alone_final = layer(inputs[:length, b : b + 1], tuple(part[b : b + 1] for part in state))
        assert_close(outputs[:length, b], alone[:, 0])
        assert not outputs[length:, b].any()
        for part, wanted in zip(final, alone_final, strict=True):
            assert_close(part[b], wanted[0])


@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_what_stands_past_the_end_has_no_influence(name, backend):
    layer = make_layer(name, backend)
    inputs, lengths = draw(T, B, F, seed=2).requires_grad_(), torch.tensor(LENGTHS)
    past = torch.arange(T).unsqueeze(1) >= lengths
    outputs, final = layer(inputs, None, lengths)
    loss_of(outputs, final).backward()
    assert inputs.grad[~past].all()
    assert not inputs.grad[past].any()
    other = inputs.detach().clone()
    other[past] = 1e3
    for actual, wanted in zip(tensors_of(layer(other, None, lengths)), [outputs, *final], strict=True):
        assert_close(actual, wanted)


@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_lengths_that_are_all_full_or_all_one(name, backend):
    layer = make_layer(name, backend)
    inputs = draw(T, B, F, seed=2)
    full = layer(inputs, None, torch.full((B,), T))
    for actual, wanted in zip(tensors_of(full), tensors_of(layer(inputs)), strict=True):
        assert_close(actual, wanted)
    outputs, final = layer(inputs, None, torch.ones(B, dtype=torch.int64))
    first, first_final = layer(inputs[:1])
    assert outputs.shape == (T, B, H), "padded to the steps given, not to the longest length"
    assert_close(outputs[:1], first)
    assert not outputs[1:].any()
    for actual, wanted in zip(final, first_final, strict=True):
        assert_close(actual, wanted)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (torch.tensor([4, 0, 1, 4]), "from 0 to 4; they must be between 1 and 6 steps"),
        (torch.tensor([4, 7, 1, 4]), "from 1 to 7; they must be between 1 and 6 steps"),
        (torch.tensor([4, -1, 1, 4]), "from -1 to 4"),
        (torch.tensor([4.0, 6.0, 1.0, 4.0]), r"torch.float32 \[4\]; they must be integers \[4\]"),
        (torch.tensor([4, 6, 1]), r"torch.int64 \[3\]; they must be integers \[4\]"),
        (torch.tensor([[4], [6], [1], [4]]), r"torch.int64 \[4, 1\]; they must be integers \[4\]"),
        (torch.tensor(4), r"torch.int64 \[\]; they must be integers \[4\]"),
    ],
    ids=["zero", "too-long", "negative", "float", "too-few", "column", "scalar"],
)
@pytest.mark.parametrize("backend", ["reference", "native"])
def test_wrong_lengths_are_refused(backend, lengths, message):
    with pytest.raises(InputError, match=message):
        make_layer("lstm", backend)(draw(T, B, F, seed=2), None, lengths)


@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_a_sequence_may_be_split_and_the_state_passed_on(name, backend):
    layer = make_layer(name, backend)
    inputs = draw(T, B, F, seed=2)
    outputs, final = layer(inputs)
    first, state = layer(inputs[:2])
    rest, split_final = layer(inputs[2:], state)
    assert_close(torch.cat([first, rest]), outputs)
    for actual, wanted in zip(split_final, final, strict=True):
        assert_close(actual, wanted)


@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_no_state_means_the_initial_state(name, backend):
    layer = make_layer(name, backend)
    inputs = draw(T, B, F, seed=2)
    state = layer.initial_state(B)
    assert [part.shape for part in state] == [(B, H)] * len(layer.cell.states)
    assert not any(part.any() for part in state)
    assert torch.equal(layer(inputs)[0], layer(inputs, state)[0])


@pytest.mark.parametrize("with_lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_a_learned_initial_state_is_a_parameter(name, backend, with_lengths):
    fixed = make_layer(name, backend)
    layer = make_layer(name, backend, initial_state="learned")
    extra = layer.state_dict().keys() - fixed.state_dict().keys()
    assert len(extra) == len(layer.cell.states)

    inputs, lengths = draw(T, B, F, seed=2), torch.tensor(LENGTHS) if with_lengths else None
    outputs, final = layer(inputs, None, lengths)
    loss_of(outputs, final).backward()

    # the same numbers given as a state, one row for every sequence
    fixed.load_state_dict({key: value for key, value in layer.state_dict().items() if key not in extra})
    given = tuple(part.detach().clone().requires_grad_() for part in layer.initial_state(B))
    wanted, wanted_final = fixed(inputs, given, lengths)
    loss_of(wanted, wanted_final).backward()
    assert_close(outputs, wanted)
    for actual, part in zip([layer.get_parameter(key) for key in sorted(extra)], given, strict=True):
        assert part.grad.any()
        assert_close(actual.grad, part.grad.sum(0))


def test_a_learned_initial_state_begins_as_the_cells_own_and_is_saved():
    def new():
        return Recurrent(cells.create("lstm", input_size=F, hidden_size=H), initial_state="learned")

    layer, other = new(), new()
    assert not any(part.any() for part in layer.initial_state(B))
    randomize(layer)
    inputs = draw(T, B, F, seed=2).float()
    assert not torch.equal(layer(inputs)[0], other(inputs)[0])
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(inputs)[0], other(inputs)[0])


def test_autocast_is_a_reason_to_choose_again(monkeypatch):
    layer = Recurrent(cells.create("lstm", input_size=3, hidden_size=4))
    chosen, inputs = [], torch.randn(5, 2, 3)
    choose = engine.choose
    monkeypatch.setattr(engine, "choose", lambda cell, backend: chosen.append(backend) or choose(cell, backend))
    layer(inputs)
    assert chosen == []
    with torch.autocast("cpu", torch.bfloat16):
        layer(inputs)
        layer(inputs)
    assert chosen == ["auto"]


def test_the_choice_says_what_runs_and_why(monkeypatch):
    monkeypatch.setenv("RNNLAB_GEMM", "blas")

    def choice(name, backend):
        layer = make_layer(name, backend)
        return layer.choice.name, layer.choice.reason

    assert choice("lstm", "reference") == ("reference", "requested")
    assert choice("lstm", "native") == ("native", "requested")
    compiled = "its step is compiled"
    assert choice("lstm", "auto") == ("fused", f"{compiled}; torch.nn's LSTM runs inference")
    assert choice("gru-before", "auto") == ("fused", compiled)
    monkeypatch.setenv("RNNLAB_GEMM", "own")
    assert choice("lstm", "auto") == ("fused", f"{compiled}; torch.nn's LSTM runs inference")
    monkeypatch.setattr(sys.modules["rnnlab.engine.choose"], "WIDE", H)
    assert choice("lstm", "auto") == ("fused", compiled)


@pytest.mark.parametrize("reverse", [False, True])
def test_steps_past_the_longest_sequence_are_not_run(reverse, monkeypatch):
    """As where a whole data set is padded to one length."""
    layer = Recurrent(make_layer("lstm", "fused").cell, "fused", reverse=reverse)
    inputs, lengths, seen = draw(T + 3, B, F, seed=1).requires_grad_(), torch.tensor([2, T, 1, 3]), []

    def looks_on(kernel, name, memory, constants, steps, *others, call=Kernel.call):
        seen.append(steps)
        return call(kernel, name, memory, constants, steps, *others)

    monkeypatch.setattr(Kernel, "call", looks_on)
    outputs, state = layer(inputs, lengths=lengths)
    assert seen == [T]
    expected, expected_state = layer(inputs[:T], lengths=lengths)
    torch.testing.assert_close(outputs[:T], expected)
    torch.testing.assert_close(state, expected_state)
    assert len(outputs) == T + 3
    assert not outputs[T:].any()
    (gradient,) = torch.autograd.grad(outputs.sum(), inputs)
    assert not gradient[T:].any()


@pytest.mark.parametrize("is_wanted", [False, True], ids=["BLAS", "own products"])
@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (1, 2), (8, 2)])
@pytest.mark.parametrize("is_wide", [False, True])
def test_an_lstm_without_gradients_goes_the_faster_way(rows, threads, is_wide, is_wanted, monkeypatch):
    ran, way = [], engine.native.run
    monkeypatch.setattr(sys.modules["rnnlab.engine.choose"], "WIDE", H if is_wide else H + 1)
    monkeypatch.setenv("RNNLAB_GEMM", "own" if is_wanted else "blas")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(engine.native, "run", lambda *given: ran.append(given) or way(*given))
    layer, inputs = make_layer("lstm", "auto"), draw(T, rows, F, seed=1)
    with torch.no_grad():
        outputs = layer(inputs)[0]
    assert bool(ran) != (is_wanted and is_wide)
    torch.testing.assert_close(outputs, layer(inputs)[0].detach(), rtol=0, atol=1e-12)


def test_a_backend_that_cannot_run_the_cell_is_refused():
    with pytest.raises(InputError, match=r"'native' cannot run GRU as configured.*'reference' can"):
        make_layer("gru-before", "native")
    with pytest.raises(
        InputError, match="unknown backend 'cudnn'; the choices are auto, reference, fused, scan, native"
    ):
        make_layer("lstm", "cudnn")
    with pytest.raises(InputError, match="initial_state='learnt' is not one of zero, learned"):
        make_layer("lstm", initial_state="learnt")


@pytest.mark.parametrize("shape", [(T, B), (T, B, F + 1), (0, B, F), (T, B, F, 1), (F,)], ids=str)
@pytest.mark.parametrize("backend", ["reference", "native"])
def test_inputs_of_a_wrong_shape_are_refused(backend, shape):
    with pytest.raises(InputError, match=r"expected \[T, B, 3\] with T at least 1") as error:
        make_layer("gru-after", backend)(torch.zeros(shape, dtype=torch.float64))
    assert str(list(shape)) in str(error.value)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_a_state_for_another_batch_size_is_refused(backend):
    layer = make_layer("lstm", backend)
    with pytest.raises(InputError, match=r"the state has shapes \[\[3, 5\], \[3, 5\]\]; the cell expects"):
        layer(draw(T, B, F, seed=2), layer.initial_state(B - 1))
    h, _ = layer.initial_state(B)
    _, c = layer.initial_state(1)  # would broadcast
    with pytest.raises(InputError, match=r"the state has shapes \[\[4, 5\], \[1, 5\]\]; the cell expects"):
        layer(draw(T, B, F, seed=2), (h, c))


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_a_copy_gives_the_same_and_stands_alone(name, backend, again):
    layer = make_layer(name, backend, initial_state="learned")
    inputs = draw(T, B, F, seed=2)
    before = layer(inputs)[0]
    copied = again(layer)
    assert copied.choice == layer.choice
    assert torch.equal(copied(inputs)[0], before)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(layer(inputs)[0], before)


@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_backward_twice_adds_up(name, backend):
    layer = make_layer(name, backend)
    loss = loss_of(*layer(draw(T, B, F, seed=2)))
    loss.backward(retain_graph=True)
    once = {key: parameter.grad.clone() for key, parameter in layer.named_parameters()}
    loss.backward()
    for key, parameter in layer.named_parameters():
        assert_close(parameter.grad, 2 * once[key])


@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_called_twice_before_backward(name, backend):
    layer = make_layer(name, backend)
    batches = [draw(T, B, F, seed=2), draw(T, B, F, seed=3)]
    apart = [torch.autograd.grad(loss_of(*layer(batch)), list(layer.parameters())) for batch in batches]
    results = [layer(batch) for batch in batches]
    sum(loss_of(*result) for result in results).backward()
    for parameter, first, second in zip(layer.parameters(), *apart, strict=True):
        assert_close(parameter.grad, first + second)


class Attentive(Cell):
    """Reads a memory ``[B, M, hidden_size]`` at every step, weighted by how near its rows are to the state."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.W = nn.Parameter(torch.randn(hidden_size, input_size))

    def prepare(self, inputs, memory):
        return memory, linear(inputs, self.W)

    def step(self, memory, x, state):
        (h,) = state
        nearness = (memory @ h.unsqueeze(-1)).softmax(1)
        h = (x + (nearness * memory).sum(1)).tanh()
        return h, (h,)


class Projected(Cell):
    """An output narrower than the state: P h with P [2, hidden_size]."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size, output_size=2)
        self.W = nn.Parameter(torch.randn(hidden_size, input_size))
        self.P = nn.Parameter(torch.randn(2, hidden_size))

    def prepare(self, inputs):
        return self.P, linear(inputs, self.W)

    def step(self, P, x, state):
        (h,) = state
        h = (x + 0.5 * h).tanh()
        return linear(h, P), (h,)


class Counting(Cell):
    """A nested state: a real vector, and the number of steps so far next to the last two inputs.

    What it has per step is nested too: the input, and how many steps it stands for.
    """

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.W = nn.Parameter(torch.randn(hidden_size, input_size))

    def prepare(self, inputs):
        return self.W, (inputs, torch.ones(inputs.shape[:2], dtype=torch.int64))

    def step(self, W, inputs, state):
        (x, elapsed), (h, (count, recent)) = inputs, state
        h = (linear(x, W) + 0.5 * h).tanh()
        return h, (h, (count + elapsed, torch.stack([recent[:, 1], x], dim=1)))

    def initial_state(self, batch_size):
        h = self.W.new_zeros(batch_size, self.hidden_size)
        return h, (torch.zeros(batch_size, dtype=torch.int64), self.W.new_zeros(batch_size, 2, self.input_size))


def test_a_cell_may_ask_for_more_than_its_inputs():
    layer = Recurrent(Attentive(F, H)).double()
    inputs, memory = draw(T, B, F, seed=2), draw(B, 3, H, seed=4).requires_grad_()
    lengths = torch.tensor(LENGTHS)
    outputs, (final,) = layer(inputs, lengths=lengths, memory=memory)
    for b, length in enumerate(LENGTHS):
        h = torch.zeros(H, dtype=torch.float64)
        for t in range(length):
            h = (layer.cell.W @ inputs[t, b] + (memory[b] @ h).softmax(0) @ memory[b]).tanh()
            assert_close(outputs[t, b], h)
        assert_close(final[b], h)
    loss_of(outputs, (final,)).backward()
    assert memory.grad.abs().sum((1, 2)).all()
    with pytest.raises(TypeError, match="memory"):
        layer(inputs)


@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_a_plain_cell_does_not_swallow_what_it_does_not_know(name, backend):
    with pytest.raises(TypeError, match="memory"):
        make_layer(name, backend)(draw(T, B, F, seed=2), memory=draw(B, 3, H, seed=4))


def test_a_cell_with_an_output_narrower_than_its_state_can_be_stacked():
    stack = Stack.build(Projected, F, H, 2).double()
    assert [layer.choice.name for layer in stack.layers] == ["fused", "fused"]
    assert (stack.output_size, stack.layers[1].cell.input_size) == (2, 2)
    inputs, lengths = draw(T, B, F, seed=2), torch.tensor(LENGTHS)
    outputs, final = stack(inputs, lengths=lengths)
    assert outputs.shape == (T, B, 2)
    assert [[part.shape for part in state] for state in final] == [[(B, H)], [(B, H)]]
    below, above = (layer.cell for layer in stack.layers)
    for b, length in enumerate(LENGTHS):
        h, k = torch.zeros(2, H, dtype=torch.float64)
        for t in range(length):
            h = (below.W @ inputs[t, b] + 0.5 * h).tanh()
            k = (above.W @ (below.P @ h) + 0.5 * k).tanh()
            assert_close(outputs[t, b], above.P @ k)
        assert not outputs[length:, b].any()
        assert_close(final[0][0][b], h)
        assert_close(final[1][0][b], k)


def test_a_state_may_be_nested_and_of_any_dtype():
    layer = Recurrent(Counting(F, H)).double()
    inputs = draw(T, B, F, seed=2)
    outputs, (h, (count, recent)) = layer(inputs, lengths=torch.tensor(LENGTHS))
    assert count.dtype == torch.int64
    assert count.tolist() == LENGTHS
    for b, length in enumerate(LENGTHS):
        assert torch.equal(h[b], outputs[length - 1, b])
        assert torch.equal(recent[b, 1], inputs[length - 1, b])


def test_a_state_that_does_not_fit_is_refused():
    layer = Recurrent(cells.create("lstm", input_size=3, hidden_size=4))
    inputs = torch.randn(5, 2, 3)
    wide, narrow = torch.zeros(2, 4), torch.zeros(2, 1)
    for state in [(wide, narrow), (wide,), (wide, wide, wide), wide]:
        with pytest.raises(InputError, match="the state has shapes"):
            layer(inputs, state)


def test_what_is_no_cell_and_no_sequence_is_refused():
    cell = cells.create("lstm", input_size=3, hidden_size=4)
    layer, inputs = Recurrent(cell), torch.randn(5, 2, 3)
    with pytest.raises(InputError, match=r"inputs must be a tensor \[T, B, 3\], not ndarray"):
        layer(inputs.numpy())
    with pytest.raises(InputError, match=r"inputs are torch\.float64, the cell's parameters torch\.float32"):
        layer(inputs.double())
    with pytest.raises(InputError, match=r"inputs are torch\.int64"):
        layer(torch.ones(5, 2, 3, dtype=torch.int64))
    with pytest.raises(InputError, match=r"lengths must be a tensor of integers \[2\], not list"):
        layer(inputs, lengths=[5, 3])
    with pytest.raises(InputError, match="expected a Cell, got str"):
        Recurrent("lstm")
    with pytest.raises(InputError, match="Cell has no parameters"):
        Recurrent(cells.Cell(3, 4))
    with pytest.raises(InputError, match=r"expected a torch\.nn\.RNN, LSTM or GRU, got Linear"):
        from_torch(torch.nn.Linear(3, 4))
    with pytest.raises(InputError, match=r"zoneout=0\.1 must be a list, such as \[0\.1\]"):
        Zoneout(cell, 0.1)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_nan_in_the_padding_reaches_nothing(backend):
    layer = Recurrent(cells.create("gru", input_size=3, hidden_size=4), backend)
    inputs = torch.randn(5, 2, 3)
    inputs[3:, 0] = torch.nan
    outputs, _ = layer(inputs, lengths=torch.tensor([3, 5]))
    outputs.sum().backward()
    assert outputs.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_gradients_flow_in_evaluation_mode_too():
    # cuDNN keeps what its backward needs only where it is told that it trains.
    layer = Recurrent(cells.create("gru", input_size=3, hidden_size=4), "native").eval()
    layer(torch.randn(5, 2, 3))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_what_torch_cannot_hold_is_not_converted():
    def layer(width, hidden, **options):
        return Recurrent(cells.create("rnn", input_size=width, hidden_size=hidden, **options))

    with pytest.raises(InputError, match="share mode, biases and width"):
        to_torch(Stack([layer(3, 4), layer(4, 1)]))
    with pytest.raises(InputError, match="share mode, biases and width"):
        to_torch(Stack([layer(3, 4), layer(4, 4, bias=False)]))
    with pytest.raises(InputError, match="learned initial state"):
        to_torch(Stack([Recurrent(cells.create("rnn", input_size=3, hidden_size=4), initial_state="learned")]))
    assert to_torch(Stack([layer(3, 4)], dropout=0.3)).dropout == 0  # one layer has nothing between layers


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("backend", ["reference", "fused", "native"])
def test_in_reverse_it_is_the_second_direction_of_torch(backend, lengths):
    both = randomize(nn.GRU(F, H, bidirectional=True).double())
    layer = make_layer("gru-after", backend, reverse=True)
    layer.cell.load_native(
        tuple(getattr(both, f"{name}_l0_reverse") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    )
    inputs = draw(T, B, F, seed=2)
    if lengths is None:
        expected, final = both(inputs)
    else:
        packed = nn.utils.rnn.pack_padded_sequence(inputs, torch.tensor(lengths), enforce_sorted=False)
        expected, final = both(packed)
        expected = nn.utils.rnn.pad_packed_sequence(expected)[0]
    outputs, (h,) = layer(inputs, lengths=None if lengths is None else torch.tensor(lengths))
    assert_close(outputs, expected[..., H:], 1e-10)
    assert_close(h, final[1], 1e-10)
