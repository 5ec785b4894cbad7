"""The precision of a run."""

import pytest
import torch

from rnnlab.training.device import autocast


@pytest.fixture
def settings():
    """The settings of products are restored after the test."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield lambda: (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize(("precision", "expected"), [("tf32", ("high", True)), ("fp32", ("highest", False))])
def test_products_of_float32_on_a_gpu(settings, precision, expected):
    assert not autocast(torch.device("cuda"), precision)._enabled
    assert settings() == expected


def test_tf32_on_a_cpu_is_float32(settings):
    before = settings()
    assert not autocast(torch.device("cpu"), "tf32")._enabled
    assert settings() == before
