"""Threads that share the columns of a step: the numbers of one thread, however many there are and whenever they run."""

import pytest
import torch

from rnnlab import cells
from rnnlab.engine import fused
from rnnlab.engine.cpu import kernel
from rnnlab.engine.cpu import threads as engine_threads
from rnnlab.layers import Recurrent, Zoneout

ENDS = torch.tensor([9, 4, 1])


@pytest.fixture
def threads(monkeypatch):
    """Set the number of threads; a step of any size is shared."""
    monkeypatch.setattr(kernel, "MULTIPLICATIONS_TO_SHARE", 1)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def _results(layer, inputs, lengths=None):
    """Return outputs and gradients of the inputs and the parameters."""
    inputs = inputs.clone().requires_grad_()
    torch.manual_seed(1)  # of masks
    outputs = layer(inputs)[0] if lengths is None else layer(inputs, lengths=lengths)[0]
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    return [outputs, *torch.autograd.grad((outputs * weights).sum(), [inputs, *layer.parameters()])]


def _shares(layer, batch_size):
    """Return the largest number of threads that share the columns of one function."""
    step = fused.traced(layer.cell).kernel
    return max(step.members(name, batch_size, 2**20) for name in step.functions)


# gru: several products; layernorm_lstm: loops that cannot be divided.
@pytest.mark.parametrize("lengths", [None, ENDS])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    ("name", "options"), [("lstm", {}), ("gru", {"reset": "before"}), ("layernorm_lstm", {}), ("zoneout", {})]
)
def test_numbers_of_one_thread(name, options, own, lengths, threads, own_products):
    """They are equal with rnnlab's GEMM kernel; a BLAS may round a product of fewer columns differently."""
    own_products(own)
    threads(1)
    dtype = torch.float32 if own else torch.float64
    cell = cells.create("lstm" if name == "zoneout" else name, input_size=3, hidden_size=70, **options).to(dtype)
    layer = Recurrent(Zoneout(cell, [0.5, 0.5]) if name == "zoneout" else cell, "fused")
    inputs = torch.randn(9, 1 if lengths is None else 3, 3, dtype=dtype)
    expected = _results(layer, inputs, lengths)
    for count in (2, 3):
        threads(count)
        assert _shares(layer, inputs.shape[1]) == count
        for one, other in zip(_results(layer, inputs, lengths), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0 if own else 1e-12 * other.abs().max().item())


@pytest.mark.parametrize("count", [2, 3])
def test_an_lstm_equals_torch_over_200_steps(count, threads):
    threads(count)
    theirs = torch.nn.LSTM(3, 70).double()
    cell = cells.create("lstm", input_size=3, hidden_size=70).double()
    cell.load_native(tuple(theirs.parameters()))
    inputs = torch.randn(200, 1, 3, dtype=torch.float64)
    found, expected = (_results(layer, inputs) for layer in (Recurrent(cell, "fused"), theirs))
    for one, other in zip(found, expected, strict=False):  # torch has two biases with equal gradients
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * other.abs().max().item())


@pytest.mark.parametrize("separate", [False, True])
def test_shares_that_do_not_run_at_the_same_time(separate, threads, monkeypatch):
    """One thread takes the parts of the others if these have no processor, or are not started at all."""
    threads(1)
    layer = Recurrent(cells.create("lstm", input_size=3, hidden_size=70), "fused")
    inputs = torch.randn(9, 1, 3)
    expected = _results(layer, inputs)
    team = engine_threads._team

    def in_turn(function, openmp, calls, held):
        for call in calls[::-1] if separate else calls:
            team(function, openmp, [call], held)

    monkeypatch.setattr(engine_threads, "_team", in_turn)
    threads(3)
    for one, other in zip(_results(layer, inputs), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_only_large_products_on_few_sequences_are_shared(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    step = fused.traced(cells.create("lstm", input_size=3, hidden_size=4)).kernel
    large = 4 * kernel.MULTIPLICATIONS_TO_SHARE
    assert [step.members("forward", 1, size) for size in (large // 8, large // 2, large, 4 * large)] == [1, 2, 4, 4]
    assert [step.members("forward", rows, large) for rows in (7, 8, 12, 16)] == [4, 2, 1, 1]
