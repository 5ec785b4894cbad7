"""A differential fuzzer: compare every backend with the reference backend on random cells in random circumstances.

Outputs, final states and all gradients must equal those of the reference, or the backend must refuse the cell with an
`InputError`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor

from rnnlab.contracts.idioms import CORNERED, UNUSUAL
from rnnlab.contracts.recipes import recipe
from rnnlab.contracts.scenarios import Scenario, scenario
from rnnlab.engine import fused
from rnnlab.interface import InputError

BACKENDS = ("fused", "auto", "scan", "native")
TOLERANCES = {torch.float64: 1e-6, torch.float32: 2e-3}
"""Largest error relative to the largest magnitude of a case's results. PyTorch's own derivatives of ``hardsigmoid`` and
``celu`` have single-precision constants."""


@dataclass
class Report:
    """The results of the fuzzer.

    cases: number of random cells tried.
    equal: runs of a backend whose results equal those of the reference.
    fell_back: the part of these runs in which the backend ran the reference's loop.
    refused: counts of the reasons for which a backend refused a cell.
    skipped: counts of the reasons for which the reference itself failed.
    failures: a sentence with the number of the case for every difference or unexpected exception.
    """

    cases: int = 0
    equal: int = 0
    fell_back: int = 0
    refused: Counter = field(default_factory=Counter)
    skipped: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.cases} cells: {self.equal} runs equal to the reference ({self.fell_back} of them fell back to it), "
            f"{sum(self.refused.values())} refused, {sum(self.skipped.values())} cells skipped, "
            f"{len(self.failures)} failures"
        ]
        for title, counts in (("refused", self.refused), ("skipped", self.skipped)):
            lines += [f"  {title}: {count} x {reason}" for reason, count in counts.most_common()]
        return "\n".join([*lines, *self.failures])


def fuzz(count: int = 200, seed: int = 0, *, first: int = 0, compiled: float = 0.1, unusual: float = 0.4) -> Report:
    """Compare every backend with the reference on random cells.

    Args:
        count: number of cells.
        seed: seed; a case depends only on this seed and its number.
        first: number of the first case, to repeat a case.
        compiled: share of the cases whose steps are compiled to C; in the others the traced steps run in Python.
        unusual: share of the cases whose step contains an undocumented operation.

    Returns:
        the results; ``failures`` is empty if every backend agrees with the reference or refuses.
    """
    report = Report()
    for number in range(first, first + count):
        _case(report, number, Random(f"{seed}-{number}"), compiled, unusual)
        report.cases += 1
    return report


def _case(report: Report, number: int, draw: Random, compiled: float, unusual: float) -> None:
    names, build = recipe(draw, unusual)
    dtype = torch.float32 if draw.random() < 0.25 and not set(names) & {*CORNERED, *UNUSUAL} else torch.float64
    circumstances = scenario(draw, build, dtype)
    form = contextlib.nullcontext() if draw.random() < compiled else _as_python()
    what = f"case {number}, {' > '.join(names)}, {circumstances.words}"
    with form:
        expected = _outcome(circumstances, "reference")
        if isinstance(expected, Exception):
            report.skipped[f"{type(expected).__name__}: {str(expected).splitlines()[0][:60]}"] += 1
            return
        for backend in BACKENDS:
            found = _outcome(circumstances, backend)
            if isinstance(found, InputError) and backend != "auto":
                report.refused[str(found).partition(", ")[2].partition(";")[0]] += 1
            elif isinstance(found, Exception):
                report.failures.append(f"{what}: {backend} raises {type(found).__name__}: {found}")
            elif (error := _error(found, expected)) > TOLERANCES[dtype]:
                report.failures.append(f"{what}: {backend} differs by {error:.2g}")
            else:
                report.equal += 1
                report.fell_back += circumstances.ran_by == "reference"


def _outcome(scenario: Scenario, backend: str) -> list[Tensor | None] | Exception:
    try:
        return scenario.run(backend)
    except Exception as error:  # every exception is a result
        return error


def _error(found: list[Tensor | None], expected: list[Tensor | None]) -> float:
    """Return the largest difference relative to the largest magnitude; infinity if shapes or dtypes differ."""
    if len(found) != len(expected):
        return float("inf")
    size = max(
        (float(t.detach().abs().nan_to_num(0, 0, 0).max()) for t in expected if t is not None and t.numel()), default=1
    )
    worst = 0.0
    for mine, true in zip(found, expected, strict=True):
        if mine is None or true is None:  # a missing gradient counts as zero
            other = true if mine is None else mine
            worst = max(worst, float(other.abs().max()) if other is not None and other.numel() else 0.0)
            continue
        if mine.shape != true.shape or mine.dtype != true.dtype:
            return float("inf")
        mine, true = (t.detach().nan_to_num(7.0, 8.0, -8.0) for t in (mine, true))
        worst = max(worst, float((mine - true).abs().max()) if true.numel() else 0.0)
    return worst / max(size, 1e-6)


@contextlib.contextmanager
def _as_python() -> Iterator[None]:
    """Run traced steps in Python, because compiling all of them would take most of the time."""
    compiles = fused.Traced.lowered, fused.Traced.heads
    fused.Traced.lowered = fused.Traced.heads = None
    try:
        yield
    finally:
        fused.Traced.lowered, fused.Traced.heads = compiles
