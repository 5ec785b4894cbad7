"""Write a comparison as an HTML page, as Markdown, as CSV tables and as figures."""

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

from rnnlab import files, report
from rnnlab.analysis import latex
from rnnlab.analysis.comparison import Comparison, Group, Section, Tuning
from rnnlab.analysis.figures import OVERVIEW, figures, looks_of, overview
from rnnlab.analysis.reading import READING, SCORING
from rnnlab.analysis.runs import Run
from rnnlab.analysis.statistics import FEWEST_FOR_TEST
from rnnlab.analysis.units import difference, difference_unit, is_share, told
from rnnlab.analysis.verdict import and_, in_words, on_baselines, pairs_are, runs_of, verdict
from rnnlab.interface import Metric
from rnnlab.report import Cell, Page, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("runs", "diverged", "solved", "mean", "median", "IQM", "95% interval", "best", "parameters", "state size")
COLUMNS += ("operations", "off budget", "seconds")
_WHERE_KNOWN = ("solved", "state size", "operations", "off budget")
"""Columns that are shown only if at least one group has a value."""


def write(comparison: Comparison, out: str | Path, with_pdf: bool = False) -> Path:
    """Write ``index.html``, ``report.md``, CSV tables and ``figures/`` into a new folder.

    Args:
        comparison: the comparison to report.
        out: path of the new folder; if it exists, the next free path of ``out-2``, ``out-3`` and so on is used.
        with_pdf: whether to write, for a paper, every figure as PDF too, ``tables.tex``, and ``comparison.tex``, a
            document with all tables and figures.

    Returns:
        path of the folder.
    """
    folder = files.new_folder(Path(out).expanduser())
    (folder / "figures").mkdir()

    def saved(made: Figure, stem: str) -> str:
        return report.save(made, folder / "figures" / stem, with_pdf)

    looks = looks_of(comparison)
    together = overview(comparison, looks)
    first = ("overview", saved(together, "overview"), OVERVIEW) if together else None
    shown, captions = [], {"overview": OVERVIEW} if first else {}
    for count, section in enumerate(comparison.sections, 1):
        stem = re.sub(r"[^\w.-]", ".", section.task) + (f"-{count}" if len(comparison.sections) > 1 else "")
        drawn = figures(section, looks).items()
        shown.append([(name, saved(made, f"{stem}-{name}"), alt) for name, (made, alt) in drawn])
        captions |= {f"{stem}-{name}": f"{section.task}: {alt}" for name, (_, alt) in drawn}
    for name, rows in tables(comparison).items():
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        files.write_bytes(folder / f"{name}.csv", text.getvalue().encode())
    files.write_bytes(folder / "report.md", markdown(comparison).encode())
    if with_pdf:
        files.write_bytes(folder / "tables.tex", latex.tables(comparison).encode())
        files.write_bytes(folder / "comparison.tex", latex.document(captions).encode())
    _page(comparison, first, shown, folder).write(folder / "index.html")
    return folder


Shown = tuple[str, str, str]
"""A figure: its kind, its SVG, and its description."""


def _page(comparison: Comparison, first: Shown | None, shown: Sequence[Sequence[Shown]], folder: Path) -> Page:
    """Return the page with the overview figure and the figures of each section; links are relative to ``folder``."""
    count = sum(len(group.runs) for section in comparison.sections for group in section.groups)
    waiting = sum(len(group.unfinished) for section in comparison.sections for group in section.groups)
    names = " · ".join(dict.fromkeys(section.task for section in comparison.sections))
    lead = f"{count} runs compared" + (f", {waiting} not finished and not counted" if waiting else "") + "."
    made = Page(f"Comparison: {names}", lead)
    if len(comparison.sections) > 1:
        made.text(
            f"The runs belong to {len(comparison.sections)} tasks or data sets. Each has its own section; "
            "runs of different sections are not compared.",
            "note",
        )
    if first:
        made.figure(first[1], first[2], first[2], is_wide=True)
    for index, (section, drawn) in enumerate(zip(comparison.sections, shown, strict=True), 1):
        data = f", data {section.digest[:8]}" if section.digest else ""
        made.section(f"{section.task}{data}", f"section-{index}")
        made.text(verdict(section))
        if about := on_baselines(section):
            made.text(about)
        _groups_table(made, section, index)
        for kind, svg, alt in drawn:
            made.figure(svg, alt, alt, reading=READING[kind])
        _metrics_table(made, section, index)
        _pairs_table(made, section, index)
        _differences_table(made, section)
        made.heading("Runs")
        for place, group in enumerate(section.groups, 1):
            _runs_list(made, group, section.metric, f"runs-{index}-{place}", folder)
    if comparison.tuning:
        _tuning_table(made, comparison, folder)
    _problems(made, comparison)
    _environment(made, comparison)
    made.section("How to read this", "reading")
    for text in SCORING:
        made.text(text)
    return made


