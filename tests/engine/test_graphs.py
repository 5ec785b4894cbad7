"""The derived steps in Python, compiled by torch.compile and recorded, as they run on a GPU.

Without a GPU, what is recorded is not launched again but called again, and writes into the same memory: everything but
CUDA itself is as it is there.
"""

import contextlib
import inspect
import logging
import threading

import pytest
import tiers
import torch
from outside.shapes import Highway, LayerNormLSTM, MinGRU, Peephole, Regularised

from rnnlab import cells, contracts, engine
from rnnlab.engine import fused, native, once
from rnnlab.engine.gpu import graphs
from rnnlab.layers import Recurrent
from rnnlab.trees import map_state, tensors_of

DOUBLE = {"rtol": 1e-12, "atol": 1e-12}


class Again:
    """Records a function in order to call it again."""

    def __init__(self, device):
        self.at_work = False

    def record(self, function):
        function()
        results = function()

        def replay():
            assert self.at_work, "two could run at the same time"
            for mine, new in zip(tensors_of(results), tensors_of(map_state(torch.clone, function())), strict=True):
                mine.copy_(new)

        return results, replay

    @contextlib.contextmanager
    def alone(self):
        assert not self.at_work
        self.at_work = True
        try:
            yield
        finally:
            self.at_work = False

    def wait(self):
        pass


@pytest.fixture
def fresh(device, monkeypatch):
    """The device; a CPU runs cells as a GPU does. Nothing has been compiled, recorded, or warned of yet."""
    for name, empty in (("_GRAPHS", {}), ("_NOT_COMPILED", set())):
        monkeypatch.setattr(graphs, name, empty)
    once.forget_warnings()
    if device.type == "cpu":
        monkeypatch.setitem(graphs.RECORDERS, "cpu", Again)
        for compiled in ("lowered", "heads"):
            monkeypatch.setattr(fused.Traced, compiled, None)
    yield device
    graphs.compiled.cache_clear()


@pytest.fixture
def uncompiled(fresh, monkeypatch):
    """The same without the compiler, which takes seconds."""
    monkeypatch.setattr(graphs, "_compiled", lambda function: function)
    return fresh


def recorded(device):
    return len(graphs._GRAPHS[device].recorded)


def layer_of(cell, **options):
    torch.manual_seed(0)
    cell = cells.create(cell, input_size=3, hidden_size=4, **options) if isinstance(cell, str) else cell(3, 4)
    return Recurrent(cell.double(), "fused")


def everything(layer, inputs, lengths=None, **options):
    """Outputs, final states, and the gradients of inputs and weights."""
    inputs = inputs.clone().requires_grad_()
    results = tensors_of(layer(inputs, None, lengths))
    loss = sum((result * torch.linspace(0.5, 1.5, len(result.T)).to(result)).sum() for result in map(_flat, results))
    return [*results, *torch.autograd.grad(loss, [inputs, *layer.parameters()], **options)]


def _flat(tensor):
    return tensor.flatten(1)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("cell", tiers.every(2, ["lstm", "mlstm", Regularised]))
def test_a_recorded_cell_keeps_the_contract(uncompiled, cell, caplog):
    contracts.check_cell(cell)
    assert recorded(uncompiled) > 1
    assert not [record for record in caplog.records if record.name.startswith("rnnlab")]


@pytest.mark.parametrize("varying", [False, True])
def test_every_call_gives_the_reference_s_numbers(uncompiled, varying):
    layer = layer_of("gru", reset="before")
    expected_of = Recurrent(layer.cell, "reference")
    found, expected = [], []
    for steps, rows in [(5, 2), (5, 2), (5, 2), (4, 2), (5, 3), (4, 2), (5, 2), (5, 3), (5, 1), (5, 1)]:
        inputs = draw(steps, rows, 3)
        lengths = torch.randint(1, steps + 1, (rows,)).index_fill(0, torch.tensor(0), steps) if varying else None
        found.append(everything(layer, inputs, lengths))
        expected.append(everything(expected_of, inputs, lengths))
        with torch.no_grad():
            layer.cell.U.add_(0.01)  # a recorded call reads the weights of today
    assert recorded(uncompiled) == 2 * 4
    torch.testing.assert_close(found, expected, **DOUBLE)  # at the end: nothing was written over meanwhile


