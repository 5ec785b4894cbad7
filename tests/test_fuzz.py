"""Random steps in random circumstances: every backend gives the plain loop's numbers, or says that it cannot."""

import logging
import sys

import pytest
import torch

from rnnlab.contracts import fuzz
from rnnlab.engine.ir import trace


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("seed", "count", "compiled"), [(1, 25, 0.0), (2, 8, 0.5)])
def test_random_steps_are_the_plain_loop_s_or_refused(seed, count, compiled, caplog):
    caplog.set_level(logging.ERROR)
    report = fuzz(count, seed, compiled=compiled)
    assert not report.failures, str(report)
    assert report.cases == count
    assert report.equal - report.fell_back > 0.4 * count  # most are compiled and not just run as they are written
    assert sum(report.skipped.values()) < 0.05 * count
    assert max(len(reason) for reason in report.refused) < 120


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_random_steps():
    report = fuzz(3000, 3)
    assert not report.failures, str(report)


@pytest.mark.filterwarnings("ignore")
def test_the_fuzzer_finds_what_it_is_there_for(monkeypatch):
    """A trace that loses no_grad, with nothing to check it by, is found out."""
    monkeypatch.setattr("rnnlab.engine.traced.verify", lambda *arguments: None)
    monkeypatch.setattr(
        trace._Recorder, "differentiates", property(lambda self: False, lambda self, value: None), raising=False
    )
    recipes = sys.modules["rnnlab.contracts.recipes"]
    monkeypatch.setattr(recipes, "UNUSUAL", {"no_grad": recipes.UNUSUAL["no_grad"]})
    report = fuzz(15, compiled=0.0, unusual=1.0)
    assert any("differs" in failure for failure in report.failures)
    assert torch.is_grad_enabled()