def _groups_table(made: Page, section: Section, index: int) -> None:
    columns, found = summary(section)
    rows = []
    for place, (group, values, on_front) in enumerate(zip(section.groups, found, section.front, strict=True), 1):
        link = f"#runs-{index}-{place}"
        cells = [Cell(text, sort, link) for text, sort in values]
        rows.append([Cell(group.label, href=link), *cells, "yes" if on_front else ""])
    rows += [
        [f"baseline: {who}", *(Cell(*value) for value in values), ""] for who, values in baseline_rows(section, columns)
    ]
    goods = "median and seconds" if section.is_of_one_size else "median, parameters and seconds"
    words = [
        f"{section.name} ({in_words(section.metric)}), best first; every number links to its runs.",
        f"Pareto: yes if no other group is at least as good in {goods} and better in one of them.",
    ]
    goals = [f"{number(goal)} {kind.replace('_', ' ')}" for kind, goal in sorted(filter(None, section.budgets))]
    if goals:
        words.append(f"Budget: {and_(goals)}; off budget: the largest deviation of a run of the group.")
    made.table(["group", *columns, "Pareto"], rows, " ".join(words))


def summary(section: Section) -> tuple[list[str], list[list[tuple[str, Any]]]]:
    """Return the columns of the table of groups, and for each group one (text, sort key) pair per column."""
    rows = [_summary_row(group, section.metric) for group in section.groups]
    shown = [i for i, name in enumerate(COLUMNS) if name not in _WHERE_KNOWN or any(row[i][0] != "–" for row in rows)]
    return [COLUMNS[i] for i in shown], [[row[i] for i in shown] for row in rows]


def baseline_rows(section: Section, columns: Sequence[str]) -> list[tuple[str, list[tuple[str, float]]]]:
    """Return the task's baselines as rows of the table of groups: name, and (text, sort key) pairs as in `summary`."""
    return [
        (
            who,
            [
                (told(value, section.metric), value) if column in ("mean", "median", "IQM") else ("–", nan)
                for column in columns
            ],
        )
        for who, value in section.baselines().items()
    ]


def _summary_row(group: Group, metric: Metric) -> list[tuple[str, Any]]:
    within, solved, off, count = group.interval, group.solved, group.off_budget, len(group.runs)
    ends = [told(end, metric) for end in within or ()]
    best = min(group.scores, default=nan) if group.better == "lower" else max(group.scores, default=nan)
    waiting = f" (+{len(group.unfinished)} unfinished)" if group.unfinished else ""
    return [
        (f"{count}{waiting}", count),
        (f"{group.diverged} of {count}", group.diverged),
        ("–" if solved is None else f"{solved} of {count}", -1 if solved is None else solved),
        *((told(value, metric), value) for value in (group.mean, group.median, group.iqm)),
        (" to ".join(ends) or "–", within.low if within else nan),
        (told(best, metric), best),
        *((number(value), value) for value in map(group.typical, ("parameters", "state_size", "flops_per_token"))),
        ("–" if off is None else f"{off:+.2%}".replace("-", "−"), nan if off is None else off),
        (number(group.typical("seconds")), group.typical("seconds")),
    ]


def _metrics_table(made: Page, section: Section, index: int) -> None:
    """Add a table of the medians of the task's other metrics."""
    runs = [run for group in section.groups for run in group.runs]
    declared = dict.fromkeys(name for run in runs for name in run.summary.get("metrics") or {})
    others = [name for name in declared if name != section.name]
    if not others:
        return
    kinds = {name: next(run.metric(name) for run in runs if name in run.summary["metrics"]) for name in others}
    rows = []
    for place, group in enumerate(section.groups, 1):
        link = f"#runs-{index}-{place}"
        scores = [[run.score(name) for run in group.runs if isfinite(run.score(name))] for name in others]
        medians = [float(np.median(values)) if values else nan for values in scores]
        cells = [Cell(told(value, kinds[name]), value, link) for name, value in zip(others, medians, strict=True)]
        rows.append([Cell(group.label, href=link), *cells])
    columns = [f"{name} ({in_words(kind)})" for name, kind in kinds.items()]
    made.heading("Other metrics")
    made.table(["group", *columns], rows, "Medians over the runs with a finite value.")


