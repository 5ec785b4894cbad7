"""The figures of a comparison: points, curves, Pareto fronts, and all tasks side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnlab import report
from rnnlab.analysis.comparison import Comparison, Group, Section
from rnnlab.analysis.runs import Run
from rnnlab.analysis.statistics import pareto
from rnnlab.analysis.units import maybe_logarithmic, scale, write_values
from rnnlab.analysis.units import told as written
from rnnlab.interface import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = ("step", "tokens", "seconds", "flops")
"""Quantities against which learning curves are drawn."""
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


OVERVIEW = (
    "Every task: the metric on valid against training steps, median over runs; bands from lowest to highest run; marks "
    "are evaluations, dashed lines are baselines."
)


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
        axes.set(title=section.task.replace("$", r"\$"), ylabel=_in_lines(_told(section)))
        groups = [group for group in section.groups if group.runs]
        _draw_curves(axes, groups, {id(group): section.curves(group) for group in groups}, "step", looks)
        write_values(axes, section.metric)
        _draw_baselines(axes, section, "valid")
        handles |= {label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = sorted(handles, key=[_short(label) for label in looks].index)
    report.legend_below(made, {name: handles[name] for name in names})
    return made


def _told(section: Section) -> str:
    return f"{section.name} ({section.metric.unit})"


def _in_lines(label: str) -> str:
    """Break a long label of a y axis before the unit."""
    return label if len(label) <= 32 else label.replace(" (", "\n(", 1)


def figures(section: Section, looks: Looks) -> dict[str, tuple[Figure, str]]:
    """Return the figures of a section by name, each with a description, in the order of the page."""
    groups = [group for group in section.groups if group.runs]
    if not groups:
        return {}
    told, where = _told(section), " and ".join(section.splits)
    lines = "; dashed lines are baselines" if section.baselines() else ""
    drawn = {
        "scores": (
            _points(section, groups, told, looks),
            f"{told} on {where} of every run; the bar is the interquartile mean{lines}.",
        )
    }
    curves = {id(group): section.curves(group) for group in groups}
    lines = "; dashed lines are baselines" if section.baselines("valid") else ""
    for axis in AXES:
        made, axes = report.figure(height=3.4, ylabel=_in_lines(told))
        if _draw_curves(axes, groups, curves, axis, looks):
            write_values(axes, section.metric)
            _draw_baselines(axes, section, "valid")
            report.legend_below(made)
            drawn[axis] = (made, f"{told} on valid against {axes.get_xlabel()}; marks are evaluations{lines}.")
    for key in ("parameters", "seconds"):
        if key == "parameters" and section.is_of_one_size:
            continue
        made = _front(section, groups, key, told, looks)
        if made:
            words = made.axes[0].get_xlabel()
            drawn[f"pareto-{key}"] = (made, f"Median {told} on {where} against {words}; the line is the Pareto front.")
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
    axes.set_yticks(range(len(shown)), [_short(group.label) for group in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    maybe_logarithmic(axes, [score for group in shown for score in group.scores], "x")
    write_values(axes, section.metric, "x")
    _draw_baselines(axes, section, is_vertical=True)
    return made


def _draw_baselines(axes: Axes, section: Section, split: str | None = None, is_vertical: bool = False) -> None:
    """Draw each of the task's baselines as a dashed line with its name and value."""
    found = {
        f"{_short(who)}: {written(value, section.metric, 3)}": value for who, value in section.baselines(split).items()
    }
    # Learning moves curves away from a baseline, so its label is on the other side of the line.
    report.mark_values(axes, found, is_vertical, is_below=section.metric.better == "higher")


