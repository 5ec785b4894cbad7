"""A comparison as a page, as Markdown, as tables in CSV and as figures."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from rnnlab import files, page
from rnnlab.analysis.groups import Comparison, Group, Section
from rnnlab.analysis.runs import Run
from rnnlab.analysis.statistics import FEWEST_FOR_TEST, pareto
from rnnlab.page import Cell, Page, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {"step": "training steps", "tokens": "input steps trained on", "seconds": "seconds", "flops": "FLOPs"}
MOST_NAMED = 8
"""More series than this in one figure are drawn, but only the best are named."""
MOST_LISTED = 4
"""More names than this are only counted in a sentence."""
MOST_PANELS = 4
"""With more tasks than this there is no figure of all."""
FEW_POINTS = 50
"""With more points than this on a line they have no markers."""

COLUMNS = ("runs", "diverged", "solved", "mean", "median", "IQM", "95% interval", "best", "parameters", "seconds")


def write(comparison: Comparison, out: str | Path) -> Path:
    """Write ``index.html``, ``report.md``, CSV tables and ``figures/`` into a new folder.

    Args:
        comparison: what to show.
        out: the folder; where it exists, the next free of ``out-2``, ``out-3`` and so on.

    Returns:
        the folder.
    """
    folder = files.new_folder(Path(out).expanduser())
    (folder / "figures").mkdir()
    looks = looks_of(comparison)
    together = overview(comparison, looks)
    first = (page.save(together, folder / "figures" / "overview"), _OVERVIEW) if together else None
    shown = []
    for count, section in enumerate(comparison.sections, 1):
        stem = re.sub(r"[^\w.-]", ".", section.task) + (f"-{count}" if len(comparison.sections) > 1 else "")
        drawn = figures(section, looks).items()
        shown.append([(page.save(made, folder / "figures" / f"{stem}-{name}"), alt) for name, (made, alt) in drawn])
    for name, rows in tables(comparison).items():
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        files.write_bytes(folder / f"{name}.csv", text.getvalue().encode())
    files.write_bytes(folder / "report.md", markdown(comparison).encode())
    _page(comparison, first, shown, folder).write(folder / "index.html")
    return folder


def verdict(section: Section) -> str:
    """What the section shows, in a sentence or two, and no more than it shows."""
    unit, groups = section.metric.unit, [group for group in section.groups if group.runs]
    told = f"{section.name} on {' and '.join(section.splits)}, {unit}, {section.metric.better} is better"
    if not groups:
        return f"{section.task} ({told}): no run has finished yet."
    best = groups[0]
    text = f"{section.task} ({told}): {best.label} has {number(best.iqm)}"
    if len(groups) == 1:
        return f"{text} over {_runs(best)}; there is nothing to compare it with."
    if solvers := sorted((group for group in groups if group.solved_after is not None), key=_solved_after):
        return f"{section.task} ({told}): {_solvers(solvers)}{_others(groups, solvers)}"
    second = groups[1]
    text += f", the best of {len(groups)} groups, ahead of {second.label} with {number(second.iqm)}."
    result = next(((r, p) for a, b, r, p in section.pairs if a is best and b is second), None)
    if result is None:
        return f"{text} They have no seed in common, so nothing is said of the difference."
    paired, p = result
    text += f" It is better in {paired.wins} of {paired.n} seeds"
    if p is None:
        return f"{text}; {_pairs(paired.n)} too few for a test (at least {FEWEST_FOR_TEST})."
    sure = "the difference is unlikely to be chance" if p < 0.05 else "that may be chance"
    return f"{text}; {sure} (Wilcoxon, Holm's correction, p = {number(p, 2)})."


def _solved_after(group: Group) -> float:
    return group.solved_after or 0.0


def _solvers(solvers: Sequence[Group]) -> str:
    """Who reached the target in every run, the fastest first: below it training ends, and lower means nothing."""
    told = [f"{group.label} after {number(group.solved_after, 3)} steps" for group in solvers]
    return f"{_and(told)} (median) reached the target in every run."


def _others(groups: Sequence[Group], solvers: Sequence[Group]) -> str:
    others = [group for group in groups if group not in solvers]
    told = [f"{group.label} in {group.solved} of {len(group.runs)}" for group in others if group.solved]
    if never := [group.label for group in others if not group.solved]:
        told.append(f"{_and(never) if len(never) <= MOST_LISTED else f'{len(never)} more'} in none")
    return f" {_and(told)} did." if told else ""


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


Shown = tuple[str, str]
"""A figure as SVG, and what it shows in words."""


def _page(comparison: Comparison, first: Shown | None, shown: Sequence[Sequence[Shown]], folder: Path) -> Page:
    """The page, with the figure of all sections and those of each; links are relative to ``folder``."""
    count = sum(len(group.runs) for section in comparison.sections for group in section.groups)
    waiting = sum(len(group.unfinished) for section in comparison.sections for group in section.groups)
    names = " · ".join(dict.fromkeys(section.task for section in comparison.sections))
    lead = f"{count} runs compared" + (f", {waiting} not finished and not counted" if waiting else "") + "."
    made = Page(f"Comparison: {names}", lead)
    if len(comparison.sections) > 1:
        made.text(
            f"The runs are of {len(comparison.sections)} tasks or sets of data. Each has a section of its own; "
            "nothing is compared across them.",
            "note",
        )
    if first:
        made.figure(first[0], first[1], first[1])
    for index, (section, drawn) in enumerate(zip(comparison.sections, shown, strict=True), 1):
        data = f", data {section.digest[:8]}" if section.digest else ""
        made.section(f"{section.task}{data}", f"section-{index}")
        made.text(verdict(section))
        _groups_table(made, section, index)
        for svg, alt in drawn:
            made.figure(svg, alt, alt)
        _metrics_table(made, section)
        _pairs_table(made, section)
        _differences_table(made, section)
        made.heading("Runs")
        for place, group in enumerate(section.groups, 1):
            _runs_list(made, group, f"runs-{index}-{place}", folder)
    if comparison.tuning:
        _tuning_table(made, comparison)
    _problems(made, comparison)
    _environment(made, comparison)
    made.section("How to read this", "reading")
    for text in _READING:
        made.text(text)
    return made


_READING = (
    "A score is the metric of a run's best checkpoint, chosen on valid and measured once on test (on valid where the "
    "task has no test). A run that diverged has the worst score there is: it counts in median, interquartile mean "
    "(IQM) and ranks, and makes a mean infinite.",
    "The IQM is the mean of the middle half of the runs (Agarwal et al., 2021). Its 95% interval is a percentile "
    "bootstrap over runs; below 4 runs there is none, and the points themselves are all that can be shown.",
    "Pairs of groups are compared run by run with the same seed: Wilcoxon's signed-rank test, two-sided, p-values "
    f"corrected by Holm's method for all pairs of a section. Below {FEWEST_FOR_TEST} pairs there is no p-value, since "
    "the smallest it could have is above 0.05. The effect size is the matched-pairs rank-biserial correlation: 1 where "
    "the first is better in every pair, -1 where it is worse.",
    "Curves are medians over runs; where a run ended early its last value stands on, where it diverged its value is "
    "the worst. Bands go from the lowest to the highest run. FLOPs are those of the matrix products, forward and "
    "backward.",
    "Seconds are training time on the machine named below, other work on it included.",
)


def _groups_table(made: Page, section: Section, index: int) -> None:
    rows = []
    for place, (group, on_front) in enumerate(zip(section.groups, section.front, strict=True), 1):
        link = f"#runs-{index}-{place}"
        values = [Cell(text, sort, link) for text, sort in summary_row(group)]
        rows.append([Cell(group.label, href=link), *values, "yes" if on_front else ""])
    made.table(
        ["group", *COLUMNS, "Pareto front"],
        rows,
        f"{section.name} ({section.metric.unit}, {section.metric.better} is better), best first; every number leads "
        "to its runs. On the Pareto front: no other group is at least as good in median, parameters and seconds.",
    )


def summary_row(group: Group) -> list[tuple[str, Any]]:
    """A group's numbers for `COLUMNS`: as they are shown, and what they are sorted by."""
    within = group.interval
    best = min(group.scores, default=nan) if group.better == "lower" else max(group.scores, default=nan)
    waiting = f" (+{len(group.unfinished)} unfinished)" if group.unfinished else ""
    solved = group.solved
    return [
        (f"{len(group.runs)}{waiting}", len(group.runs)),
        (str(group.diverged), group.diverged),
        ("–" if solved is None else f"{solved} of {len(group.runs)}", -1 if solved is None else solved),
        *((number(value), value) for value in (group.mean, group.median, group.iqm)),
        (f"{number(within.low)} to {number(within.high)}" if within else "–", within.low if within else ""),
        (number(best), best),
        *((number(value), value) for value in (group.typical("parameters"), group.typical("seconds"))),
    ]