def _pairs_table(made: Page, section: Section, index: int) -> None:
    if not section.pairs:
        return
    rows, links = [], {id(group): f"#runs-{index}-{place}" for place, group in enumerate(section.groups, 1)}
    for a, b, result, p in section.pairs:
        ends = [difference(end, section.metric) for end in result.interval or ()]
        rows.append(
            [
                Cell(a.label, href=links[id(a)]),
                Cell(b.label, href=links[id(b)]),
                result.n,
                Cell(f"{result.wins} of {result.n}", result.wins),
                Cell(difference(result.difference, section.metric), result.difference),
                " to ".join(ends) or "–",
                Cell(number(result.effect, 2), result.effect),
                Cell(number(result.p, 2), 2 if result.p is None else result.p),
                Cell(number(p, 2), 2 if p is None else p, None, "good" if p is not None and p < 0.05 else None),
            ]
        )
    made.heading("Pairs of groups, paired by seed")
    columns = ("first", "second", "pairs", "first better", "mean difference", "95% interval", "effect", "p", "p (Holm)")
    made.table(columns, rows, f"First minus second, in {difference_unit(section.metric)}.")
    if all(result.p is None for *_, result, _ in section.pairs):
        fewest = min(result.n for *_, result, _ in section.pairs)
        made.text(f"{pairs_are(fewest)} too few for a test: below {FEWEST_FOR_TEST} no p-value can reach 0.05.", "note")


def _differences_table(made: Page, section: Section) -> None:
    if not section.differences:
        return
    rows = []
    for key, per_group in section.differences.items():
        # Values are JSON: strings lose their quotes, and null, an option that the group does not have, is a dash.
        per_group = [[value.strip('"') if value != "null" else "–" for value in values] for values in per_group]
        cells = [", ".join(values[:4]) + (f", … ({len(values)})" if len(values) > 4 else "") for values in per_group]
        rows.append([key, *cells])
    made.heading("What differs")
    made.table(["option", *(group.label for group in section.groups)], rows, "Options that differ between these runs.")


def _runs_list(made: Page, group: Group, metric: Metric, anchor: str, folder: Path) -> None:
    rows = []
    scores = [told(score, metric) for score in group.scores]
    for run, score in zip(group.runs, scores, strict=True):
        text = f"seed {run.seed}: {score}, {run.status} at step {run.summary.get('steps')} — {run.path}"
        rows.append((text, _href(run, folder)))
    rows += [(f"seed {run.seed}: unfinished — {run.path}", _href(run, folder)) for run in group.unfinished]
    made.details(f"{group.label}: {runs_of(group)}", anchor, rows)


def _href(run: Run, folder: Path) -> str:
    return quote(Path(os.path.relpath(run.path.resolve(), folder.resolve())).as_posix())


def _tuning_table(made: Page, comparison: Comparison, folder: Path) -> None:
    tuning = comparison.tuning
    made.section("Tuning", "tuning")
    made.text(_tuning_told(tuning))
    link = "#tuning-runs"
    rows = [
        [
            Cell(label, href=link),
            Cell(value, href=link),
            Cell(str(len(runs)), len(runs), link),
            Cell(number(score), score, link),
            Cell("picked", mark="good") if picked else "",
        ]
        for label, value, runs, score, picked in tuning.rows
    ]
    made.table(["group", "value", "runs", "median on valid", ""], rows, "Values tried.")
    listed = [
        (f"{label}, {value}, seed {run.seed}, {run.status} — {run.path}", _href(run, folder))
        for label, value, runs, _, _ in tuning.rows
        for run in runs
    ]
    made.details(f"The {len(listed)} runs of the search", "tuning-runs", listed)


def _tuning_told(tuning: Tuning) -> str:
    text = (
        f"{', '.join(tuning.keys)} was picked for each group by the median on valid of the runs with seeds "
        f"{', '.join(map(str, tuning.seeds))}. These runs are not reported. The search took {len(tuning.runs)} runs "
        f"and {number(tuning.seconds, 3)} seconds of training."
    )
    if tuning.set_aside:
        text += f" {tuning.set_aside} runs of other seeds have values that were not picked; they are not reported."
    return text


def _problems(made: Page, comparison: Comparison) -> None:
    found = list(problems(comparison))
    made.section(f"Problems ({len(found)})", "problems")
    for text in found or ["None: every run could be read completely."]:
        made.text(text, "warning" if found else "")


def problems(comparison: Comparison) -> Iterable[str]:
    """Yield a sentence for each problem of the comparison and of its runs."""
    yield from comparison.problems
    for run in comparison.runs:
        for text in run.problems:
            yield f"{run.path}: {text}"


def _environment(made: Page, comparison: Comparison) -> None:
    made.section("Environment", "environment")
    seen: dict[str, set[str]] = {}
    for run in comparison.runs:
        about = {**(run.summary.get("versions") or {}), **(run.summary.get("machine") or {})}
        about |= {"backend": run.summary.get("backend"), f"data of {run.task}": run.digest}
        for key, value in about.items():
            if value is not None:
                seen.setdefault(key, set()).add(str(value))
    made.table(["", "values of the runs"], [[key, ", ".join(sorted(values))] for key, values in seen.items()])
    if len(seen.get("processor", ())) > 1 or len(seen.get("device", ())) > 1 or len(seen.get("threads", ())) > 1:
        made.text("The runs differ in processor, device or threads: their seconds cannot be compared.", "warning")


