"""Cells as Triton kernels: without a GPU Triton's interpreter runs them, one program after the other."""

import contextlib
import copy
import importlib
import logging
import re

import pytest
import tiers
import torch
from outside.shapes import Highway, LayerNormLSTM, Regularised
from rounding import RoundedProduct
from torch.nn.functional import linear

from rnnlab import cells
from rnnlab.cells import Cell
from rnnlab.engine import fused, once, reference, traced
from rnnlab.engine.cache import NoCompiler
from rnnlab.engine.gpu import emit, fit, graphs, load
from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.ir.program import Unsupported
from rnnlab.engine.loops.lower import lower
from rnnlab.layers import Recurrent
from rnnlab.trees import map_state, tensors_of

# The interpreter computes the padding of tiles with NumPy, which warns where a GPU says nothing.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow):RuntimeWarning")

choose = importlib.import_module("rnnlab.engine.choose")  # the package has a function of this name
NOT_LOWERED = tiers.MATRIX | {"s4d"}  # states of matrices, and of complex numbers
CELLS = [name for name in cells.available() if name not in NOT_LOWERED]


def cell_of(kind, width, inputs=3):
    """A cell in evaluation mode whose biases and gains are not all the same."""
    torch.manual_seed(0)
    if not isinstance(kind, str):
        cell = kind(inputs, width)
    else:
        multiple = cells.find(kind).width_multiple()
        cell = cells.create(kind, input_size=inputs, hidden_size=-(-width // multiple) * multiple)
    with torch.no_grad():
        for parameter in cell.parameters():
            if parameter.requires_grad and parameter.dim() == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return cell.eval()


def results_of(run, cell, inputs, state, lengths):
    """Outputs, final states and gradients of a weighted sum of both, in training and in inference, by name."""
    inputs = inputs.clone().requires_grad_()
    state = map_state(lambda tensor: tensor.clone().requires_grad_(), state)
    outputs, final = run(cell, inputs, state, lengths)
    found = {"outputs": outputs} | {f"final {i}": tensor for i, tensor in enumerate(tensors_of(final))}
    draw = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(tensor.shape, generator=draw, device="cpu").to(tensor) for name, tensor in found.items()
    }
    loss = sum((tensor * weights[name]).sum() for name, tensor in found.items())
    leaves = {"inputs": inputs} | {f"state {i}": tensor for i, tensor in enumerate(tensors_of(state))}
    leaves |= {name: parameter for name, parameter in cell.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found |= {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True) if g is not None}
    with torch.no_grad():
        outputs, final = run(cell, inputs, state, lengths)
    return found | {"inference": outputs} | {f"inferred {i}": tensor for i, tensor in enumerate(tensors_of(final))}


def check(kernels, cell, steps, rows, lengths, tolerance=1e-5):
    """Compare the kernels with the plain loop in float64; return the largest error relative to a tensor's largest."""
    torch.manual_seed(2)
    inputs = torch.randn(steps, rows, cell.input_size)
    state = map_state(lambda tensor: tensor + 0.1 * torch.randn_like(tensor), cell.initial_state(rows))
    lengths = torch.randint(1, steps + 1, (rows,)) if lengths else None
    kernels.calls.clear()
    found = results_of(fused.run, cell, inputs, state, lengths)
    assert kernels.calls == ["forward", "backward", "inference"]
    double = copy.deepcopy(cell).double()
    expected = results_of(reference.run, double, inputs.double(), map_state(torch.Tensor.double, state), lengths)
    assert found.keys() == expected.keys()
    errors = {
        name: ((found[name] - tensor).abs().max() / tensor.abs().max().clamp_min(1e-3)).item()
        for name, tensor in expected.items()
    }
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not wrong, wrong
    return max(errors.values())


QUICK = {(name, True) for name in ("lstm", "gru", "rnn", "mingru", "lmu", "lif", "slstm")} | {
    ("lstm", False),
    ("lmu", False),
}


@pytest.mark.parametrize(
    ("name", "lengths"),
    tiers.quick_if(((name, lengths) for name in CELLS for lengths in (False, True)), QUICK.__contains__),
)
def test_one_program_runs_every_time_step(kernels, name, lengths):
    check(kernels, cell_of(name, 6), 4, 5, lengths)


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("name", tiers.quick_if(CELLS, {"gru", "peephole"}.__contains__))
def test_programs_share_the_columns(kernels, name, lengths):
    kernels.columns = 16
    check(kernels, cell_of(name, 20), 4, 5, lengths)


@pytest.mark.parametrize("columns", [0, 16])
@pytest.mark.parametrize(
    "kind", tiers.quick_if([Regularised, LayerNormLSTM, Highway], lambda kind: kind is Regularised)
)
def test_cells_from_outside(kernels, kind, columns):
    kernels.columns = columns
    cell = cell_of(kind, 20)
    check(kernels, cell, 2, 17, True)  # more rows than one program has


def test_masks_that_differ_between_rows(kernels):
    """A constant with a row for every sequence, as the masks of a regulariser are, and its gradient."""

    class Masked(Cell):
        def __init__(self, input_size, hidden_size):
            super().__init__(input_size, hidden_size)
            self.U = torch.nn.Parameter(torch.randn(hidden_size, hidden_size) / 4)
            self.gain = torch.nn.Parameter(torch.ones(hidden_size))

        def prepare(self, inputs):
            rows = torch.arange(inputs.shape[1], dtype=inputs.dtype, device=inputs.device).unsqueeze(1)
            return (self.U, (rows % 3 - 1) * self.gain), inputs

        def step(self, constants, x, state):
            U, mask = constants
            new = (x + linear(state[0] * mask, U)).tanh()
            return new, (new,)

    for columns in (0, 16):
        kernels.columns = columns
        check(kernels, cell_of(Masked, 20, inputs=20), 2, 18, True)


@pytest.mark.parametrize(
    ("name", "width", "columns", "steps", "rows"),
    tiers.every(
        4,
        [
            ("lstm", 33, 0, 3, 1),
            ("lstm", 64, 0, 40, 3),
            ("gru", 70, 16, 3, 37),
            ("layernorm_gru", 33, 16, 3, 5),
            ("indrnn", 200, 0, 5, 3),
            ("lstmp", 100, 16, 3, 5),
            ("rnn", 129, 0, 200, 2),
            ("layernorm_lstm", 70, 0, 6, 40),
        ],
    ),
)
def test_sizes_that_are_no_powers_of_two(kernels, name, width, columns, steps, rows):
    kernels.columns = columns
    check(kernels, cell_of(name, width), steps, rows, True)


@pytest.mark.parametrize("columns", [0, 16])
def test_products_of_bfloat16(kernels, columns, monkeypatch):
    """Against a transcription that rounds the same factors; float32 is what everything else is computed in."""
    kernels.columns = columns
    monkeypatch.setattr(fused, "precision", lambda device, dtype: "bf16")
    cell = cell_of("rnn", 20)
    inputs, state = torch.randn(6, 5, 3), cell.initial_state(5)
    found = results_of(fused.run, cell, inputs, state, None)

    def transcribed(cell, inputs, state, lengths):
        (U, *others), prepared = cell.prepare(inputs)
        bias, h, outputs = sum(others), state[0], []
        for x in prepared:
            h = torch.tanh(x + bias + RoundedProduct.apply(h, U))
            outputs.append(h)
        return torch.stack(outputs), (h,)

    expected = results_of(transcribed, cell, inputs, state, None)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5)
    exact = results_of(reference.run, cell, inputs, state, None)
    assert (found["outputs"] - exact["outputs"]).abs().max() > 1e-4, "nothing was rounded"


