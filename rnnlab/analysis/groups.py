"""Runs in groups that differ by chosen keys, and every pair of groups against each other."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isfinite, nan
from statistics import median
from typing import Any

import numpy as np

from rnnlab.analysis.runs import Curve, Run
from rnnlab.analysis.statistics import Interval, Paired, holm, interquartile_mean, interval, paired, pareto
from rnnlab.interface import InputError, Metric
from rnnlab.lookup import nearest
from rnnlab.training.directory import FREE_KEYS

Key = tuple[str, ...]
"""Values of keys, each as JSON, so that lists and numbers can be compared and shown."""

MOST_IN_ALL_PAIRS = 12
"""Of more groups than this only the best is compared with each other: nobody reads hundreds of pairs."""

CLOSE_TO_BASELINE = 0.05
"""A group whose score is better than a baseline's by less than this share of it is not told apart from the baseline."""

_FIRST = ("task.name", "model.name", "cell.name", "optimizer.name")
"""What a group is named by before anything else."""


@dataclass
class Group:
    """Runs that have the same values of the keys of a comparison.

    label: the group's name for people.
    values: the value of each key.
    runs: the runs that count: finished or diverged.
    unfinished: those that do not.
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
        """The metric of every run, on test where there is one."""
        return [self._counted(run, run.score(self.metric)) for run in self.runs]

    @property
    def selections(self) -> list[float]:
        """The metric of every run on valid, which choices go by."""
        return [self._counted(run, run.selection(self.metric)) for run in self.runs]

    @property
    def diverged(self) -> int:
        """How many runs diverged, or ended with what is no number."""
        return sum(not isfinite(score) for score in self.scores)

    @property
    def solved(self) -> int | None:
        """How many runs reached the target; None where there was none."""
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
        """Whether the interquartile mean is clearly better than a baseline, and all of its interval where there is one.

        Clearly: by more than `CLOSE_TO_BASELINE` of the baseline's magnitude.
        """
        sign = 1 if self.better == "lower" else -1
        if not sign * (baseline - self.iqm) > CLOSE_TO_BASELINE * abs(baseline):
            return False
        return self.interval is None or sign * (baseline - (self.interval.high if sign > 0 else self.interval.low)) > 0

    @property
    def off_budget(self) -> float | None:
        """By which share of its budget the farthest run is off; None without a budget."""
        found = [run.budget[2] for run in self.runs if run.budget]
        return max(found, key=abs) if found else None

    def typical(self, key: str) -> float:
        """The median of a number of the summaries, ``seconds`` say; NaN where none has it."""
        values = [run.summary.get(key) for run in self.runs]
        return float(median(numbers)) if (numbers := [v for v in values if isinstance(v, int | float)]) else nan


@dataclass
class Section:
    """A comparison on one task and one set of data; nothing is ever compared across sections.

    task: the task's name.
    digest: of the data.
    name: the metric.
    metric: its unit and direction.
    splits: which splits the scores are from.
    keys: what the groups differ by.
    groups: best first.
    pairs: every two groups, or the best and each other where there are more than `MOST_IN_ALL_PAIRS`; with p-values
        corrected for their number.
    differences: every key that differs within the section: its values in each group, in the groups' order.
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
        """What widths were solved for, and the goals; None among them where there was no budget."""
        return {run.budget and run.budget[:2] for group in self.groups for run in group.runs}

    def baselines(self, split: str | None = None) -> dict[str, float]:
        """The metric of the task's baselines, best first; without those on which the runs do not agree.

        Args:
            split: ``valid``, say; None for the split of the scores, and no baselines where those are of several.
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
        """Whether all runs were given the same budget of parameters: what they still differ by says nothing."""
        (first, *others) = self.budgets or {None}
        return not others and first is not None and first[0] == "parameters"

    @property
    def front(self) -> list[bool]:
        """Which groups no other beats in score, parameters (unless all are of one size) and seconds at once."""
        sign = 1 if self.metric.better == "lower" else -1
        sizes = [0.0 if self.is_of_one_size else group.typical("parameters") for group in self.groups]
        found = [(sign * g.median, size, g.typical("seconds")) for g, size in zip(self.groups, sizes, strict=True)]
        return pareto(found)

    def curves(self, group: Group) -> list[Curve]:
        """The metric over every run of a group; ``value`` is the worst from where a run diverged."""
        return [run.curve(self.name) for run in group.runs]


@dataclass
class Tuning:
    """How a value was picked for a group before it was reported.

    keys: what was tuned.
    seeds: the seeds of the runs that it was picked by.
    rows: for each group and value: label, value, runs, median of the best score on valid, whether it was picked.
    seconds: training time of all runs of these seeds.
    set_aside: how many runs of other seeds have a value that was not picked; they chose nothing and are not reported.
    """

    keys: list[str]
    seeds: list[Any]
    rows: list[tuple[str, str, list[Run], float, bool]]
    seconds: float
    set_aside: int

    @property
    def runs(self) -> list[Run]:
        """Those that the choice was made by."""
        return [run for _, _, members, _, _ in self.rows for run in members]


@dataclass
class Comparison:
    """All sections, and what was set aside on the way."""

    sections: list[Section]
    problems: list[str]
    tuning: Tuning | None = None
    runs: list[Run] = field(default_factory=list)


def compare(
    runs: Sequence[Run],
    by: Sequence[str] = (),
    metric: str | None = None,
    tune: Sequence[str] = (),
    tune_seeds: Sequence[Any] = (),
) -> Comparison:
    """Put ``runs`` into sections and groups.

    Args:
        runs: as `rnnlab.analysis.read` finds them.
        by: the keys by whose values the groups differ; without any, every key that differs but those that only say
            where things lie, and the seed.
        metric: what is compared; without one, the task's own.
        tune: keys whose value is picked for each group by the median on valid of runs with other seeds.
        tune_seeds: those seeds; without any, the seeds that were run with several values.

    Raises:
        InputError: a key or a metric is not known, or there is nothing left to report.
    """
    problems: list[str] = []
    known = sorted({key for run in runs for key in run.config})
    for key in (*by, *tune):
        if key not in known:
            raise InputError(f"unknown key {key!r}{nearest(key, known)}")
    runs = _without_duplicates(runs, problems)
    sections: dict[tuple[str, str | None], list[Run]] = defaultdict(list)
    for run in runs:
        sections[run.task, run.digest].append(run)
    _place_unfinished(sections)
    keys = {
        name: list(by) or _fewest(members, [key for key in _differing(members) if key not in tune])
        for name, members in sections.items()
    }
    tuning = None
    if tune:
        sections, tuning = _tuned(sections, keys, metric, tune, tune_seeds, problems)
    made = [
        _section(*name, members, keys[name], metric, problems) for name, members in sorted(sections.items(), key=str)
    ]
    return Comparison(made, problems, tuning, list(runs))


def _without_duplicates(runs: Sequence[Run], problems: list[str]) -> list[Run]:
    """Each configuration once: a copy of a run is no further evidence."""
    first: dict[str, Run] = {}
    for run in runs:
        name = json.dumps({k: v for k, v in run.config.items() if k not in FREE_KEYS}, sort_keys=True, default=str)
        other = first.setdefault(name, run)
        if other is not run and other.status == "unfinished" != run.status:
            first[name], run, other = run, other, run
        if other is not run:
            problems.append(f"{run.path} repeats the configuration of {other.path}, seed and all; left out")
    return list(first.values())


def _place_unfinished(sections: dict[tuple[str, str | None], list[Run]]) -> None:
    """Put runs that do not say what their data were beside those of their task, if there is one set of data only."""
    for name in [name for name in sections if name[1] is None]:
        homes = [other for other in sections if other[0] == name[0] and other[1] is not None]
        if len(homes) == 1:
            sections[homes[0]] += sections.pop(name)


def _value(run: Run, keys: Sequence[str]) -> Key:
    return tuple(repr(run.config.get(key)) for key in keys)


def _differing(runs: Sequence[Run]) -> list[str]:
    """The keys whose values differ, but for the seed and those of `FREE_KEYS`; names first."""
    keys = dict.fromkeys([*_FIRST, *(key for run in runs for key in run.config)])
    return [
        key for key in keys if key != "seed" and key not in FREE_KEYS and len({_value(run, [key]) for run in runs}) > 1
    ]


def _fewest(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """As few of ``keys`` as tell apart what all of them do."""
    goal = len({_value(run, keys) for run in runs})
    # One name is enough to tell most sweeps apart: model=rnn,lstm,gru changes the cell and more.
    for key in keys[:4]:
        if len({_value(run, [key]) for run in runs}) == goal:
            return [key]
    chosen: list[str] = []
    for key in keys:
        before = len({_value(run, chosen) for run in runs})
        if before < goal and len({_value(run, [*chosen, key]) for run in runs}) > before:
            chosen.append(key)
    return chosen


def _label(values: dict[str, Any]) -> str:
    """A group's name: names as they are, other keys as ``key=value``, short where that is clear."""
    short = Counter(key.rpartition(".")[2] for key in values)
    words = []
    for key, value in values.items():
        last = key.rpartition(".")[2]
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        words.append(text if key in _FIRST else f"{last if short[last] == 1 else key}={text}")
    return ", ".join(words) or "all"