def _metrics_table(made: Page, section: Section) -> None:
    """Medians of what else the task measures, so that a loss is not all that is seen."""
    runs = [run for group in section.groups for run in group.runs]
    declared = dict.fromkeys(name for run in runs for name in run.summary.get("metrics") or {})
    others = [name for name in declared if name != section.name]
    if not others:
        return
    kinds = {name: next(run.metric(name) for run in runs if name in run.summary["metrics"]) for name in others}
    rows = []
    for group in section.groups:
        scores = [[run.score(name) for run in group.runs if isfinite(run.score(name))] for name in others]
        rows.append([group.label, *(float(np.median(values)) if values else None for values in scores)])
    columns = [f"{name} ({kind.unit}, {kind.better} is better)" for name, kind in kinds.items()]
    made.heading("Other metrics")
    made.table(["group", *columns], rows, "Medians over the runs that have them.")


def _pairs_table(made: Page, section: Section) -> None:
    if not section.pairs:
        return
    rows = []
    for a, b, result, p in section.pairs:
        within = f"{number(result.interval.low)} to {number(result.interval.high)}" if result.interval else "–"
        rows.append(
            [
                a.label,
                b.label,
                result.n,
                Cell(f"{result.wins} of {result.n}", result.wins),
                Cell(number(result.difference), result.difference),
                within,
                Cell(number(result.effect, 2), result.effect),
                Cell(number(result.p, 2), 2 if result.p is None else result.p),
                Cell(number(p, 2), 2 if p is None else p, None, "good" if p is not None and p < 0.05 else None),
            ]
        )
    made.heading("Pair by pair, by seed")
    columns = ("first", "second", "pairs", "first better", "mean difference", "95% interval", "effect", "p", "p (Holm)")
    made.table(columns, rows, f"First minus second, in {section.metric.unit}.")
    if all(result.p is None for *_, result, _ in section.pairs):
        fewest = min(result.n for *_, result, _ in section.pairs)
        made.text(f"{_pairs(fewest)} too few for a test: below {FEWEST_FOR_TEST} no p-value can reach 0.05.", "note")