class Backwards:
    """Runs the programs of a launch from the last to the first."""

    @contextlib.contextmanager
    def __call__(self):
        from triton.runtime.interpreter import interpreter_builder as builder

        forwards = builder.set_grid_idx

        def set_grid_idx(*index):
            forwards(*(size - 1 - i for size, i in zip(builder.grid_dim, index, strict=True)))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(builder, "set_grid_idx", set_grid_idx, raising=False)
            yield


@pytest.mark.parametrize("name", tiers.every(3, ["lstm", "layernorm_rnn", "mut1"]))
def test_programs_of_a_launch_may_run_in_any_order(kernels, name):
    if kernels.device.type != "cpu":
        pytest.skip("a GPU chooses the order")
    kernels.columns = 16
    with Backwards()():
        check(kernels, cell_of(name, 24), 2, 17, False)


def test_the_order_shows_where_a_program_reads_what_another_writes(kernels, monkeypatch):
    """The same with all of a step in one kernel, which is wrong."""
    if kernels.device.type != "cpu":
        pytest.skip("a GPU chooses the order")

    def all_in_one(self):
        kernel = emit._Kernel(self)
        for stage in range(self.function.stages):
            for loop in self.function.loops:
                if loop.stage == stage:
                    kernel.loop(loop)
            for number, product in enumerate(self.function.products):
                if product.stage == stage:
                    kernel.product(number, product)
        return [kernel]

    kernels.columns = 16
    monkeypatch.setattr(emit.Source, "_kernels", all_in_one)
    with pytest.raises(AssertionError, match="gradient of"):
        check(kernels, cell_of("lstm", 24), 2, 5, False)