def _groups(runs: Sequence[Run], keys: Sequence[str]) -> list[tuple[str, dict[str, Any], list[Run]]]:
    """Label, values and runs of each group."""
    members: dict[Key, list[Run]] = defaultdict(list)
    for run in runs:
        members[_value(run, keys)].append(run)
    return [
        (_label(values), values, inside)
        for inside in members.values()
        for values in [{key: inside[0].config.get(key) for key in keys}]
    ]


def _section(
    task: str,
    digest: str | None,
    runs: list[Run],
    keys: list[str],
    metric: str | None,
    problems: list[str],
) -> Section:
    name = metric or runs[0].monitor
    kind = next((run.metric(name) for run in runs if run.summary), None) or runs[0].metric(name)
    differing = _differing(runs)
    groups = []
    for label, values, inside in _groups(runs, keys):
        counted = sorted((run for run in inside if run.status != "unfinished"), key=lambda run: str(run.seed))
        waiting = [run for run in inside if run.status == "unfinished"]
        groups.append(Group(label, values, counted, waiting, name, kind.better))
    sign = 1 if kind.better == "lower" else -1
    groups.sort(key=lambda group: (not group.runs, sign * group.iqm if group.runs else 0))
    inside_keys = ["seed", *(key for key in differing if key not in keys)]
    pairs = _pairs([group for group in groups if group.runs], inside_keys, kind.better, problems)
    differences = {
        key: [
            sorted({json.dumps(run.config.get(key), default=str) for run in [*group.runs, *group.unfinished]})
            for group in groups
        ]
        for key in differing
    }
    splits = sorted({run.split for run in runs if run.status != "unfinished"})
    return Section(task, digest, name, kind, splits, keys, groups, pairs, differences)


