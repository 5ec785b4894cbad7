"""Matrix products of our own: the numbers of torch's, whatever the shapes, the layout and the number of threads."""

import ctypes
import time

import pytest
import tiers
import torch

from rnnlab import cells, contracts
from rnnlab.engine import once
from rnnlab.engine.cpu import compiler, gemm, own_gemm
from rnnlab.layers import Recurrent

DTYPES = [torch.float32, torch.float64]
SHAPES = [(1, 1, 1), (1, 9, 200), (2, 3, 5), (8, 16, 32), (13, 300, 31), (33, 7, 65), (140, 600, 70), (300, 257, 1)]


@pytest.fixture
def wanted(monkeypatch, own_products):
    """Products of our own, shared out over threads whatever their size."""
    own_products(True)
    monkeypatch.setattr(own_gemm, "MULTIPLICATIONS_A_THREAD", 1)
    monkeypatch.setattr(own_gemm, "NUMBERS_A_THREAD", 1)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def _layouts(tensor):
    """The same numbers, row by row, column by column, and as columns of something wider."""
    wider = torch.full((tensor.shape[0], tensor.shape[1] + 3), torch.nan, dtype=tensor.dtype)
    wider[:, 2:-1] = tensor
    return [tensor, tensor.t().contiguous().t(), wider[:, 2:-1]]


@pytest.mark.usefixtures("wanted")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3])
def test_any_shape_and_layout(shape, count, dtype, threads):
    threads(count)
    rows, inner, outer = shape
    left, right = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, outer, dtype=dtype)
    bias = torch.randn(outer, dtype=dtype)
    exact = left.double() @ right.double()
    # In one chain of additions each rounds by half a unit in the last place, of sums that grow like a random walk.
    tolerance = {"rtol": 0, "atol": torch.finfo(dtype).eps * 4 * inner}
    for a in _layouts(left):
        for b in _layouts(right):
            torch.testing.assert_close(gemm.mm(a, b).double(), exact, **tolerance)
            out = torch.full((rows + 1, outer), torch.nan, dtype=dtype)
            assert gemm.mm(a, b, out[:-1]) is not None
            torch.testing.assert_close(out[:-1].double(), exact, **tolerance)
            assert out[-1].isnan().all(), "nothing is written beside it"
            torch.testing.assert_close(gemm.mm(a, b, bias=bias).double(), exact + bias, **tolerance)


@pytest.mark.usefixtures("wanted")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (33, 7, 5), (140, 600, 31), (300, 2100, 65), (512, 1100, 128), (64, 9, 90)]
)
@pytest.mark.parametrize("count", [1, 3])
def test_two_products_with_one_left_factor(shape, count, dtype, threads):
    threads(count)
    rows, inner, outer = shape
    left, first = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, outer, dtype=dtype)
    second = torch.randn(inner, outer // 2 + 1, dtype=dtype)
    tolerance = {"rtol": 0, "atol": torch.finfo(dtype).eps * 4 * inner}
    for a in _layouts(left):
        for b, c in zip(_layouts(first), _layouts(second)[::-1], strict=True):
            for found, right in zip(gemm.mm_two(a, b, c), (first, second), strict=True):
                torch.testing.assert_close(found.double(), left.double() @ right.double(), **tolerance)


@pytest.mark.usefixtures("wanted")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (1024, 4096, 64), (50, 4096, 64)])
@pytest.mark.parametrize("count", [1, 3])
def test_a_product_and_the_sums_of_its_left_factor(shape, count, dtype, threads):
    threads(count)
    rows, inner, outer = shape
    left, right = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, outer, dtype=dtype)
    tolerance = {"rtol": 0, "atol": torch.finfo(dtype).eps * 4 * inner}
    for a in _layouts(left):
        product, sums = gemm.mm_and_sums(a, right)
        torch.testing.assert_close(product.double(), left.double() @ right.double(), **tolerance)
        torch.testing.assert_close(sums.double(), left.double().sum(1), **tolerance)


@pytest.mark.usefixtures("wanted")
@pytest.mark.parametrize("shape", [(300, 2100, 31), (20, 700, 300)])
def test_without_openmp_every_thread_packs_for_itself(shape, threads, monkeypatch):
    monkeypatch.setattr(compiler.blas(), "openmp", [0, 0, 0])
    threads(3)
    rows, inner, outer = shape
    left, right = torch.randn(rows, inner), torch.randn(inner, outer)
    exact = left.double() @ right.double()
    for _ in range(5):  # the threads meet in other places each time
        found = [gemm.mm(left, right), *gemm.mm_two(left, right, right)]
        for one in found:
            torch.testing.assert_close(one.double(), exact, rtol=0, atol=torch.finfo(torch.float32).eps * 4 * inner)
    panels = gemm.own(torch.float32, "step").pack(right)
    monkeypatch.undo()
    assert torch.equal(panels, own_gemm.OwnGemm(torch.float32).pack(right))


