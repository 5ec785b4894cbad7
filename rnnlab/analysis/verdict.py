"""Sentences on the result of a section of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from rnnlab.analysis.comparison import Group, Section
from rnnlab.analysis.statistics import FEWEST_FOR_TEST
from rnnlab.analysis.units import told as written
from rnnlab.interface import Metric
from rnnlab.report import number

MOST_LISTED = 4
"""Largest number of names listed in a sentence; longer lists are replaced by their length."""


def verdict(section: Section) -> str:
    """Return one or two sentences on the result of a section, limited to what the statistics support."""
    groups = [group for group in section.groups if group.runs]
    if not groups:
        return "No run has finished yet."
    told = f"By {section.name} on {' and '.join(section.splits)} ({in_words(section.metric)})"
    best = groups[0]
    text = f"{told}, {best.label} has {written(best.iqm, section.metric)}"
    if len(groups) == 1:
        text += f" over {runs_of(best)}; there is nothing to compare it with."
        return text + _not_beyond_baseline(section, groups)
    if solvers := sorted((group for group in groups if group.solved_after is not None), key=_solved_after):
        others = [group for group in groups if group not in solvers]
        return f"{told}: {_solvers(solvers, section)}{_others(groups, solvers)}{_not_beyond_baseline(section, others)}"
    if (baseline := _baseline(section)) and not any(group.beats(baseline[1]) for group in groups):
        text = f"{told}, no group does better than the baseline {_named(baseline, section)}"
        return f"{text}: {best.label} has {written(best.iqm, section.metric)}."
    return f"{_best_and_second(section, groups, text)}{_not_beyond_baseline(section, groups)}"


def _best_and_second(section: Section, groups: Sequence[Group], text: str) -> str:
    """Return a sentence on the two best groups and whether they differ significantly."""
    best = groups[0]
    second = groups[1]
    text += f", the best of {len(groups)} groups, ahead of {second.label} with {written(second.iqm, section.metric)}."
    result = next(((r, p) for a, b, r, p in section.pairs if a is best and b is second), None)
    if result is None:
        return f"{text} They have no seed in common, so the difference is not tested."
    paired, p = result
    text += f" It is better in {paired.wins} of {paired.n} seeds"
    if p is None:
        return f"{text}; {pairs_are(paired.n)} too few for a test (at least {FEWEST_FOR_TEST})."
    sure = "the difference is unlikely to be chance" if p < 0.05 else "that may be chance"
    return f"{text}; {sure} (Wilcoxon, Holm's correction, p = {number(p, 2)})."


def _baseline(section: Section) -> tuple[str, float] | None:
    """Return name and value of the task's best baseline; None if the runs did not record any."""
    return next(iter(section.baselines().items()), None)


def _named(baseline: tuple[str, float], section: Section) -> str:
    return f"{baseline[0]} ({written(baseline[1], section.metric)})"


def on_baselines(section: Section) -> str:
    """Return a sentence with the task's baselines; empty if there are none, or `verdict` names the only one."""
    found = section.baselines()
    groups = [group for group in section.groups if group.runs]
    are_better = bool(found) and all(group.beats(next(iter(found.values()))) for group in groups)
    if not found or (len(found) == 1 and not are_better):
        return ""
    named = [_named(baseline, section) for baseline in found.items()]
    text = f"Baseline{'s' * (len(named) > 1)} on {section.splits[0]}: {and_(named)}."
    if not are_better:
        return text
    every = "The group is" if len(groups) == 1 else "Every group is"
    return f"{text} {every} better than {'it' if len(named) == 1 else 'both' if len(named) == 2 else 'all of them'}."


def _not_beyond_baseline(section: Section, groups: Sequence[Group]) -> str:
    """Return a sentence on the groups that are no better than the best baseline; empty if all are better."""
    baseline = _baseline(section)
    below = [group.label for group in groups if baseline and not group.beats(baseline[1])]
    if not below:
        return ""
    names = and_(below) if len(below) <= MOST_LISTED else f"{len(below)} groups"
    return f" {names} {'does' if len(below) == 1 else 'do'} no better than the baseline {_named(baseline, section)}."


def in_words(metric: Metric) -> str:
    """Return unit and direction of a metric in words."""
    return f"{metric.unit}, {metric.better} is better"


def _solved_after(group: Group) -> float:
    return group.solved_after or 0.0


def _solvers(solvers: Sequence[Group], section: Section) -> str:
    """Return a sentence on the groups that reached the target in every run, fastest first.

    Training ends at the target, so differences between scores beyond it are not meaningful.
    """
    told = [f"{group.label} after {number(group.solved_after, 3)} steps" for group in solvers]
    targets = {run.config.get("trainer.target") for group in solvers for run in group.runs}
    of = f" of {written(targets.pop(), section.metric)}" if len(targets) == 1 else ""
    return f"{and_(told)} (median) reached the target{of} in every run."


def _others(groups: Sequence[Group], solvers: Sequence[Group]) -> str:
    """Return a sentence on the groups that reached the target in some runs or none; empty if there are no others."""
    others = [group for group in groups if group not in solvers]
    told = [f"{group.label} in {group.solved} of {len(group.runs)}" for group in others if group.solved]
    if never := [group.label for group in others if not group.solved]:
        told.append(f"{and_(never) if len(never) <= MOST_LISTED else f'{len(never)} more'} in none")
    return f" The other groups reached it in fewer runs: {and_(told)}." if told else ""


def and_(words: Sequence[str]) -> str:
    """Join words with commas and a final "and"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def runs_of(group: Group) -> str:
    """Return the number of a group's runs in words."""
    return f"{len(group.runs)} run{'s' if len(group.runs) != 1 else ''}"


def pairs_are(count: int) -> str:
    """Return subject and verb of a sentence about ``count`` pairs."""
    return "one pair is" if count == 1 else f"{count} pairs are"
