"""What of a long table of cases `make test` runs; `make test-all` runs all of it."""

from collections.abc import Iterable
from typing import Any

import pytest

from rnnlab import cells


def _values(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


def quick_if(cases: Iterable[Any], is_quick: Any) -> list[Any]:
    """The cases as parameters, marked slow unless ``is_quick(case)``."""
    return [pytest.param(*_values(case), marks=[] if is_quick(case) else [pytest.mark.slow]) for case in cases]


def every(stride: int, cases: Iterable[Any]) -> list[Any]:
    """The cases as parameters, all but the first of every ``stride`` marked slow.

    Args:
        stride: 4 leaves a quarter of the cases in the quick tier, the same ones each time.
        cases: values, or tuples of them where a test has several parameters.
    """
    return [
        pytest.param(*_values(case), marks=[pytest.mark.slow] if number % stride else [])
        for number, case in enumerate(cases)
    ]


CORE = frozenset(
    {"rnn", "lstm", "gru", "indrnn", "mingru", "s4d", "mlstm", "orthogonal", "clockwork", "layernorm_lstm"}
    | {"deltanet", "lif", "ltc", "qrnn", "slstm", "peephole", "lmu"}
)
"""Cells of all kinds: plain, gated, element by element, linear, with matrix states, constrained, ticking, normalised,
spiking, continuous in time."""


MATRIX = frozenset(name for name in cells.available() if cells.describe(name).family == "matrix")
"""Cells with matrix states."""


def core(names: Iterable[str]) -> list[Any]:
    """The names of cells as parameters, those that are not in `CORE` marked slow."""
    return quick_if(names, CORE.__contains__)
