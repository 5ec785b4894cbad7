"""What several tests of the engine run under."""

import pytest

from rnnlab.engine.cpu import gemm, kernel, linear


@pytest.fixture
def own_products(monkeypatch):
    """``own_products(True)``: our own kernel for matrix products of any size; ``own_products(False)``: the BLAS."""

    def use(own):
        monkeypatch.setenv("RNNLAB_GEMM", "own" if own else "blas")
        gemm.own.cache_clear()
        if own:
            for module, name in ((linear, "LARGE_FOR_OWN"), (gemm, "SMALLEST"), (kernel, "ROWS_TO_PACK")):
                monkeypatch.setattr(module, name, 1)

    yield use
    gemm.own.cache_clear()
