"""What several tests of the engine run under."""

import pytest

from rnnlab.engine import compiled, memory, product


@pytest.fixture
def own_products(monkeypatch):
    """``own_products(True)``: as on a processor that torch's BLAS does not make full use of, for work of any size."""

    def use(are_wanted):
        monkeypatch.setattr(product, "is_wanted", lambda: are_wanted)
        product.ours.cache_clear()
        if are_wanted:
            for module, name in (
                (memory, "LARGE_FOR_OWN"),
                (product, "SMALLEST"),
                (compiled, "SMALLEST"),
                (compiled, "ROWS_TO_PACK"),
            ):
                monkeypatch.setattr(module, name, 1)

    yield use
    product.ours.cache_clear()