def _draw_curves(axes: Axes, groups: Sequence[Group], curves: dict[int, list[Any]], axis: str, looks: Looks) -> bool:
    """Draw medians and bands into axes; return whether any median is finite."""
    seen: list[float] = []
    drawn: list[Any] = []
    for group in groups:
        of_runs = [
            (curve[axis], np.where(np.isfinite(curve["value"]), curve["value"], group.worst), run.status)
            for curve, run in zip(curves[id(group)], group.runs, strict=True)
            if len(curve[axis]) and np.isfinite(curve[axis]).all()
        ]
        if not of_runs:
            continue
        first, last = max(x[0] for x, _, _ in of_runs), max(x[-1] for x, _, _ in of_runs)
        marks = _evaluations([x for x, _, _ in of_runs], first, last)
        grid = np.union1d(np.linspace(first, last, 200 if last > first else 1), marks)
        values = np.array([_stepped(grid, x, y, group.worst if s == "diverged" else None) for x, y, s in of_runs])
        middle, low, high = np.median(values, axis=0), values.min(axis=0), values.max(axis=0)
        middle, low, high = (np.where(np.isfinite(row), row, nan) for row in (middle, low, high))
        at = np.flatnonzero(np.isin(grid, marks)).tolist() if len(marks) < FEW_POINTS else []
        drawn.append((group, grid, middle, low, high, at))
        seen += middle[np.isfinite(middle)].tolist()
    divisor, words = scale(axis, max((grid[-1] for _, grid, *_ in drawn), default=0.0))
    for place, (group, grid, middle, low, high, at) in enumerate(drawn):
        look = {**report.style(looks[group.label]), "markevery": at, "markersize": 4, "linewidth": 1.6}
        label = _short(group.label) if place < MOST_NAMED else None
        axes.plot(grid / divisor, middle, label=label, **look)
        axes.fill_between(grid / divisor, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axes.set_xlabel(words)
    maybe_logarithmic(axes, seen, "y")
    report.write_counts(axes)
    return bool(seen)


def _evaluations(steps: Sequence[np.ndarray], first: float, last: float) -> np.ndarray:
    """Return where the runs of a group were evaluated: the median over the runs of each evaluation in turn."""
    by_run = np.full((len(steps), max(map(len, steps))), nan)
    for row, x in zip(by_run, steps, strict=True):
        row[: len(x)] = x
    places = np.nanmedian(by_run, axis=0)
    return places[(first <= places) & (places <= last)]


def _stepped(grid: np.ndarray, x: np.ndarray, y: np.ndarray, beyond: float | None) -> np.ndarray:
    """Return a run's values on a grid, interpolated between evaluations; after the last, its value or ``beyond``."""
    finite = np.isfinite(y)
    if finite.all():
        values = np.interp(grid, x, y)
    else:  # infinite values cannot be interpolated: take the last value at each point
        values = y[np.clip(np.searchsorted(x, grid, side="right") - 1, 0, len(y) - 1)]
    return values if beyond is None else np.where(grid > x[-1], beyond, values)


def _front(section: Section, groups: Sequence[Group], key: str, told: str, looks: Looks) -> Figure | None:
    points = [(group.typical(key), group.median) for group in groups]
    if len(groups) < 2 or not all(isfinite(x) for x, _ in points):
        return None
    divisor, words = scale(key, max(x for x, _ in points))
    points = [(x / divisor, y) for x, y in points]
    made, axes = report.figure(height=3.4, xlabel=words, ylabel=_in_lines(f"median {told}"))
    for place, (group, (x, y)) in enumerate(zip(groups, points, strict=True)):
        if isfinite(y):
            look = report.style(looks[group.label])
            label = _short(group.label) if place < MOST_NAMED else None
            axes.plot([x], [y], look["marker"], color=look["color"], markersize=7, label=label)
    sign = 1 if section.metric.better == "lower" else -1
    best = sorted(p for p, on in zip(points, pareto([(x, sign * y) for x, y in points]), strict=True) if on)
    axes.plot([x for x, _ in best], [y for _, y in best], color=report.MUTED, linewidth=1, zorder=0)
    axes.margins(0.1)
    maybe_logarithmic(axes, [y for _, y in points], "y")
    report.write_counts(axes)
    write_values(axes, section.metric)
    report.legend_below(made)
    return made


def _by_length(groups: Sequence[Group], looks: Looks) -> Figure | None:
    name, metric = _length_metric([run for group in groups for run in group.runs])
    made, axes = report.figure(height=3.4, xlabel=_length_name(groups), ylabel=_in_lines(name))
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
    write_values(axes, metric)
    report.legend_below(made)
    return made


def _length_metric(runs: Sequence[Run]) -> tuple[str, Metric | None]:
    """Return the metric that is measured by length, as a label with its unit; the metric is None if it is unknown."""
    run = next((run for run in runs if run.summary.get("length_metric")), None)
    if run is None:
        return "metric", None
    name = run.summary["length_metric"]
    declared = run.summary["metrics"]
    return (f"{name} ({declared[name]['unit']})", run.metric(name)) if name in declared else (name, None)


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
        report.write_counts(axes)
    name, metric = _length_metric(runs) if is_split else (told, section.metric)
    places[0].set_ylabel(_in_lines(name))
    write_values(places[0], metric)
    report.legend_below(made, handles)
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


def _short(label: str, most: int = 28) -> str:
    """Shorten a label to fit into a figure."""
    label = label.replace("$", r"\$")  # matplotlib renders text between dollars as mathematics
    return label if len(label) <= most else label[: most - 1] + "…"