def _pairs(
    groups: Sequence[Group], keys: Sequence[str], better: str, problems: list[str]
) -> list[tuple[Group, Group, Paired, float | None]]:
    """Every two groups, or of many groups the best against every other, paired by seed and by whatever else differs
    inside both.
    """
    scores = []
    for group in groups:
        # A key that has one value in each group (the width that a budget solved) pairs nothing.
        varying = [key for key in keys if key == "seed" or len({_value(run, [key]) for run in group.runs}) > 1]
        named = defaultdict(list)
        for run, score in zip(group.runs, group.scores, strict=True):
            named[tuple(zip(varying, _value(run, varying), strict=True))].append(score)
        if repeated := [key for key, several in named.items() if len(several) > 1]:
            problems.append(f"{group.label}: several runs have {dict(repeated[0])}; they are not paired with others")
        scores.append({key: several[0] for key, several in named.items() if len(several) == 1})
    found = []
    for i, a in enumerate(groups[: len(groups) if len(groups) <= MOST_IN_ALL_PAIRS else 1]):
        for j in range(i + 1, len(groups)):
            common = [key for key in scores[i] if key in scores[j]]
            if common:
                result = paired([scores[i][k] for k in common], [scores[j][k] for k in common], better)
                found.append((a, groups[j], result))
    corrected = holm([result.p for *_, result in found])
    return [(*one, p) for one, p in zip(found, corrected, strict=True)]


