"""The result of a comparison: groups of runs, their scores, and sections that are compared."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isfinite, nan
from statistics import median
from typing import Any

import numpy as np

from rnnlab.analysis.runs import Curve, Run
from rnnlab.analysis.statistics import Interval, Paired, interquartile_mean, interval, pareto
from rnnlab.interface import Metric

MOST_IN_ALL_PAIRS = 12
"""With more groups than this, only the best is compared with every other, to limit the number of pairs."""

CLOSE_TO_BASELINE = 0.05
"""Smallest improvement over a baseline, as a share of the baseline, with which a group counts as better."""


@dataclass
class Group:
    """Runs with the same values of the keys of a comparison.

    label: the group's name.
    values: the value of each key.
    runs: finished and diverged runs, which count.
    unfinished: unfinished runs, which do not count.
    metric: name of the metric.
    better: ``lower`` or ``higher``.
    """

    label: str
    values: dict[str, Any]
    runs: list[Run]
    unfinished: list[Run]
    metric: str
    better: str

    @property
    def worst(self) -> float:
        """The score of a run that diverged."""
        return inf if self.better == "lower" else -inf

    def _counted(self, run: Run, value: float) -> float:
        return self.worst if run.status == "diverged" or not isfinite(value) else value

    @cached_property
    def scores(self) -> list[float]:
        """The metric of each run, on test if the task has a test split."""
        return [self._counted(run, run.score(self.metric)) for run in self.runs]

    @property
    def selections(self) -> list[float]:
        """The metric of each run on valid, for the choice of options."""
        return [self._counted(run, run.selection(self.metric)) for run in self.runs]

    @property
    def diverged(self) -> int:
        """Number of runs that diverged or whose metric is NaN."""
        return sum(not isfinite(score) for score in self.scores)

    @property
    def solved(self) -> int | None:
        """Number of runs that reached the target; None if there was no target."""
        aimed = [run for run in self.runs if run.config.get("trainer.target") is not None]
        return sum(run.summary.get("solved") is not None for run in aimed) if aimed else None

    @property
    def solved_after(self) -> float | None:
        """The median of the steps at which the runs reached the target; None unless all of them did."""
        if not self.runs or self.solved != len(self.runs):
            return None
        return float(median(run.summary["solved"] for run in self.runs))

    @property
    def mean(self) -> float:
        """Arithmetic mean of the scores."""
        return float(np.mean(self.scores)) if self.runs else nan

    @property
    def median(self) -> float:
        """Median of the scores."""
        return float(median(self.scores)) if self.runs else nan

    @property
    def iqm(self) -> float:
        """Interquartile mean of the scores."""
        return interquartile_mean(self.scores) if self.runs else nan

    @cached_property
    def interval(self) -> Interval | None:
        """Bootstrap interval of the interquartile mean."""
        return interval(self.scores)

    def beats(self, baseline: float) -> bool:
        """Return whether the group is clearly better than a baseline.

        The interquartile mean must be better by more than `CLOSE_TO_BASELINE` of the baseline's magnitude, and its
        whole interval, if any, must be better.
        """
        sign = 1 if self.better == "lower" else -1
        if not sign * (baseline - self.iqm) > CLOSE_TO_BASELINE * abs(baseline):
            return False
        return self.interval is None or sign * (baseline - (self.interval.high if sign > 0 else self.interval.low)) > 0

    @property
    def off_budget(self) -> float | None:
        """Largest relative deviation of a run from its budget; None without a budget."""
        found = [run.budget[2] for run in self.runs if run.budget]
        return max(found, key=abs) if found else None

    def typical(self, key: str) -> float:
        """Return the median of a number of the summaries, such as ``seconds``; NaN if no run has it."""
        values = [run.summary.get(key) for run in self.runs]
        return float(median(numbers)) if (numbers := [v for v in values if isinstance(v, int | float)]) else nan


@dataclass
class Section:
    """A comparison on one task and one data set; nothing is compared across sections.

    task: the task's name.
    digest: SHA-256 of the data.
    name: name of the metric.
    metric: unit and direction of the metric.
    splits: the splits of the scores.
    keys: the keys that define the groups.
    groups: the groups, best first.
    pairs: comparisons of each pair of groups, or of the best group with every other if there are more than
        `MOST_IN_ALL_PAIRS`, with corrected p-values.
    differences: for every key that differs within the section its values in each group, in the order of the groups.
    """

    task: str
    digest: str | None
    name: str
    metric: Metric
    splits: list[str]
    keys: list[str]
    groups: list[Group]
    pairs: list[tuple[Group, Group, Paired, float | None]]
    differences: dict[str, list[list[Any]]]

    @property
    def budgets(self) -> set[tuple[str, float] | None]:
        """Quantities and goals of the budgets of all runs; contains None if a run has no budget."""
        return {run.budget and run.budget[:2] for group in self.groups for run in group.runs}

    def baselines(self, split: str | None = None) -> dict[str, float]:
        """Return the metric of the task's baselines, best first, without baselines whose value differs between runs.

        Args:
            split: name of a split; None for the split of the scores. If the scores have several splits, the result is
                empty.
        """
        if split is None:
            return self.baselines(self.splits[0]) if len(self.splits) == 1 else {}
        found: dict[str, set[float]] = defaultdict(set)
        for run in (run for group in self.groups for run in group.runs):
            for who, value in run.baselines(self.name, split).items():
                found[who].add(value)
        agreed = {who: value for who, (value, *others) in found.items() if not others}
        return dict(sorted(agreed.items(), key=lambda pair: pair[1], reverse=self.metric.better == "higher"))

    @property
    def is_of_one_size(self) -> bool:
        """Whether all runs have the same parameter budget, so that their numbers of parameters are not compared."""
        (first, *others) = self.budgets or {None}
        return not others and first is not None and first[0] == "parameters"

    @property
    def front(self) -> list[bool]:
        """Whether each group is on the Pareto front of score, seconds and, unless all have one size, parameters."""
        sign = 1 if self.metric.better == "lower" else -1
        sizes = [0.0 if self.is_of_one_size else group.typical("parameters") for group in self.groups]
        found = [(sign * g.median, size, g.typical("seconds")) for g, size in zip(self.groups, sizes, strict=True)]
        return pareto(found)

    def curves(self, group: Group) -> list[Curve]:
        """Return the curve of the metric for every run of a group."""
        return [run.curve(self.name) for run in group.runs]


@dataclass
class Tuning:
    """How the value of a tuned option was chosen for a group.

    keys: the tuned keys.
    seeds: seeds of the tuning runs.
    rows: for each group and value: label, value, tuning runs, median of their scores on valid, whether it was picked.
    seconds: training time of all tuning runs.
    set_aside: number of runs with other seeds and a value that was not picked; they are not reported.
    """

    keys: list[str]
    seeds: list[Any]
    rows: list[tuple[str, str, list[Run], float, bool]]
    seconds: float
    set_aside: int

    @property
    def runs(self) -> list[Run]:
        """The tuning runs."""
        return [run for _, _, members, _, _ in self.rows for run in members]


@dataclass
class Comparison:
    """All sections, and the problems found."""

    sections: list[Section]
    problems: list[str]
    tuning: Tuning | None = None
    runs: list[Run] = field(default_factory=list)
