"""Steps that make every column of that column alone: threads share out the columns, too."""

from types import SimpleNamespace

import pytest
import torch
from outside.shapes import MinGRU
from torch import Tensor, nn

from rnnlab import cells
from rnnlab.cells import Cell
from rnnlab.engine.cpu import compiler, kernel
from rnnlab.engine.traced import known
from rnnlab.layers import Recurrent

WIDTH = 150  # two blocks and a piece


class Columns(Cell):
    """Any step of x ``[B, WIDTH]``, a gate ``[B, 1]``, a vector, and rows that are constant."""

    def __init__(self, step):
        super().__init__(WIDTH + 1, WIDTH)
        self.u = nn.Parameter(torch.linspace(-1, 1, WIDTH))
        self.rows = nn.Parameter(torch.linspace(1, 2, WIDTH))
        self.one = step

    def prepare(self, inputs):
        x, gate = inputs.split([WIDTH, 1], -1)
        return (self.u, self.rows * torch.ones_like(x[0])), (x, gate.sigmoid().detach())

    def step(self, constants, inputs, state):
        h = self.one(*inputs, *state, *constants)
        return h, (h,)


STEPS = {
    "linear": lambda x, gate, h, u, rows: gate * h + x * u,
    "with tanh": lambda x, gate, h, u, rows: (x + u * h).tanh() * gate,
    "rows": lambda x, gate, h, u, rows: (rows * h).sigmoid() + x,
}
MIXED = {
    "a sum": lambda x, gate, h, u, rows: h.softmax(-1) + x,
    "other columns": lambda x, gate, h, u, rows: torch.cat([h[:, 75:], h[:, :75]], -1) * gate + x,
}


@pytest.fixture(autouse=True)
def _any_work_is_worth_a_thread(monkeypatch):
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    monkeypatch.setattr(kernel, "NUMBERS_A_THREAD", 1)
    monkeypatch.setattr(kernel, "COLUMNS_A_THREAD", 64)
    yield
    torch.set_num_threads(threads)


def _everything(cell, backend, rows, lengths, dtype) -> list[Tensor]:
    torch.manual_seed(1)
    inputs = torch.randn(5, rows, cell.input_size, dtype=dtype, requires_grad=True)
    state = (torch.randn(rows, cell.hidden_size, dtype=dtype, requires_grad=True),)
    layer = Recurrent(cell, backend)
    outputs, final = layer(inputs, state, lengths)
    gradients = torch.autograd.grad(
        (outputs * torch.randn_like(outputs)).sum() + final[0].square().sum(),
        [inputs, *state, *cell.parameters()],
        allow_unused=True,
    )
    with torch.no_grad():
        alone = layer(inputs, state, lengths)[0]
    return [outputs, *final, alone, *(gradient for gradient in gradients if gradient is not None)]


def _kernels(cell) -> list[kernel.Kernel]:
    return [step.kernel for step in known(cell) if step.kernel]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", [*STEPS, "mingru"])
def test_the_number_of_threads_changes_no_bit(name, rows, varying, dtype, monkeypatch):
    """Of ours: PyTorch itself stays at one, as its products differ by the number on some processors."""
    cell = (MinGRU(3, WIDTH) if name == "mingru" else Columns(STEPS[name])).to(dtype)
    lengths = torch.tensor([5, 1, 3])[:rows] if varying else None
    found = []
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(_everything(cell, "fused", rows, lengths, dtype))
        parts = {len(k.parts(way, rows, 5)) for k in _kernels(cell) for way in k.functions}
        assert parts == {min(threads, 3)}
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    expected = _everything(cell, "reference", rows, lengths, dtype)
    torch.testing.assert_close(found[0], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MIXED)
def test_columns_that_need_others_stay_together(name):
    cell = Columns(MIXED[name])
    torch.set_num_threads(3)
    found = _everything(cell, "fused", 2, None, torch.float32)
    assert {len(k.parts(way, 2, 5)) for k in _kernels(cell) for way in k.functions} == {1}
    torch.testing.assert_close(found, _everything(cell, "reference", 2, None, torch.float32), rtol=1e-5, atol=1e-5)


def test_a_product_keeps_columns_together():
    cell = cells.create("rnn", input_size=3, hidden_size=WIDTH)
    torch.set_num_threads(3)
    _everything(cell, "fused", 2, None, torch.float32)
    assert {len(k.parts(way, 2, 5)) for k in _kernels(cell) for way in k.functions} == {1}


@pytest.mark.parametrize("rows", [1, 5, 9, 64])
@pytest.mark.parametrize("columns", [0, 16, 64, 130, 1024])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_shares_are_everything_once(rows, columns, threads):
    torch.set_num_threads(threads)
    seen = torch.zeros(rows, max(columns, 1), dtype=torch.int64)
    parts = kernel.Kernel.parts(SimpleNamespace(columns={"forward": columns}), "forward", rows, 7)
    for first, last, low, high in parts:
        seen[first:last, low : high or None] += 1
    assert (seen == 1).all()
    assert 1 <= len(parts) <= threads


def test_little_work_is_left_to_one_thread(monkeypatch):
    cell = Columns(STEPS["linear"])
    _everything(cell, "fused", 1, None, torch.float32)
    monkeypatch.setattr(kernel, "NUMBERS_A_THREAD", 5 * WIDTH)
    torch.set_num_threads(3)
    assert {len(k.parts(way, 1, 9)) for k in _kernels(cell) for way in k.functions} == {1}
    assert {len(k.parts(way, 1, 10)) for k in _kernels(cell) for way in k.functions} == {2}


@pytest.mark.parametrize("compiles", [True, False])
def test_scan_prepares_once(compiles, monkeypatch):
    class Counting(MinGRU):
        calls = 0

        def prepare(self, inputs):
            self.calls += inputs.shape[0] == 7
            return super().prepare(inputs)

    def missing():
        raise compiler.NoCompiler("none for this test")

    if not compiles:
        monkeypatch.setattr(compiler, "compiler", missing)
    cell = Counting(2, 3)
    layer = Recurrent(cell, "scan")
    for _ in range(3):
        cell.calls = 0
        layer(torch.randn(7, 2, 2))[0].sum().backward()
        assert cell.calls == 1
