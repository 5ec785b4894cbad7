"""What several tests of the engine run under."""

import pytest

from rnnlab.engine.cpu import gemm, kernel, memory


@pytest.fixture
def own_products(monkeypatch):
    """``own_products(True)``: as on a processor that torch's BLAS does not make full use of, for work of any size."""

    def use(are_wanted):
        monkeypatch.setattr(gemm, "is_wanted", lambda: are_wanted)
        gemm.ours.cache_clear()
        if are_wanted:
            for module, name in (
                (memory, "LARGE_FOR_OWN"),
                (gemm, "SMALLEST"),
                (kernel, "SMALLEST"),
                (kernel, "ROWS_TO_PACK"),
            ):
                monkeypatch.setattr(module, name, 1)

    yield use
    gemm.ours.cache_clear()
