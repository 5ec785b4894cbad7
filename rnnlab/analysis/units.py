"""Values and axes in plain units: shares in percent, times in minutes or hours, large counts in millions."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from rnnlab.interface import Metric
from rnnlab.report import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = {"step": "training steps", "tokens": "input steps trained on", "flops": "floating-point operations"}
_NAMES |= {"parameters": "parameters", "seconds": "training time"}
_COUNTS = ((1e18, "10¹⁸"), (1e15, "10¹⁵"), (1e12, "trillions"), (1e9, "billions"), (1e6, "millions"))
_TIMES = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_ENOUGH = 3
"""A unit is used if the largest value is at least this many of it."""


def is_share(metric: Metric) -> bool:
    """Whether a metric is a share from 0 to 1, which is shown in percent: its unit reads "of the symbols right"."""
    return metric.better == "higher" and metric.unit.startswith(("of ", "right"))


def told(value: float | None, metric: Metric, digits: int = 4) -> str:
    """Return a value of a metric as text, in percent for a share."""
    if value is None or not is_share(metric) or not isfinite(value):
        return number(value, digits)
    return f"{number(100 * value, digits)}%"


def difference(value: float, metric: Metric) -> str:
    """Return a difference of two values of a metric as text, in the unit of `difference_unit`."""
    return number(100 * value if is_share(metric) else value)


def difference_unit(metric: Metric) -> str:
    """Return the unit of a difference of two values of a metric."""
    return f"percentage points {metric.unit}" if is_share(metric) else metric.unit


def scale(quantity: str, largest: float) -> tuple[float, str]:
    """Return the divisor and the label of an axis.

    Args:
        quantity: ``step``, ``tokens``, ``seconds``, ``flops`` or ``parameters``.
        largest: largest value on the axis.
    """
    name = _NAMES[quantity]
    if quantity == "seconds":
        divisor, unit = next((one for one in _TIMES if largest >= _ENOUGH * one[0]), _TIMES[-1])
        return divisor, f"{name} ({unit})"
    for divisor, unit in _COUNTS:
        if largest >= _ENOUGH * divisor:
            return divisor, f"{name} ({unit})"
    return 1.0, name


def write_values(axes: Axes, metric: Metric | None, which: str = "y") -> None:
    """Write the numbers of an axis as values of a metric, without powers of ten where a decimal is readable."""
    axis = getattr(axes, f"{which}axis")
    plain = metric or Metric("")
    axis.set_major_formatter(lambda value, place: told(value, plain, 6))


def maybe_logarithmic(axes: Axes, values: Sequence[float], which: str) -> None:
    """Use a logarithmic axis if all finite values are positive and span more than a factor of 30."""
    finite = [value for value in values if isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > 30 * min(finite):
        axes.set(**{f"{which}scale": "log"})
        getattr(axes, f"{which}axis").set_minor_formatter("")
