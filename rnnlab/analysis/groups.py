"""Divide runs into groups that differ by chosen keys, and compare each pair of groups."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from rnnlab.analysis.comparison import MOST_IN_ALL_PAIRS, Comparison, Group, Section, Tuning
from rnnlab.analysis.runs import Run, complete
from rnnlab.analysis.statistics import Paired, holm, paired
from rnnlab.interface import InputError
from rnnlab.lookup import nearest
from rnnlab.training.directory import FREE_KEYS

Key = tuple[str, ...]
"""Values of keys, each as its ``repr``, so that lists can be hashed and compared."""

_FIRST = ("task.name", "model.name", "cell.name", "optimizer.name")
"""Keys that come first in a group's label, without ``key=``."""


def compare(
    runs: Sequence[Run],
    by: Sequence[str] = (),
    metric: str | None = None,
    tune: Sequence[str] = (),
    tune_seeds: Sequence[Any] = (),
) -> Comparison:
    """Divide ``runs`` into sections and groups, and compare the groups.

    Args:
        runs: runs returned by `rnnlab.analysis.read`.
        by: keys whose values define the groups; by default the fewest keys that distinguish the configurations, without
            the seed, ``tune``, and keys that do not affect the result.
        metric: name of the metric to compare; by default the metric that the task monitors.
        tune: keys whose value is picked for each group by the median on valid of the runs with ``tune_seeds``.
        tune_seeds: seeds of the tuning runs, which are not reported; by default the seeds with several values of
            ``tune`` in one group.

    Raises:
        InputError: a key or the metric is unknown, or no run is left to report.
    """
    problems: list[str] = []
    known = sorted({key for run in runs for key in run.config})
    if not {*by, *tune} <= set(known):  # the key may be an option that is newer than all the runs
        complete(runs)
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
    """Return the runs without repetitions of a configuration; a completed run is kept before an unfinished one."""
    first: dict[str, Run] = {}
    for run in runs:
        name = json.dumps({k: v for k, v in run.config.items() if k not in FREE_KEYS}, sort_keys=True, default=str)
        other = first.setdefault(name, run)
        if other is not run and other.status == "unfinished" != run.status:
            first[name], run, other = run, other, run
        if other is not run:
            problems.append(f"{run.path} has the same configuration and seed as {other.path}; left out")
    return list(first.values())


def _place_unfinished(sections: dict[tuple[str, str | None], list[Run]]) -> None:
    """Assign runs without a data digest to the section of their task, if the task has only one data set."""
    for name in [name for name in sections if name[1] is None]:
        homes = [other for other in sections if other[0] == name[0] and other[1] is not None]
        if len(homes) == 1:
            sections[homes[0]] += sections.pop(name)


def _value(run: Run, keys: Sequence[str]) -> Key:
    return tuple(repr(run.config.get(key)) for key in keys)


def _differing(runs: Sequence[Run]) -> list[str]:
    """Return the keys whose values differ, except the seed and `FREE_KEYS`; the keys of `_FIRST` come first."""
    keys = dict.fromkeys([*_FIRST, *(key for run in runs for key in run.config)])
    return [
        key for key in keys if key != "seed" and key not in FREE_KEYS and len({_value(run, [key]) for run in runs}) > 1
    ]


def _fewest(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """Return few of ``keys``, chosen greedily, that distinguish the same groups as all of them."""
    goal = len({_value(run, keys) for run in runs})
    # One name distinguishes the groups of most sweeps: model=rnn,lstm,gru also changes the cell and its options.
    for key in (key for key in keys if key in _FIRST):
        if len({_value(run, [key]) for run in runs}) == goal:
            return [key]
    chosen: list[str] = []
    for key in keys:
        before = len({_value(run, chosen) for run in runs})
        if before < goal and len({_value(run, [*chosen, key]) for run in runs}) > before:
            chosen.append(key)
    return chosen


def _label(values: dict[str, Any]) -> str:
    """Return a group's label: values of `_FIRST` alone, others as ``key=value`` with the key shortened if unique."""
    short = Counter(key.rpartition(".")[2] for key in values)
    words = []
    for key, value in values.items():
        last = key.rpartition(".")[2]
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        words.append(text if key in _FIRST else f"{last if short[last] == 1 else key}={text}")
    return ", ".join(words) or "all"


def _groups(runs: Sequence[Run], keys: Sequence[str]) -> list[tuple[str, dict[str, Any], list[Run]]]:
    """Return label, values and runs of each group."""
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
    """Compare each pair of groups, or the best with every other if there are more than `MOST_IN_ALL_PAIRS`.

    Runs are paired by the seed and by the other ``keys`` that vary within the groups.
    """
    scores = []
    for group in groups:
        # A key with one value in the group, such as a width solved for a budget, is not used for pairing.
        varying = [key for key in keys if key == "seed" or len({_value(run, [key]) for run in group.runs}) > 1]
        named = defaultdict(list)
        for run, score in zip(group.runs, group.scores, strict=True):
            named[tuple(zip(varying, _value(run, varying), strict=True))].append(score)
        if repeated := [key for key, several in named.items() if len(several) > 1]:
            problems.append(f"{group.label}: several runs have {dict(repeated[0])}; they are left out of the pairs")
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
    """Return the runs to report, which have the value picked for their group, and the record of the tuning."""
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
                problems.append(
                    f"{name[0]}: {label} has no completed run with a tuning seed, so {', '.join(tune)} cannot be "
                    "picked; left out"
                )
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
                    f"{name[0]}: {label} was tuned to {options[best][0]}, but no run with this value has a seed other "
                    f"than {', '.join(map(str, sorted(chosen, key=str)))}; left out"
                )
            kept[name] += with_picked
            set_aside += len(reported) - len(with_picked)
    if not any(kept.values()):
        raise InputError(
            f"no run is left to report after tuning {', '.join(tune)} on seeds "
            f"{', '.join(map(str, sorted(seeds, key=str))) or 'none'}; train the picked values with other seeds, or "
            "give the tuning seeds with --tune-seeds"
        )
    tuning = Tuning(list(tune), sorted(seeds, key=str), rows, spent, set_aside)
    return {name: runs for name, runs in kept.items() if runs}, tuning


def _seeds_with_several(runs: Sequence[Run], keys: Sequence[str], tune: Sequence[str]) -> set[Any]:
    """Return the seeds with which a group has runs with several values of ``tune``."""
    values = defaultdict(set)
    for run in runs:
        values[_value(run, keys), run.seed].add(_value(run, tune))
    return {seed for (_, seed), several in values.items() if len(several) > 1}
