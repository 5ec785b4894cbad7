"""The figures of a comparison: points, curves, Pareto fronts, and all tasks side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnlab import report
from rnnlab.analysis.comparison import Comparison, Group, Section
from rnnlab.analysis.runs import Run
from rnnlab.analysis.statistics import pareto

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {"step": "training steps", "tokens": "input steps trained on", "seconds": "seconds", "flops": "FLOPs"}
MOST_NAMED = 8
"""Largest number of groups in a legend; further groups are drawn without an entry."""
MOST_PANELS = 4
"""Largest number of sections in the overview; with more there is none."""
MOST_TICKS = 6
"""Largest number of state sizes that are all marked on their axis."""
FEW_POINTS = 50
"""Lines with fewer points than this have markers."""

Looks = dict[str, int]
"""Style number, for `rnnlab.report.style`, of every group label."""


def looks_of(comparison: Comparison) -> Looks:
    """Assign a style number to every group label, so that a group has the same colour in every section."""
    labels = dict.fromkeys(group.label for section in comparison.sections for group in section.groups)
    return {label: number for number, label in enumerate(labels)}


OVERVIEW = "Every task: the metric on valid against training steps, median over runs; bands from lowest to highest run."


def overview(comparison: Comparison, looks: Looks) -> Figure | None:
    """Plot curves against training steps, one panel per section; None for fewer than two or more than four sections."""
    sections = [section for section in comparison.sections if any(group.runs for group in section.groups)]
    if not 2 <= len(sections) <= MOST_PANELS:
        return None
    made, first = report.figure(3.4 * len(sections), 3.0)
    first.remove()
    handles = {}
    for axes, section in zip(made.subplots(1, len(sections)), sections, strict=True):
        report.dress(axes)
        axes.set(title=section.task.replace("$", r"\$"), xlabel=AXES["step"], ylabel=_told(section))
        groups = [group for group in section.groups if group.runs]
        _draw_curves(axes, groups, {id(group): section.curves(group) for group in groups}, "step", looks)
        _draw_baseline(axes.axhline, section, "valid", label=None)
        handles |= {label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = sorted(handles, key=[_short(label) for label in looks].index)
    _legend_below(made, {name: handles[name] for name in names})
    return made


def _legend_below(made: Figure, handles: dict[str, Any]) -> None:
    below = {"loc": "outside lower center", "ncols": 4, "frameon": False, "labelcolor": report.INK, "fontsize": 9}
    made.legend(handles.values(), handles.keys(), **below)


def _told(section: Section) -> str:
    return f"{section.name} ({section.metric.unit})"


def figures(section: Section, looks: Looks) -> dict[str, tuple[Figure, str]]:
    """Return the figures of a section by name, each with a description, in the order of the page."""
    groups = [group for group in section.groups if group.runs]
    if not groups:
        return {}
    told = _told(section)
    drawn = {
        "scores": (
            _points(section, groups, told, looks),
            f"{told} on {' and '.join(section.splits)} of every run; the bar is the interquartile mean"
            + ("; the dotted line is the best baseline." if section.baselines() else "."),
        )
    }
    curves = {id(group): section.curves(group) for group in groups}
    for axis, words in AXES.items():
        made, axes = report.figure(xlabel=words, ylabel=told)
        if _draw_curves(axes, groups, curves, axis, looks):
            _draw_baseline(axes.axhline, section, "valid")
            report.legend(axes)
            drawn[axis] = (made, f"{told} on valid against {words}.")
    for key, words in (("parameters", "parameters"), ("seconds", "seconds of training")):
        if key == "parameters" and section.is_of_one_size:
            continue
        made = _front(section, groups, key, words, told, looks)
        if made:
            drawn[f"pareto-{key}"] = (
                made,
                f"Median {told} on {' and '.join(section.splits)} against {words}; the line is the Pareto front.",
            )
    made = _by_length(groups, looks)
    if made:
        drawn["length"] = (made, f"Metric on test against {_length_name(groups)}, median over runs.")
    made = _by_state(section, groups, told)
    if made:
        drawn["state"] = (made, "Metric on test against the numbers in the state of a sequence, median over runs.")
    return drawn


def _points(section: Section, groups: Sequence[Group], told: str, looks: Looks) -> Figure:
    shown = groups[: 4 * MOST_NAMED]
    made, axes = report.figure(height=max(2.0, 0.8 + 0.32 * len(shown)), xlabel=told)
    for place, group in enumerate(shown):
        colour = report.style(looks[group.label])["color"]
        finite = [score for score in group.scores if isfinite(score)]
        axes.plot(finite, [place] * len(finite), "o", color=colour, alpha=0.6, markersize=5)
        if isfinite(group.iqm):
            axes.plot([group.iqm] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2)
        within = group.interval
        if within and isfinite(within.low) and isfinite(within.high):
            axes.plot([within.low, within.high], [place, place], color=colour, linewidth=1)
    _draw_baseline(axes.axvline, section)
    axes.set_yticks(range(len(shown)), [_short(group.label) for group in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    _maybe_logarithmic(axes, [score for group in shown for score in group.scores], "x")
    return made


def _draw_baseline(
    line: Callable[..., Any], section: Section, split: str | None = None, label: str | None = "baseline"
) -> None:
    """Draw the task's best baseline as a dotted line across the axes."""
    for who, value in list(section.baselines(split).items())[:1]:
        line(value, color=report.MUTED, linestyle=":", linewidth=1, label=label and _short(f"{label} {who}"), zorder=0)


