"""The C of single functions in float32, over all of their range."""

import shutil

import pytest
import torch
from outside.shapes import Pointwise
from torch.nn.functional import logsigmoid, softplus

from rnnlab.engine.cpu import compiler as engine_compiler
from rnnlab.layers import Recurrent

WIDE = torch.cat(
    [torch.linspace(-110, 110, 100_001), torch.logspace(-44, 38.5, 20_000), -torch.logspace(-44, 2, 10_000)]
)
SPECIAL = torch.tensor([0.0, 1.0, -1.0, torch.inf, -torch.inf, torch.nan, 1e-45, 1.2e-38, 88.7, 89.5, -104.5])


@pytest.mark.parametrize(
    "function",
    [torch.exp, torch.expm1, torch.log, torch.log1p, torch.tanh, torch.sigmoid, softplus, logsigmoid],
    ids=lambda function: function.__name__,
)
def test_every_function_is_exact_to_some_units_in_the_last_place(function):
    x = torch.cat([WIDE, SPECIAL])
    cell = Pointwise(len(x), len(x), function=function)
    with torch.no_grad():
        found = Recurrent(cell, "fused")(x.view(1, 1, -1))[0].flatten()
        exact = function(x.double())
    assert torch.equal(found.isnan(), exact.isnan())
    rounded = exact.float()
    assert torch.equal(found.isinf(), rounded.isinf())
    known = exact.isfinite() & rounded.isfinite() & (exact.abs() > 1e-35)  # near 1e-38 there are fewer digits
    # Four units in the last place, relative to the result, for tanh near 0 as for exp near its end.
    off = ((found.double() - exact).abs() / exact.abs())[known]
    assert off.max() <= 5e-7, x[known][off.argmax()]


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_tanh_ends_at_one_whatever_the_compiler(compiler, monkeypatch, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    monkeypatch.setenv("CC", compiler)
    for name in ("compiler", "surroundings", "load"):
        monkeypatch.setattr(engine_compiler, name, getattr(engine_compiler, name).__wrapped__)
    monkeypatch.setattr(engine_compiler, "cache_folder", lambda: tmp_path)
    x = torch.cat([torch.linspace(8, 100, 1000), torch.tensor([torch.inf])])
    cell = Pointwise(len(x), len(x), function=torch.tanh)
    with torch.no_grad():
        for sign in (1, -1):
            outputs, _ = Recurrent(cell, "fused")((sign * x).view(1, 1, -1))
            assert torch.equal(outputs.flatten(), torch.full_like(x, sign))
    assert list(tmp_path.glob("*.so"))