def _differences_table(made: Page, section: Section) -> None:
    if not section.differences:
        return
    rows = []
    for key, per_group in section.differences.items():
        cells = [", ".join(values[:4]) + (f", … ({len(values)})" if len(values) > 4 else "") for values in per_group]
        rows.append([key, *cells])
    made.heading("What differs")
    made.table(["option", *(group.label for group in section.groups)], rows, "Options that differ between these runs.")


def _runs_list(made: Page, group: Group, anchor: str, folder: Path) -> None:
    rows = []
    for run, score in zip(group.runs, group.scores, strict=True):
        text = f"seed {run.seed}: {number(score)}, {run.status} at step {run.summary.get('steps')} — {run.path}"
        rows.append((text, _href(run, folder)))
    rows += [(f"seed {run.seed}: unfinished — {run.path}", _href(run, folder)) for run in group.unfinished]
    made.details(f"{group.label}: {_runs(group)}", anchor, rows)


def _href(run: Run, folder: Path) -> str:
    return quote(Path(os.path.relpath(run.path.resolve(), folder.resolve())).as_posix())


def _tuning_table(made: Page, comparison: Comparison) -> None:
    tuning = comparison.tuning
    made.section("Tuning", "tuning")
    seeds = ", ".join(map(str, tuning.seeds))
    made.text(
        f"{', '.join(tuning.keys)} was picked for each group by the median on valid of runs with seeds {seeds}, which "
        f"are not among those reported. It cost {tuning.runs} runs and {number(tuning.seconds, 3)} seconds of training."
    )
    rows = [
        [label, value, runs, score, Cell("picked", None, None, "good") if picked else ""]
        for label, value, runs, score, picked in tuning.rows
    ]
    made.table(["group", "value", "runs", "median on valid", ""], rows, "What was tried.")