def _draw_curves(axes: Axes, groups: Sequence[Group], curves: dict[int, list[Any]], axis: str, looks: Looks) -> bool:
    """Draw medians and bands into axes; return whether any median is finite."""
    seen: list[float] = []
    for place, group in enumerate(groups):
        of_runs = [
            (curve[axis], np.where(np.isfinite(curve["value"]), curve["value"], group.worst), run.status)
            for curve, run in zip(curves[id(group)], group.runs, strict=True)
            if len(curve[axis]) and np.isfinite(curve[axis]).all()
        ]
        if not of_runs:
            continue
        first, last = max(x[0] for x, _, _ in of_runs), max(x[-1] for x, _, _ in of_runs)
        grid = np.linspace(first, last, 200) if last > first else np.array([last])
        values = np.array([_stepped(grid, x, y, group.worst if s == "diverged" else None) for x, y, s in of_runs])
        middle, low, high = np.median(values, axis=0), values.min(axis=0), values.max(axis=0)
        middle, low, high = (np.where(np.isfinite(row), row, nan) for row in (middle, low, high))
        style = report.style(looks[group.label])
        look = style if len(grid) == 1 else {**style, "marker": ""}
        label = _short(group.label) if place < MOST_NAMED else None
        axes.plot(grid, middle, label=label, linewidth=1.6, **look)
        axes.fill_between(grid, low, high, color=look["color"], alpha=0.15, linewidth=0)
        seen += middle[np.isfinite(middle)].tolist()
    _maybe_logarithmic(axes, seen, "y")
    _in_thousands(axes)
    return bool(seen)


def _stepped(grid: np.ndarray, x: np.ndarray, y: np.ndarray, beyond: float | None) -> np.ndarray:
    """Return a run's values on a grid, interpolated between evaluations; after the last, its value or ``beyond``."""
    finite = np.isfinite(y)
    if finite.all():
        values = np.interp(grid, x, y)
    else:  # infinite values cannot be interpolated: take the last value at each point
        values = y[np.clip(np.searchsorted(x, grid, side="right") - 1, 0, len(y) - 1)]
    return values if beyond is None else np.where(grid > x[-1], beyond, values)


def _front(section: Section, groups: Sequence[Group], key: str, words: str, told: str, looks: Looks) -> Figure | None:
    points = [(group.typical(key), group.median) for group in groups]
    if len(groups) < 2 or not all(isfinite(x) for x, _ in points):
        return None
    made, axes = report.figure(xlabel=words, ylabel=f"median {told}")
    for place, (group, (x, y)) in enumerate(zip(groups, points, strict=True)):
        if isfinite(y):
            look = report.style(looks[group.label])
            label = _short(group.label) if place < MOST_NAMED else None
            axes.plot([x], [y], look["marker"], color=look["color"], markersize=7, label=label)
    sign = 1 if section.metric.better == "lower" else -1
    best = sorted(p for p, on in zip(points, pareto([(x, sign * y) for x, y in points]), strict=True) if on)
    axes.plot([x for x, _ in best], [y for _, y in best], color=report.MUTED, linewidth=1, zorder=0)
    axes.margins(0.1)
    _maybe_logarithmic(axes, [y for _, y in points], "y")
    _in_thousands(axes)
    report.legend(axes)
    return made