class Again:
    """Records launches in order to make them again."""

    recorded = []

    def __init__(self, device):
        pass

    def record(self, function, warm=False):
        assert warm, "launches change memory, so they must not be tried first"
        self.recorded.append(function)
        return None, function

    @contextlib.contextmanager
    def alone(self):
        yield

    def wait(self):
        pass


def test_recorded_launches_serve_every_number_of_steps(kernels, monkeypatch):
    kernels.columns = 16
    monkeypatch.setattr(graphs, "_RECORDER", {})
    monkeypatch.setattr(Again, "recorded", [])
    monkeypatch.setattr(graphs.Chunks, "COUNTS", (4, 2, 1))
    monkeypatch.setitem(graphs.RECORDERS, kernels.device.type, Again)
    cell = cell_of("rnn", 20)
    counts = []
    for steps in (1, 7, 4):
        check(kernels, cell, steps, 5, False)
        counts.append(len(Again.recorded))
    # Nothing at first; then graphs of 4, 2 and 1 steps for forward, backward and inference.
    assert counts == [0, 9, 9]
    with pytest.MonkeyPatch.context() as patch:  # as within a graph that the user records
        patch.delitem(graphs.RECORDERS, kernels.device.type)
        check(kernels, cell, 2, 5, False)
    check(kernels, cell, 1, 6, False)
    assert len(Again.recorded) == 9
    outputs = [cell_output(cell, steps) for steps in (5, 6)]  # two calls in flight, one table
    for output, steps in zip(outputs, (5, 6), strict=True):
        (found,) = torch.autograd.grad(output.square().sum(), [cell.U])
        (expected,) = torch.autograd.grad(cell_output(cell, steps, reference.run).square().sum(), [cell.U])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_launches_in_a_graph_of_the_user_leave_the_recorded_ones_alone(kernels, monkeypatch):
    kernels.columns = 16
    monkeypatch.setattr(graphs, "_RECORDER", {})
    monkeypatch.setitem(graphs.RECORDERS, kernels.device.type, Again)
    cell = cell_of("rnn", 20)
    for _ in range(2):
        cell_output(cell, 1)
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "recorder_of", lambda device: None)  # as while the user records
        cell_output(cell, 2)
    torch.testing.assert_close(cell_output(cell, 1), cell_output(cell, 1, reference.run))


def test_recorded_launches_of_many_batch_sizes_are_dropped(kernels, monkeypatch):
    kernels.columns = 16
    monkeypatch.setattr(graphs, "_RECORDER", {})
    monkeypatch.setattr(graphs, "GRAPHS", 3)
    monkeypatch.setitem(graphs.RECORDERS, kernels.device.type, Again)
    cell, counts = cell_of("rnn", 20), []
    with torch.no_grad():
        for rows in (1, 2, 3, 4, 5, 6, 7):
            inputs = torch.ones(2, rows, 3)
            found = fused.run(cell, inputs, cell.initial_state(rows))
            torch.testing.assert_close(found, reference.run(cell, inputs, cell.initial_state(rows)))
            counts.append(len(fused.traced_for(cell, *cell(inputs), cell.initial_state(rows)).kernel.recorded))
    assert counts == [1, 1, 2, 3, 1, 2, 3]  # a batch of one sequence has its own trace


def cell_output(cell, steps, run=fused.run):
    torch.manual_seed(steps)
    return run(cell, torch.randn(steps, 5, 3), cell.initial_state(5))[0]