def _problems(made: Page, comparison: Comparison) -> None:
    told = list(problems(comparison))
    made.section(f"Problems ({len(told)})", "problems")
    for text in told or ["None: every run was read whole."]:
        made.text(text, "warning" if told else "")


def problems(comparison: Comparison) -> Iterable[str]:
    """What is wrong with the runs or was left out, by name."""
    yield from comparison.problems
    for run in comparison.runs:
        for text in run.problems:
            yield f"{run.path}: {text}"


def _environment(made: Page, comparison: Comparison) -> None:
    made.section("Where it ran", "environment")
    seen: dict[str, set[str]] = {}
    for run in comparison.runs:
        about = {**(run.summary.get("versions") or {}), **(run.summary.get("machine") or {})}
        about |= {"backend": run.summary.get("backend"), f"data of {run.task}": run.digest}
        for key, value in about.items():
            if value is not None:
                seen.setdefault(key, set()).add(str(value))
    made.table(["", "of these runs"], [[key, ", ".join(sorted(values))] for key, values in seen.items()])
    if len(seen.get("processor", ())) > 1 or len(seen.get("device", ())) > 1 or len(seen.get("threads", ())) > 1:
        made.text("The runs are from machines or settings that differ: their seconds cannot be compared.", "warning")


Looks = dict[str, int]
"""The number, for `rnnlab.page.style`, of every group's label."""


def looks_of(comparison: Comparison) -> Looks:
    """A look for every label: in every section the same group has the same colour."""
    labels = dict.fromkeys(group.label for section in comparison.sections for group in section.groups)
    return {label: number for number, label in enumerate(labels)}


_OVERVIEW = "Every task: the metric on valid against training steps, medians, from the lowest to the highest run."