@pytest.mark.usefixtures("wanted")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("add", [False, True])
def test_pairs_of_bfloat16_numbers(shape, add):
    own = gemm.own(torch.float32, "pairs")
    if own is None:
        pytest.skip("this processor has no instruction for pairs of bfloat16 numbers")
    rows, inner, outer = shape
    left, right = (torch.randn(size).bfloat16() for size in ((rows, inner), (inner, outer)))
    exact = left.double() @ right.double() + add
    pairs = torch.nn.functional.pad(left, (0, inner % 2))
    size, pointer = ctypes.c_long, ctypes.c_void_p
    types = (*[size] * 3, pointer, size, size, pointer, pointer, size, ctypes.c_int)
    multiply = ctypes.CFUNCTYPE(None, *types)(own.multiply)
    for weight in _layouts(right.float()):
        panels, out = own.pack(weight), torch.ones(rows + 1, outer)
        count = pairs.shape[1] // 2
        multiply(rows, count, outer, pairs.data_ptr(), count, 1, panels.data_ptr(), out.data_ptr(), outer, add)
        torch.testing.assert_close(out[:-1].double(), exact, rtol=0, atol=torch.finfo(torch.float32).eps * 4 * inner)
        assert (out[-1] == 1).all(), "nothing is written beside it"


@pytest.mark.usefixtures("wanted")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (9, 200), (300, 31), (7, 65), (40, 97)])
def test_the_panels_of_a_weight(shape, dtype, threads):
    own, outer = gemm.own(dtype, "step"), shape[1]
    weight = torch.randn(shape, dtype=dtype)
    padded = torch.nn.functional.pad(weight, (0, -outer % own.width))
    panels = padded.unflatten(1, (-1, own.width)).transpose(0, 1)  # [outer / width, inner, width]
    for count in (1, 2, 5):
        threads(count)
        for matrix in _layouts(weight):
            assert torch.equal(own.pack(matrix), panels), count


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_packed_as_fast_as_columns(dtype):
    try:
        own = own_gemm.OwnGemm(dtype)
    except compiler.NoCompiler:
        pytest.skip("no compiler")
    rows = torch.ones(256, 512, dtype=dtype)
    columns, panels = rows.t().contiguous().t(), torch.empty(rows.numel(), dtype=dtype)
    times = {}
    for _ in range(30):
        for name, matrix in (("rows", rows), ("columns", columns)):
            start = time.thread_time()
            own.library.pack(matrix.data_ptr(), *matrix.stride(), *matrix.shape, panels.data_ptr())
            times[name] = min(times.get(name, 1.0), time.thread_time() - start)
    assert times["rows"] < 2.5 * times["columns"], "4.7 with a call of memcpy for every row of a panel"


@pytest.mark.usefixtures("wanted")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_the_same_among_however_many(dtype, threads):
    left, right = torch.randn(37, 50, dtype=dtype), torch.randn(50, 300, dtype=dtype)
    whole = gemm.mm(left, right)
    for count in (1, 2, 4, 5, 8, 30):
        assert torch.equal(gemm.mm(left[:count], right), whole[:count])
    threads(3)
    assert torch.equal(gemm.mm(left, right), whole)


@pytest.mark.usefixtures("wanted")
def test_what_is_no_number_spoils_its_row_and_its_column_and_no_other():
    left, right = torch.randn(9, 20), torch.randn(20, 33)
    left[3, 5], right[7, 32] = torch.inf, torch.nan
    found = gemm.mm(left, right)
    assert not found[3].isfinite().any()
    assert found[:, 32].isnan().all()
    others = torch.cat([found[:3], found[4:]])[:, :32]
    assert others.isfinite().all()


@pytest.mark.usefixtures("wanted")
@pytest.mark.parametrize("name", tiers.every(3, ["lstm", "rnn", "gru", "layernorm_lstm", "highway", "mingru"]))
def test_cells_keep_the_contract_with_them(name):
    contracts.check_cell(name)


@pytest.mark.parametrize("own", [False, True])
def test_a_layer_uses_them_where_they_are_wanted(own, own_products, monkeypatch):
    own_products(True)
    own_products(own)
    steps, wholes = [], []
    kernel = own_gemm.OwnGemm
    pack, call = kernel.pack, kernel.__call__
    monkeypatch.setattr(kernel, "pack", lambda self, weight: steps.append(weight) or pack(self, weight))
    monkeypatch.setattr(kernel, "__call__", lambda self, *a, **more: wholes.append(more) or call(self, *a, **more))
    layer = Recurrent(cells.create("lstm", input_size=3, hidden_size=4), "fused")
    inputs = torch.randn(5, 2, 3, requires_grad=True)
    layer(inputs)[0].sum().backward()
    assert len(steps) == 2 * own, "a product forward and one backward"
    assert len(wholes) == 3 * own, "of the inputs, of their gradient, of those of W and U together"
    assert [*map(bool, wholes)] == [False, True, False][: 3 * own]


def test_few_rows_do_not_pay_for_packing(own_products, monkeypatch):
    fewest = gemm.ROWS_TO_PACK
    own_products(True)
    monkeypatch.setattr(gemm, "ROWS_TO_PACK", fewest)
    calls, call = [], own_gemm.OwnGemm.__call__
    monkeypatch.setattr(own_gemm.OwnGemm, "__call__", lambda self, *given: calls.append(given) or call(self, *given))
    right = torch.randn(5, 7)
    for rows in (1, fewest - 1, fewest):
        left = torch.randn(rows, 5)
        torch.testing.assert_close(gemm.mm(left, right), left @ right)
    assert [len(given[0]) for given in calls] == [fewest], "one step of generation has few rows"


def test_without_a_compiler_they_are_torch_s(wanted, monkeypatch, caplog):
    def fails(text, *defines):
        raise compiler.NoCompiler("there is none")

    monkeypatch.setattr(compiler, "load", fails)
    once.forget_warnings()
    left, right = torch.randn(5, 6), torch.randn(6, 7)
    assert torch.equal(gemm.mm(left, right), left @ right)
    assert "rnnlab's GEMM kernel cannot be compiled: there is none" in caplog.text