def _tuned(
    sections: dict[tuple[str, str | None], list[Run]],
    all_keys: dict[tuple[str, str | None], list[str]],
    metric: str | None,
    tune: Sequence[str],
    tune_seeds: Sequence[Any],
    problems: list[str],
) -> tuple[dict[tuple[str, str | None], list[Run]], Tuning]:
    """The runs to report, each group's with the value that was picked for it, and how it was picked."""
    kept: dict[tuple[str, str | None], list[Run]] = {}
    rows, seeds, spent, set_aside = [], set(), 0.0, 0
    for name, runs in sections.items():
        keys = [key for key in all_keys[name] if key not in tune]
        chosen = set(tune_seeds) or _seeds_with_several(runs, keys, tune)
        seeds |= chosen
        kept[name] = []
        for label, values, inside in _groups(runs, keys):
            searched = [run for run in inside if run.seed in chosen and run.status != "unfinished"]
            reported = [run for run in inside if run.seed not in chosen]
            spent += sum(run.summary.get("seconds") or 0.0 for run in inside if run.seed in chosen)
            options = _groups(searched, tune)
            if not options:
                problems.append(f"{name[0]}: {label} has no runs to tune {', '.join(tune)} by; left out")
                continue
            kind = searched[0].metric(metric or searched[0].monitor)
            sign = 1 if kind.better == "lower" else -1
            medians = [
                median(Group(label, values, members, [], metric or members[0].monitor, kind.better).selections)
                for _, _, members in options
            ]
            best = min(range(len(options)), key=lambda index: sign * medians[index])
            for index, (option, _, members) in enumerate(options):
                rows.append((f"{name[0]}: {label}", option, members, medians[index], index == best))
            picked = _value(options[best][2][0], tune)
            with_picked = [run for run in reported if _value(run, tune) == picked]
            if not with_picked:
                problems.append(
                    f"{name[0]}: {label} was tuned to {options[best][0]}, but no run with other seeds than "
                    f"{', '.join(map(str, sorted(chosen, key=str)))} has it; left out"
                )
            kept[name] += with_picked
            set_aside += len(reported) - len(with_picked)
    if not any(kept.values()):
        raise InputError(
            f"nothing is left to report after tuning {', '.join(tune)} on seeds "
            f"{', '.join(map(str, sorted(seeds, key=str))) or 'none'}; train the picked values with other seeds, or "
            "say with --tune-seeds which seeds are for tuning"
        )
    tuning = Tuning(list(tune), sorted(seeds, key=str), rows, spent, set_aside)
    return {name: runs for name, runs in kept.items() if runs}, tuning


def _seeds_with_several(runs: Sequence[Run], keys: Sequence[str], tune: Sequence[str]) -> set[Any]:
    """The seeds that some group was run with for several values of ``tune``."""
    values = defaultdict(set)
    for run in runs:
        values[_value(run, keys), run.seed].add(_value(run, tune))
    return {seed for (_, seed), several in values.items() if len(several) > 1}
