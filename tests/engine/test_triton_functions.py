"""The functions that all Triton kernels share, over all of their range, in Triton's interpreter or on a GPU."""

import pytest
import torch
from outside.shapes import Pointwise
from torch.nn.functional import gelu, logsigmoid, softplus

from rnnlab.layers import Recurrent

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow):RuntimeWarning")
WIDE = torch.cat([torch.linspace(-110, 110, 5_001), torch.logspace(-37, 38, 1_000), -torch.logspace(-37, 2, 500)])
SPECIAL = torch.tensor([0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -0.5, -1.5, torch.inf, -torch.inf, torch.nan, 88.7, -104.5])
FUNCTIONS = [
    torch.exp,
    torch.expm1,
    torch.log,
    torch.log1p,
    torch.tanh,
    torch.sigmoid,
    torch.sin,
    torch.cos,
    torch.atan,
    torch.erf,
    torch.sqrt,
    torch.abs,
    torch.sign,
    torch.relu,
    torch.round,
    torch.floor,
    torch.ceil,
    torch.trunc,
    softplus,
    logsigmoid,
    gelu,
]


def computed(kernels, function, x):
    width = len(x) // 16
    with torch.no_grad():
        return Recurrent(Pointwise(width, width, function=function), "fused")(x.view(1, 16, width))[0].flatten()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_functions_have_few_wrong_digits(kernels, function):
    x = torch.cat([WIDE, SPECIAL])
    if function in (torch.sin, torch.cos):
        x = x[x.abs() < 1e4]
    x = x[-(len(x) // 16 * 16) :]
    found, exact = computed(kernels, function, x), function(x.double())
    assert kernels.calls == ["inference"]
    assert torch.equal(found.isnan(), exact.isnan())
    assert torch.equal(found.isinf(), exact.float().isinf())
    known = exact.isfinite() & exact.float().isfinite()
    # Relative to the result, except where the result is small because two large numbers cancel.
    error = (found.double() - exact).abs() / exact.abs().clamp_min(1e-30)
    small = (found.double() - exact).abs() <= 1.5e-7
    assert (error[known & ~small] <= 2e-6).all(), x[known][error[known].argmax()]


@pytest.mark.parametrize("exponent", [-2, -0.5, 1.5, 4, 5])
def test_powers(kernels, exponent):
    x = torch.cat([torch.linspace(-8, 8, 4001), torch.tensor([0.0, 1e-3, -1e-3])])[:4000]
    found, exact = computed(kernels, lambda value: value**exponent, x), x.double() ** exponent
    assert torch.equal(found.isnan(), exact.isnan())
    known = exact.isfinite()
    torch.testing.assert_close(found[known].double(), exact[known], rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("function", [torch.maximum, torch.minimum], ids=lambda function: function.__name__)
def test_the_larger_and_the_smaller_propagate_nan(kernels, function):
    x = torch.cat([SPECIAL, -SPECIAL, torch.ones(6)])
    found = computed(kernels, lambda value: function(value, 0.5 * value), x)
    assert torch.equal(found.isnan(), x.isnan())
    assert torch.equal(found[~x.isnan()], function(x, 0.5 * x)[~x.isnan()])
