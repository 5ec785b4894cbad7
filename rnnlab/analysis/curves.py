"""The measurements of one run as a figure."""

from __future__ import annotations

from collections import defaultdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from rnnlab import report
from rnnlab.analysis import runs
from rnnlab.analysis.figures import FEW_POINTS
from rnnlab.analysis.runs import Run, records
from rnnlab.analysis.units import scale, told, write_values
from rnnlab.interface import InputError, Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT, COLUMNS = 4.2, 2.8, 3
"""Size of a panel in inches, and the largest number of panels side by side."""
NOT_METRICS = ("step", "split", "tokens", "seconds", "by_length")

AXES = ("step", "tokens", "seconds", "lr")
"""What metrics can be drawn against; only training has a learning rate."""

_PLAIN = {"lr": "learning rate", "grad_norm": "gradient norm", "tokens_per_second": "tokens per second"}
"""Names of measurements of training in plain words."""

Series = dict[str, tuple[list[float], list[float]]]
"""Places on the horizontal axis and values, by split."""


def read(run: Path, against: str = "step") -> dict[str, Series]:
    """Return the measurements of a run by metric and split; values that are not finite are left out.

    Args:
        run: directory of the run.
        against: one of `AXES`, the quantity on the horizontal axis; records without it are left out.

    Raises:
        InputError: the run has no measurements.
    """
    file = run / "metrics.jsonl"
    if not file.exists():
        raise InputError(f"{run} has no metrics.jsonl; give the directory of a run that has been trained")
    found: dict[str, Series] = defaultdict(lambda: defaultdict(lambda: ([], [])))
    for record in records(file, problems=[], training=True):  # a run that is being written may end in half a line
        if not isinstance(record.get(against), int | float):
            continue
        for name, value in record.items():
            if name not in (*NOT_METRICS, against) and isinstance(value, int | float) and isfinite(value):
                places, values = found[name][record["split"]]
                places.append(record[against])
                values.append(value)
    if not found:
        raise InputError(f"{file} has no measurements yet")
    return found


def about(run: Path) -> Run | None:
    """Return what the run's summary says of its metrics and baselines; None if there is no readable run."""
    try:
        return runs.read([run])[0][0]
    except InputError:
        return None


def draw(measured: dict[str, Series], title: str, run: Run | None = None, against: str = "step") -> Figure:
    """Plot every metric in a panel of its own, with one line for each split; a single point is a horizontal line.

    Args:
        measured: from `read`.
        title: title of the figure.
        run: from `about`, for the units and the baselines on valid; None for no units and no baselines.
        against: as for `read`.

    Raises:
        InputError: matplotlib is not installed.
    """
    columns = min(COLUMNS, len(measured))
    rows = -(-len(measured) // columns)
    made, first = report.figure(WIDTH * columns, HEIGHT * rows + 0.4)
    first.remove()
    made.suptitle(title.replace("$", r"\$"), fontsize=11)
    splits = list(dict.fromkeys(split for series in measured.values() for split in series))
    divisor, words = 1.0, "learning rate"
    if against != "lr":
        divisor, words = scale(
            against, max(max(places) for series in measured.values() for places, _ in series.values())
        )
    for place, (name, series) in enumerate(measured.items(), 1):
        axes = made.add_subplot(rows, columns, place)
        report.dress(axes)
        declared = run.summary.get("metrics", {}) if run else {}
        metric = Metric(**declared[name]) if name in declared else None
        heading = f"{name} ({metric.unit})" if metric else _PLAIN.get(name, name)
        axes.set(title=heading.replace("$", r"\$"), xlabel=words if place > len(measured) - columns else "")
        for split, (places, values) in series.items():
            look = report.style(splits.index(split))
            if len(values) == 1:
                axes.axhline(values[0], color=look["color"], linestyle=":", label=f"{split}, {against} {places[0]:,}")
            else:
                marker = look["marker"] if len(values) < FEW_POINTS else None
                shown = {**look, "marker": marker, "markersize": 3}
                axes.plot([one / divisor for one in places], values, **shown, label=split)
        if against == "lr":
            axes.set_xscale("log")
        else:
            report.write_counts(axes)
        write_values(axes, metric)
        if run and metric:
            found = {f"{who}: {told(value, metric, 3)}": value for who, value in run.baselines(name, "valid").items()}
            report.mark_values(axes, found, is_below=metric.better == "higher")
    report.legend_below(made)
    return made