def test_the_first_call_the_recording_and_the_replay_agree_bit_for_bit(uncompiled):
    layer, inputs = layer_of("lstm"), draw(5, 2, 3)
    first, *others = [everything(layer, inputs) for _ in range(4)]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_several_forward_passes_before_a_backward_pass(uncompiled):
    layer = layer_of("lstm")
    inputs = [draw(5, 2, 3) for _ in range(4)]
    weights = list(layer.parameters())
    losses = [layer(one)[0].square().sum() for one in inputs]
    found = [torch.autograd.grad(loss, weights) for loss in losses]
    layer = Recurrent(layer.cell, "reference")
    torch.testing.assert_close(
        found, [torch.autograd.grad(layer(one)[0].square().sum(), weights) for one in inputs], **DOUBLE
    )


def test_two_backward_passes_and_one_of_a_gradient(uncompiled):
    layer = layer_of("lstm")
    weights = list(layer.parameters())
    for _ in range(3):
        inputs = draw(3, 2, 3).requires_grad_()
        loss = layer(inputs)[0].square().sum()
        first, second = (torch.autograd.grad(loss, weights, retain_graph=True) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (inputs,))


def test_gradients_add_up(uncompiled):
    layer = layer_of("gru")
    for _ in range(3):
        layer(torch.ones(5, 2, 3, dtype=torch.float64))[0].sum().backward()
    once = torch.autograd.grad(layer(torch.ones(5, 2, 3, dtype=torch.float64))[0].sum(), list(layer.parameters()))
    torch.testing.assert_close([p.grad for p in layer.parameters()], [3 * g for g in once], **DOUBLE)


def test_inference_between_training_steps(uncompiled):
    layer = layer_of("lstm")
    expected_of = Recurrent(layer.cell, "reference")
    inference, no_grad, training = torch.inference_mode, torch.no_grad, torch.enable_grad
    for mode in (inference, inference, no_grad, training, inference, training):  # recorded in inference mode
        inputs = draw(5, 2, 3)
        with mode():
            found, expected = layer(inputs), expected_of(inputs)
        torch.testing.assert_close(found, expected, **DOUBLE)
        torch.testing.assert_close(everything(layer, inputs), everything(expected_of, inputs), **DOUBLE)
    assert recorded(uncompiled) == 3


def test_layers_of_one_kind_share_what_is_recorded(uncompiled):
    inputs = draw(5, 2, 3)
    first, second = layer_of("lstm"), layer_of("lstm")
    with torch.no_grad():
        second.cell.U.mul_(2)
    for layer in (first, second, first, second):
        torch.testing.assert_close(layer(inputs), Recurrent(layer.cell, "reference")(inputs), **DOUBLE)
    assert recorded(uncompiled) == 1


def test_what_was_recorded_is_dropped_before_it_is_too_much(uncompiled, monkeypatch):
    monkeypatch.setattr(graphs, "GRAPHS", 3)
    monkeypatch.setattr(graphs, "LONGEST", 7)
    layer, counts = layer_of("rnn"), []
    expected_of = Recurrent(layer.cell, "reference")
    for _ in range(4):
        for steps in (4, 5, 6, 7, 8):
            inputs = draw(steps, 2, 3)
            with torch.no_grad():
                torch.testing.assert_close(layer(inputs), expected_of(inputs), **DOUBLE)
            counts.append(recorded(uncompiled))
    # At the second round, but for the longest; too many, so all are dropped, and two further rounds come before others.
    assert counts == [0, 0, 0, 0, 0, 1, 2, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]


def test_where_nothing_can_be_recorded_a_warning_says_so_once(uncompiled, monkeypatch, caplog):
    tried = []

    def refuse(self, function):
        tried.append(function())
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(graphs.RECORDERS[uncompiled.type], "record", refuse)
    layer = layer_of("lstm")
    for _ in range(4):
        inputs = draw(5, 2, 3)
        found, expected = everything(layer, inputs), everything(Recurrent(layer.cell, "reference"), inputs)
        torch.testing.assert_close(found, expected, **DOUBLE)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.message == (
        "fused cells run without CUDA graphs, slower: recording one failed with RuntimeError: operation not permitted"
    )
    assert len(tried) == 1