def markdown(comparison: Comparison) -> str:
    """Return the verdicts and tables as Markdown."""
    lines = ["# Comparison"]
    for section in comparison.sections:
        lines += ["", f"## {_md(section.task)}", "", _md(f"{verdict(section)} {on_baselines(section)}".rstrip()), ""]
        columns, rows = summary(section)
        lines += [f"| group | {' | '.join(columns)} |", f"|---{'|---' * len(columns)}|"]
        for group, row in zip(section.groups, rows, strict=True):
            lines.append(f"| {_md(group.label)} | {' | '.join(text for text, _ in row)} |")
        for who, values in baseline_rows(section, columns):
            lines.append(f"| baseline: {_md(who)} | {' | '.join(text for text, _ in values)} |")
        if section.pairs:
            gap = "mean difference" + (" (percentage points)" if is_share(section.metric) else "")
            lines += ["", f"| first | second | first better | {gap} | effect | p (Holm) |", "|---|---|---|---|---|---|"]
        for a, b, result, p in section.pairs:
            cells = (
                _md(a.label),
                _md(b.label),
                f"{result.wins} of {result.n}",
                difference(result.difference, section.metric),
            )
            lines.append(f"| {' | '.join((*cells, number(result.effect, 2), number(p, 2)))} |")
    if comparison.tuning:
        tuning = comparison.tuning
        lines += ["", _md(_tuning_told(tuning)), ""]
        lines += ["| group | value | runs | median on valid | picked |", "|---|---|---|---|---|"]
        for label, value, runs, score, picked in tuning.rows:
            cells = (_md(label), _md(value), str(len(runs)), number(score), "yes" if picked else "")
            lines.append(f"| {' | '.join(cells)} |")
    found = list(problems(comparison))
    lines += ["", f"Problems: {len(found)}", ""] + [f"- {_md(text)}" for text in found]
    return "\n".join(lines).rstrip() + "\n"


def tables(comparison: Comparison) -> dict[str, list[list[Any]]]:
    """Return the CSV tables ``groups``, ``runs``, ``pairs`` and ``baselines`` by name, each with a header row."""
    groups: list[list[Any]] = [["task", "data", "metric", "unit", "better", "group", "runs", "unfinished", "diverged"]]
    groups[0] += ["solved", "mean", "median", "iqm", "iqm_low", "iqm_high", "parameters", "off_budget", "seconds"]
    groups[0] += ["state_size"]
    runs: list[list[Any]] = [["task", "data", "group", "seed", "status", "metric", "score", "valid", "steps", "tokens"]]
    runs[0] += ["seconds", "parameters", "flops_per_token", "state_size", "path"]
    pairs: list[list[Any]] = [
        ["task", "data", "first", "second", "pairs", "wins", "difference", "low", "high", "effect"]
    ]
    pairs[0] += ["p", "p_holm"]
    baselines: list[list[Any]] = [["task", "data", "metric", "split", "baseline", "value"]]
    for section in comparison.sections:
        where = [section.task, section.digest]
        for group in section.groups:
            within = group.interval or (None, None)
            about = [section.name, section.metric.unit, section.metric.better, group.label]
            counts = [len(group.runs), len(group.unfinished), group.diverged, group.solved]
            costs = [group.typical("parameters"), group.off_budget, *map(group.typical, ("seconds", "state_size"))]
            groups.append([*where, *about, *counts, group.mean, group.median, group.iqm, *within, *costs])
            for run in [*group.runs, *group.unfinished]:
                values = [run.score(section.name), run.selection(section.name)]
                keys = ("steps", "tokens", "seconds", "parameters", "flops_per_token", "state_size")
                rest = [run.summary.get(key) for key in keys]
                runs.append([*where, group.label, run.seed, run.status, section.name, *values, *rest, str(run.path)])
        for split in dict.fromkeys(["valid", *section.splits]):
            of_split = section.baselines(split).items()
            baselines += [[*where, section.name, split, who, value] for who, value in of_split]
        for a, b, result, p in section.pairs:
            within = result.interval or (None, None)
            found = [result.n, result.wins, result.difference, *within, result.effect, result.p, p]
            pairs.append([*where, a.label, b.label, *found])
    return {"groups": groups, "runs": runs, "pairs": pairs, "baselines": baselines}


def _md(text: str) -> str:
    """Escape the special characters of Markdown and its tables."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")