def test_two_backward_passes_and_one_of_a_gradient(kernels):
    layer = Recurrent(cell_of("lstm", 6), "fused")
    weights, inputs = list(layer.parameters()), torch.randn(4, 5, 3, requires_grad=True)
    loss = layer(inputs)[0].square().sum()
    first, second = (torch.autograd.grad(loss, weights, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    (gradient,) = torch.autograd.grad(layer(inputs)[0].square().sum(), [inputs], create_graph=True)
    (found,) = torch.autograd.grad(gradient.square().sum(), [inputs])
    plain = Recurrent(layer.cell, "reference")
    (gradient,) = torch.autograd.grad(plain(inputs)[0].square().sum(), [inputs], create_graph=True)
    (expected,) = torch.autograd.grad(gradient.square().sum(), [inputs])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_reversed_sequences_of_several_lengths(kernels):
    layer = Recurrent(cell_of("gru", 6), "fused", reverse=True)
    inputs, lengths = torch.randn(6, 4, 3), torch.tensor([6, 1, 3, 5])
    found = layer(inputs, None, lengths)
    torch.testing.assert_close(found, Recurrent(layer.cell, "reference", reverse=True)(inputs, None, lengths))
    assert kernels.calls == ["forward"]


def test_inputs_of_any_layout(kernels):
    """Slices that start anywhere, transposed and expanded tensors."""
    cell = cell_of("lstm", 6)
    whole = torch.randn(3, 5, 4)
    for inputs in (whole[1:, :, 1:], whole.transpose(0, 1)[..., :3], whole[:1, :, :3].expand(3, 5, 3)):
        state = cell.initial_state(inputs.shape[1])
        found = results_of(fused.run, cell, inputs, state, None)
        torch.testing.assert_close(found, results_of(reference.run, cell, inputs, state, None), rtol=1e-4, atol=1e-5)


def prove_again(step, cell):
    inputs = torch.randn(1, 5, 3)
    constants, prepared = cell(inputs)
    step.prove(constants, map_state(lambda tensor: tensor[0], prepared), cell.initial_state(5), "ieee")


def test_kernels_are_proven_before_their_first_use(kernels, monkeypatch, caplog):
    once.forget_warnings()
    cell = cell_of("lstm", 6)
    step = fused.traced(cell)
    prove_again(step, cell)
    assert step.kernel is not None
    assert not caplog.records
    monkeypatch.setitem(emit.COMPARISONS, "gt", "<")
    monkeypatch.setattr(emit, "_number", lambda value: repr(float(value) + 0.5))
    cell = cell_of("gru", 6)
    step = fused.traced(cell)
    prove_again(step, cell)
    assert step.kernel is None
    (record,) = caplog.records
    assert record.message.startswith(
        "GRU runs as operations of PyTorch instead of Triton kernels, slower: they fail with"
    )
    assert "the results differ" in record.message
    found = fused.run(cell, torch.ones(3, 2, 3), cell.initial_state(2))
    torch.testing.assert_close(found, reference.run(cell, torch.ones(3, 2, 3), cell.initial_state(2)))


def test_without_triton_a_warning_says_so(kernels, monkeypatch, caplog):
    once.forget_warnings()

    def refuse():
        raise NoCompiler("Triton cannot be imported (No module named 'triton')")

    monkeypatch.setattr(kernels, "check", staticmethod(refuse))
    assert fused.traced(cell_of("lstm", 6)).kernel is None
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.message == (
        "fused cells run as operations of PyTorch instead of Triton kernels, slower: Triton cannot be imported "
        "(No module named 'triton')"
    )


def test_every_function_of_the_operations_exists_in_triton():
    text = load.FUNCTIONS.read_text()
    called = {name for one in OPERATIONS.values() for name in re.findall(r"(\w+_)\(", one.c or "")}
    assert len(called) > 20
    assert called <= set(re.findall(r"def (\w+)\(", text))


def test_triton_that_is_missing_is_noticed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "triton", None)
    with pytest.raises(NoCompiler, match="Triton cannot be imported"):
        load.check()


def test_a_damaged_file_in_the_cache_is_written_again(tmp_path, monkeypatch):
    pytest.importorskip("triton", minversion="3.7")
    monkeypatch.setattr(load, "cache_folder", lambda: tmp_path)
    load.load.__wrapped__("ANSWER = 42")
    (path,) = tmp_path.glob("*.py")
    path.write_text("nonsense(")
    assert load.load.__wrapped__("ANSWER = 42").ANSWER == 42
    assert [*tmp_path.glob("*.py")] == [path]


def source_of(name, width, function, columns=None):
    step = traced.traced(cells.create(name, input_size=4, hidden_size=width))
    return emit.Source(lower(step.program, step.back, step.batch_size, overlays=False), function, columns)


@pytest.mark.parametrize(
    ("name", "precision", "widest"),
    [("lstm", "bf16", 128), ("lstm", "tf32", 64), ("gru", "tf32", 128), ("rnn", "bf16", 256), ("rnn", "tf32", 128)],
)
def test_what_stays_on_the_chip_of_an_h100(name, precision, widest):
    """The widths that were compiled for sm_90 with at most 227 KB of shared memory."""
    for function in ("forward", "backward", "inference"):
        assert fit.fits(source_of(name, widest, function), precision, torch.device("cpu"))
        assert not fit.fits(source_of(name, 2 * widest, function), precision, torch.device("cpu"))


def test_less_stays_on_the_chip_of_a_smaller_gpu(monkeypatch):
    source = source_of("lstm", 128, "forward")
    monkeypatch.setattr(fit, "shared_memory", lambda device: 99 * 1024)  # sm_89
    assert not fit.fits(source, "bf16", torch.device("cpu"))
    assert fit.fits(source_of("lstm", 64, "forward"), "bf16", torch.device("cpu"))


def test_float32_products_that_take_too_long_for_one_program_are_shared():
    assert fit.fits(source_of("lstm", 64, "forward"), "ieee", torch.device("cpu"))
    assert not fit.fits(source_of("gru", 128, "forward"), "ieee", torch.device("cpu"))


def test_what_no_kernel_does(kernels):
    """Float64, and steps on matrices, run as before."""
    for cell in (cell_of("lstm", 6).double(), cell_of("mlstm", 8)):
        inputs = torch.randn(3, 2, 3, dtype=cell.like.dtype)
        found = fused.run(cell, inputs, cell.initial_state(2))
        torch.testing.assert_close(found, reference.run(cell, inputs, cell.initial_state(2)))
    assert not kernels.calls


@pytest.mark.parametrize(("name", "count"), [("lstm", 2), ("rnn", 2), ("gru", 2), ("layernorm_lstm", 7), ("indrnn", 1)])
def test_a_step_has_as_many_kernels_as_its_programs_wait_for_each_other(name, count):
    forward, backward = (len(source_of(name, 64, function, 16).kernels) for function in ("forward", "backward"))
    assert forward == (7 if name == "layernorm_lstm" else 1)
    assert backward == (4 if name == "layernorm_lstm" else count)


def test_a_step_that_cannot_be_lowered_says_why():
    with pytest.raises(Unsupported, match="a tensor of shape"):
        source_of("mlstm", 8, "forward")


@pytest.mark.parametrize(
    ("name", "width", "backend", "reason"),
    [
        ("lstm", 64, "fused", "its step is compiled; one kernel runs all time steps"),
        ("lstm", 128, "native", "its weights do not fit on the chip; cuDNN has one kernel for all time steps"),
        ("lstm", 200, "fused", "its step is compiled; 3 kernels for every time step"),
        ("peephole", 128, "fused", "its step is compiled; 3 kernels for every time step"),
        ("mingru", 1024, "fused", "its step is compiled; one kernel runs all time steps"),
        ("s4d", 8, "scan", "it is linear in its state, and its step is not compiled"),
        ("mlstm", 8, "fused", "its step is not compiled, but its operations are recorded"),
    ],
)
def test_what_auto_selects_on_a_gpu(kernels, name, width, backend, reason):
    kernels.columns = None
    cell = cell_of(name, width)
    chosen = choose._estimated(cell, choose._native(cell))
    assert (chosen.name, chosen.reason) == (backend, reason)


def test_float64_runs_on_cudnn_if_it_can(kernels):
    cell = cell_of("lstm", 8).double()
    assert choose._estimated(cell, choose._native(cell))[::2] == (
        "native",
        "torch.nn has this cell, and torch.float64 is not compiled",
    )


def test_rows_of_a_program_on_a_gpu(monkeypatch):
    """More rows where there would be more programs than processors."""
    source, cuda = source_of("lstm", 256, "forward", 16), torch.device("cuda")
    h100 = type("H100", (), {"multi_processor_count": 132})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: h100)
    assert [fit.rows_of(source, rows, cuda) for rows in (1, 64, 128, 256, 4096)] == [16, 16, 16, 32, 64]