def overview(comparison: Comparison, looks: Looks) -> Figure | None:
    """A panel for each section, up to four: curves against steps; None where there are fewer than two."""
    sections = [section for section in comparison.sections if any(group.runs for group in section.groups)]
    if not 2 <= len(sections) <= MOST_PANELS:
        return None
    made, first = page.figure(3.4 * len(sections), 3.0)
    first.remove()
    handles = {}
    for axes, section in zip(made.subplots(1, len(sections)), sections, strict=True):
        page.dress(axes)
        axes.set(title=section.task.replace("$", r"\$"), xlabel=AXES["step"], ylabel=_told(section))
        groups = [group for group in section.groups if group.runs]
        _draw_curves(axes, groups, {id(group): section.curves(group) for group in groups}, "step", looks)
        handles |= {label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = sorted(handles, key=[_short(label) for label in looks].index)
    below = {"loc": "outside lower center", "ncols": 4, "frameon": False, "labelcolor": page.INK, "fontsize": 9}
    made.legend([handles[name] for name in names], names, **below)
    return made


def _told(section: Section) -> str:
    return f"{section.name} ({section.metric.unit})"


def figures(section: Section, looks: Looks) -> dict[str, tuple[Figure, str]]:
    """Every figure of a section by name, with what it shows in words; the order is that of the page."""
    groups = [group for group in section.groups if group.runs]
    if not groups:
        return {}
    told = _told(section)
    drawn = {"scores": (_points(groups, told, looks), f"{told} of every run; the bar is the interquartile mean.")}
    curves = {id(group): section.curves(group) for group in groups}
    for axis, words in AXES.items():
        made, axes = page.figure(xlabel=words, ylabel=told)
        if _draw_curves(axes, groups, curves, axis, looks):
            page.legend(axes)
            drawn[axis] = (made, f"{told} on valid against {words}.")
    for key, words in (("parameters", "parameters"), ("seconds", "seconds of training")):
        made = _front(section, groups, key, words, told, looks)
        if made:
            drawn[f"pareto-{key}"] = (made, f"Median {told} against {words}; the line is the Pareto front.")
    made = _by_length(groups, looks)
    if made:
        drawn["length"] = (made, "On test, against length: medians over runs.")
    return drawn


def _points(groups: Sequence[Group], told: str, looks: Looks) -> Figure:
    shown = groups[: 4 * MOST_NAMED]
    made, axes = page.figure(height=max(2.0, 0.8 + 0.32 * len(shown)), xlabel=told)
    for place, group in enumerate(shown):
        colour = page.style(looks[group.label])["color"]
        finite = [score for score in group.scores if isfinite(score)]
        axes.plot(finite, [place] * len(finite), "o", color=colour, alpha=0.6, markersize=5)
        if isfinite(group.iqm):
            axes.plot([group.iqm] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2)
        within = group.interval
        if within and isfinite(within.low) and isfinite(within.high):
            axes.plot([within.low, within.high], [place, place], color=colour, linewidth=1)
    axes.set_yticks(range(len(shown)), [_short(group.label) for group in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    _maybe_logarithmic(axes, [score for group in shown for score in group.scores], "x")
    return made


def _draw_curves(axes: Axes, groups: Sequence[Group], curves: dict[int, list[Any]], axis: str, looks: Looks) -> bool:
    """Medians and bands, into axes; whether there was anything to draw."""
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
        style = page.style(looks[group.label])
        look = style if len(grid) == 1 else {**style, "marker": ""}
        label = _short(group.label) if place < MOST_NAMED else None
        axes.plot(grid, middle, label=label, linewidth=1.6, **look)
        axes.fill_between(grid, low, high, color=look["color"], alpha=0.15, linewidth=0)
        seen += middle[np.isfinite(middle)].tolist()
    _maybe_logarithmic(axes, seen, "y")
    return bool(seen)


def _stepped(grid: np.ndarray, x: np.ndarray, y: np.ndarray, beyond: float | None) -> np.ndarray:
    """A run's values on a grid: between two evaluations on the line between them, beyond the last as it was there, or
    ``beyond``.
    """
    finite = np.isfinite(y)
    if finite.all():
        values = np.interp(grid, x, y)
    else:  # the last value known at each point: nothing can be interpolated with infinity
        values = y[np.clip(np.searchsorted(x, grid, side="right") - 1, 0, len(y) - 1)]
    return values if beyond is None else np.where(grid > x[-1], beyond, values)


def _front(section: Section, groups: Sequence[Group], key: str, words: str, told: str, looks: Looks) -> Figure | None:
    points = [(group.typical(key), group.median) for group in groups]
    if len(groups) < 2 or not all(isfinite(x) for x, _ in points):
        return None
    made, axes = page.figure(xlabel=words, ylabel=f"median {told}")
    for place, (group, (x, y)) in enumerate(zip(groups, points, strict=True)):
        if isfinite(y):
            look = page.style(looks[group.label])
            axes.plot([x], [y], look["marker"], color=look["color"], markersize=7)
            if place < 2 * MOST_NAMED:
                axes.annotate(
                    _short(group.label), (x, y), xytext=(6, 4), textcoords="offset points", fontsize=9, color=page.INK
                )
    sign = 1 if section.metric.better == "lower" else -1
    best = sorted(p for p, on in zip(points, pareto([(x, sign * y) for x, y in points]), strict=True) if on)
    axes.plot([x for x, _ in best], [y for _, y in best], color=page.MUTED, linewidth=1, zorder=0)
    axes.margins(x=0.15)
    _maybe_logarithmic(axes, [y for _, y in points], "y")
    return made


def _by_length(groups: Sequence[Group], looks: Looks) -> Figure | None:
    name = next((run.summary.get("length_metric") for group in groups for run in group.runs), None)
    made, axes = page.figure(xlabel="length", ylabel=str(name or "metric"))
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
            style = page.style(looks[group.label])
            look = style if len(lengths) < FEW_POINTS else {**style, "marker": ""}
            label = _short(group.label) if place < MOST_NAMED else None
            axes.plot(lengths, middle, label=label, markersize=3, **look)
    if not any_drawn:
        return None
    page.legend(axes)
    return made


def _maybe_logarithmic(axes: Any, values: Sequence[float], which: str) -> None:
    """A logarithmic axis where the values span more than a factor of 30."""
    finite = [value for value in values if isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > 30 * min(finite):
        axes.set(**{f"{which}scale": "log"})
        axis = getattr(axes, f"{which}axis")
        axis.set_major_formatter("{x:g}")  # setting powers as mathematics takes longer than all the lines
        axis.set_minor_formatter("")


def markdown(comparison: Comparison) -> str:
    """The tables and verdicts as Markdown."""
    lines = ["# Comparison"]
    for section in comparison.sections:
        lines += ["", f"## {_md(section.task)}", "", _md(verdict(section)), ""]
        lines += [f"| group | {' | '.join(COLUMNS)} |", f"|---{'|---' * len(COLUMNS)}|"]
        for group in section.groups:
            lines.append(f"| {_md(group.label)} | {' | '.join(text for text, _ in summary_row(group))} |")
        if section.pairs:
            lines += [
                "",
                "| first | second | first better | mean difference | effect | p (Holm) |",
                "|---|---|---|---|---|---|",
            ]
        for a, b, result, p in section.pairs:
            cells = (_md(a.label), _md(b.label), f"{result.wins} of {result.n}", number(result.difference))
            lines.append(f"| {' | '.join((*cells, number(result.effect, 2), number(p, 2)))} |")
    if comparison.tuning:
        tuning = comparison.tuning
        lines += [
            "",
            f"Tuned: {_md(', '.join(tuning.keys))}, {tuning.runs} runs, {number(tuning.seconds, 3)} seconds.",
            "",
        ]
        lines += ["| group | value | runs | median on valid | picked |", "|---|---|---|---|---|"]
        for label, value, runs, score, picked in tuning.rows:
            cells = (_md(label), _md(value), str(runs), number(score), "yes" if picked else "")
            lines.append(f"| {' | '.join(cells)} |")
    told = list(problems(comparison))
    lines += ["", f"Problems: {len(told)}", ""] + [f"- {_md(text)}" for text in told]
    return "\n".join(lines).rstrip() + "\n"


def tables(comparison: Comparison) -> dict[str, list[list[Any]]]:
    """What goes into CSV files, by name: ``groups``, ``runs`` and ``pairs``, with a head each."""
    groups: list[list[Any]] = [["task", "data", "metric", "unit", "better", "group", "runs", "unfinished", "diverged"]]
    groups[0] += ["solved", "mean", "median", "iqm", "iqm_low", "iqm_high", "parameters", "seconds"]
    runs: list[list[Any]] = [["task", "data", "group", "seed", "status", "metric", "score", "valid", "steps", "tokens"]]
    runs[0] += ["seconds", "parameters", "flops_per_token", "path"]
    pairs: list[list[Any]] = [
        ["task", "data", "first", "second", "pairs", "wins", "difference", "low", "high", "effect"]
    ]
    pairs[0] += ["p", "p_holm"]
    for section in comparison.sections:
        where = [section.task, section.digest]
        for group in section.groups:
            within = group.interval or (None, None)
            about = [section.name, section.metric.unit, section.metric.better, group.label]
            counts = [len(group.runs), len(group.unfinished), group.diverged, group.solved]
            costs = [group.typical("parameters"), group.typical("seconds")]
            groups.append([*where, *about, *counts, group.mean, group.median, group.iqm, *within, *costs])
            for run in [*group.runs, *group.unfinished]:
                values = [run.score(section.name), run.selection(section.name)]
                keys = ("steps", "tokens", "seconds", "parameters", "flops_per_token")
                rest = [run.summary.get(key) for key in keys]
                runs.append([*where, group.label, run.seed, run.status, section.name, *values, *rest, str(run.path)])
        for a, b, result, p in section.pairs:
            within = result.interval or (None, None)
            found = [result.n, result.wins, result.difference, *within, result.effect, result.p, p]
            pairs.append([*where, a.label, b.label, *found])
    return {"groups": groups, "runs": runs, "pairs": pairs}


def _md(text: str) -> str:
    """Text that Markdown leaves as it is, in a table too."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def _runs(group: Group) -> str:
    return f"{len(group.runs)} run{'s' if len(group.runs) != 1 else ''}"


def _pairs(count: int) -> str:
    return "one pair is" if count == 1 else f"{count} pairs are"


def _short(label: str, most: int = 28) -> str:
    """A label that fits beside a figure."""
    label = label.replace("$", r"\$")  # matplotlib would set it as mathematics
    return label if len(label) <= most else label[: most - 1] + "…"