def test_where_a_step_cannot_be_compiled_a_warning_says_so_once(fresh, monkeypatch, caplog):
    def refuse(*arguments, **options):
        def call(*arguments):
            raise RuntimeError("Cannot find a working triton installation.")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    layer = layer_of("lstm")
    for _ in range(3):
        inputs = draw(5, 2, 3)
        found, expected = everything(layer, inputs), everything(Recurrent(layer.cell, "reference"), inputs)
        torch.testing.assert_close(found, expected, **DOUBLE)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "runs without torch.compile, slower: it failed with RuntimeError: Cannot find a working" in record.message
    assert recorded(fresh) == 2, "what is not compiled can still be recorded"


def test_a_mistake_is_looked_for_in_the_plain_steps(uncompiled):
    layer, inputs = layer_of("rnn"), draw(5, 2, 3)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        for _ in range(3):
            everything(layer, inputs)
    assert not graphs._GRAPHS


def test_several_python_threads(uncompiled):
    layer, inputs = layer_of("lstm"), [draw(5, 2, 3) for _ in range(4)]
    expected = [everything(Recurrent(layer.cell, "reference"), one) for one in inputs]
    wrong = []

    def work(i):
        for _ in range(10):
            with torch.device(uncompiled):
                found = everything(layer, inputs[i])
            if not all(torch.allclose(a, b, **DOUBLE) for a, b in zip(found, expected[i], strict=True)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.slow
def test_compiled_by_torch(fresh):
    layer = layer_of("rnn")
    expected_of = Recurrent(layer.cell, "reference")
    for rows in (2, 2, 5, 2):
        inputs = draw(4, rows, 3)
        torch.testing.assert_close(everything(layer, inputs), everything(expected_of, inputs), **DOUBLE)
    assert not graphs._NOT_COMPILED


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru", "indrnn", Peephole, LayerNormLSTM, Highway, Regularised, MinGRU])
def test_a_compiled_cell_keeps_the_contract(fresh, cell, caplog):
    contracts.check_cell(cell)
    assert recorded(fresh) > 1
    assert not [record for record in caplog.records if record.name.startswith("rnnlab")]


def test_steps_are_compiled_once_for_every_number_of_rows(fresh):
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compile_ = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch, "compile", lambda function, options, **others: compile_(function, backend=counter, **others)
        )
        layer = layer_of(LayerNormLSTM)
        for steps, rows in [(4, 2), (4, 2), (6, 5), (4, 4), (5, 3)]:
            everything(layer, draw(steps, rows, 3))
    assert counter.frame_count == 2  # forward and backward


def test_the_arguments_are_those_of_torch_s_own_functions():
    inspect.signature(torch.cuda.graph).bind(None, None, None, capture_error_mode="thread_local")
    assert {"replay", "capture_begin", "capture_end"} <= set(dir(torch.cuda.CUDAGraph))
    assert list(inspect.signature(torch._dynamo.maybe_mark_dynamic).parameters)[:2] == ["t", "index"]


def test_the_weights_that_cudnn_gets_lie_one_after_the_other(device):
    cell = cells.create("lstm", input_size=3, hidden_size=4).to(device)
    weights = cell.native().weights
    packed = native._in_one_piece(weights)
    assert all(torch.equal(a, b) for a, b in zip(packed, weights, strict=True))
    following = [packed[0].data_ptr()]
    for weight in packed:
        assert weight.data_ptr() == following[-1]
        following.append(weight.data_ptr() + weight.nbytes)
    assert packed[0].untyped_storage().nbytes() == following[-1] - following[0]
    found, expected = (
        torch.autograd.grad(sum(w.square().sum() for w in ws), list(cell.parameters())) for ws in (packed, weights)
    )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA here")
def test_what_auto_picks_on_a_gpu():
    picked = {name: engine.choose(cells.create(name, input_size=3, hidden_size=4).cuda()) for name in ("lstm", "mgu")}
    assert {name: choice.name for name, choice in picked.items()} == {"lstm": "native", "mgu": "fused"}
    assert all("not benchmarked on" in choice.reason for choice in picked.values())