def _by_length(groups: Sequence[Group], looks: Looks) -> Figure | None:
    name = next((run.summary.get("length_metric") for group in groups for run in group.runs), None)
    made, axes = report.figure(xlabel=_length_name(groups), ylabel=str(name or "metric"))
    any_drawn = False
    for place, group in enumerate(groups[: 2 * MOST_NAMED]):
        tables = [(run.summary.get("test") or {}).get("by_length") for run in group.runs]
        tables = [table for table in tables if isinstance(table, dict) and table]
        lengths = sorted({int(length) for table in tables for length in table})
        middle = [
            float(np.median([v for table in tables if (v := table.get(str(length))) is not None] or [nan]))
            for length in lengths
        ]
        if lengths:
            any_drawn = True
            style = report.style(looks[group.label])
            look = style if len(lengths) < FEW_POINTS else {**style, "marker": ""}
            label = _short(group.label) if place < MOST_NAMED else None
            axes.plot(lengths, middle, label=label, markersize=3, **look)
    if not any_drawn:
        return None
    report.legend(axes)
    return made


def _length_name(groups: Sequence[Group]) -> str:
    return next((run.summary.get("length_name", "length") for group in groups for run in group.runs), "length")


def _by_state(section: Section, groups: Sequence[Group], told: str) -> Figure | None:
    """Plot the metric against the state size; None unless the runs of a model and cell have several sizes.

    If the task reports lengths, there is one panel for each model and cell, with one curve for each length.
    """
    found = _by_name_and_state(groups)
    if max(map(len, found.values()), default=0) < 2:
        return None
    runs = [run for sizes in found.values() for members in sizes.values() for run in members]
    lengths = sorted({length for run in runs for length in _at_lengths(run)})
    is_split = 2 <= len(lengths) <= MOST_NAMED
    if is_split:
        counted = _length_name(groups)
        panels = {
            name: {f"{counted} {length}": _medians(sizes, section, length) for length in lengths}
            for name, sizes in list(found.items())[:MOST_PANELS]
        }
    else:
        panels = {section.task: {name: _medians(sizes, section) for name, sizes in found.items()}}
    made, first = report.figure(max(5.0, 3.4 * len(panels)), 3.1)
    first.remove()
    places = made.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    ticks = sorted({size for sizes in found.values() for size in sizes})
    handles = {}
    for axes, (title, curves) in zip(places, panels.items(), strict=True):
        report.dress(axes)
        axes.set(title=_short(title), xlabel="state size", xscale="log")
        for number, (label, points) in enumerate(curves.items()):
            look = report.style(number)
            (handles[_short(label)],) = axes.plot(points.keys(), points.values(), label=_short(label), **look)
        axes.xaxis.set_minor_formatter("")
        if len(ticks) <= MOST_TICKS:
            axes.set_xticks(ticks)
        _in_thousands(axes)
    places[0].set_ylabel(str(runs[0].summary.get("length_metric")) if is_split else told)
    _legend_below(made, handles)
    return made


def _by_name_and_state(groups: Sequence[Group]) -> dict[str, dict[float, list[Run]]]:
    """The runs of each cell by state size, in ascending order; of each model and cell if there are several models."""
    runs = [run for group in groups for run in group.runs if "state_size" in run.summary]
    keys = ["cell.name"] if len({run.config.get("model.name") for run in runs}) == 1 else ["model.name", "cell.name"]
    found: dict[str, dict[float, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(runs, key=lambda run: run.summary["state_size"]):
        found[", ".join(str(run.config.get(key)) for key in keys)][run.summary["state_size"]].append(run)
    return found


def _medians(sizes: dict[float, list[Run]], section: Section, length: int | None = None) -> dict[float, float]:
    """The median over the runs of each size, at a length or over all; runs without a finite value do not count."""
    found = {}
    for size, runs in sizes.items():
        values = [run.score(section.name) if length is None else _at_lengths(run).get(length, nan) for run in runs]
        values = [value for value in values if isfinite(value)]
        found[size] = float(np.median(values)) if values else nan
    return found


def _at_lengths(run: Run) -> dict[int, float]:
    """The metric of a run on test for each length; empty if the task reports no lengths."""
    table = (run.summary.get("test") or {}).get("by_length")
    return {int(length): value for length, value in table.items()} if isinstance(table, dict) else {}


def _in_thousands(axes: Axes) -> None:
    """Write the numbers of the x axis as 20k, 300M or 4G."""
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _maybe_logarithmic(axes: Any, values: Sequence[float], which: str) -> None:
    """Use a logarithmic axis if all finite values are positive and span more than a factor of 30."""
    finite = [value for value in values if isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > 30 * min(finite):
        axes.set(**{f"{which}scale": "log"})
        axis = getattr(axes, f"{which}axis")
        axis.set_major_formatter("{x:g}")  # rendering powers as mathematics takes longer than drawing the lines
        axis.set_minor_formatter("")


def _short(label: str, most: int = 28) -> str:
    """Shorten a label to fit into a figure."""
    label = label.replace("$", r"\$")  # matplotlib renders text between dollars as mathematics
    return label if len(label) <= most else label[: most - 1] + "…"
