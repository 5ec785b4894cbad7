"""Statistics for few runs: robust means, intervals, paired tests, corrections.

A diverged run has an infinite score on the bad side: it counts in medians, interquartile means and ranks, and makes
the mean infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

FEWEST_FOR_INTERVAL = 4
"""Fewest values for an interval. With fewer, the interquartile mean trims nothing, and few resamples are distinct."""

FEWEST_FOR_TEST = 6
"""Fewest pairs for a test. With fewer, the smallest p-value of the exact signed-rank test, 2 / 2^n, is above 0.05."""

RESAMPLES = 10_000


class Interval(NamedTuple):
    """A 95% interval."""

    low: float
    high: float


class Paired(NamedTuple):
    """Comparison of A with B on pairs of runs with the same seed.

    n: number of pairs.
    difference: mean of A - B over the pairs in which neither run diverged.
    interval: 95% bootstrap interval of ``difference``; None for fewer than `FEWEST_FOR_INTERVAL` such pairs.
    wins: number of pairs in which A is better.
    effect: matched-pairs rank-biserial correlation, -1 to 1 (Kerby, 2014, doi:10.2466/11.IT.3.1), positive if A is
        better.
    p: exact two-sided p-value of Wilcoxon's signed-rank test; None for fewer than `FEWEST_FOR_TEST` pairs.
    """

    n: int
    difference: float
    interval: Interval | None
    wins: int
    effect: float
    p: float | None


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean of ``values`` without the lowest and the highest quarter.

    Recommended by Agarwal et al. (2021, arXiv:2108.13264). Of n values, ``n // 4`` are left out at either end.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def interval(values: Sequence[float]) -> Interval | None:
    """Return the 95% percentile bootstrap interval of the interquartile mean; None for few values.

    The number of values must be at least `FEWEST_FOR_INTERVAL`. The result is deterministic.
    """
    values = np.sort(np.asarray(values, dtype=float))
    if len(values) < FEWEST_FOR_INTERVAL:
        return None
    drawn = np.sort(_resampled(values), axis=1)
    cut = len(values) // 4
    return _percentiles(drawn[:, cut : len(values) - cut].mean(axis=1))


def margin(values: Sequence[float]) -> float | None:
    """Return half the width of the 95% Student t interval of the mean; None for one value or an infinite one."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    return float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values)))


def paired(a: Sequence[float], b: Sequence[float], better: str) -> Paired:
    """Compare paired scores.

    Args:
        a: scores of A.
        b: scores of B, in the same order.
        better: ``lower`` or ``higher``.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    difference = np.zeros(len(a))
    np.subtract(a, b, out=difference, where=a != b)  # if both diverged, neither is better
    gain = -difference if better == "lower" else difference
    finite = difference[np.isfinite(a) & np.isfinite(b)]
    # Ranks need finite numbers: a pair in which one run diverged gets the largest difference.
    largest = np.abs(gain[np.isfinite(gain)]).max(initial=0.0)
    gain = np.where(np.isinf(gain), np.sign(gain) * (2 * largest + 1), gain)
    within = None
    if len(finite) >= FEWEST_FOR_INTERVAL:
        within = _percentiles(_resampled(finite).mean(axis=1))
    return Paired(
        n=len(gain),
        difference=float(finite.mean()) if len(finite) else float("nan"),
        interval=within,
        wins=int((gain > 0).sum()),
        effect=_rank_biserial(gain),
        p=_wilcoxon(gain) if len(gain) >= FEWEST_FOR_TEST else None,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected by Holm's step-down method (Holm, 1979); None stays None and does not count."""
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[index] = largest
    return corrected


def pareto(points: Sequence[Sequence[float]]) -> list[bool]:
    """Return for each point whether it is finite and on the Pareto front, where lower coordinates are better."""
    values = np.asarray(points, dtype=float)
    return [
        bool(np.isfinite(one).all() and not ((values <= one).all(axis=1) & (values < one).any(axis=1)).any())
        for one in values
    ]


def _wilcoxon(gain: np.ndarray) -> float:
    """Return the exact two-sided p-value of the signed-rank test: zeros are left out, ties get their mean rank.

    Under the null hypothesis both signs are equally likely. The distribution of the rank sum is computed by adding one
    rank at a time. Ranks are doubled, because a mean rank can be a half-integer.
    """
    moved = gain[gain != 0]
    doubled = np.rint(2 * _ranks(np.abs(moved))).astype(int)
    chance = np.ones(1)
    for rank in doubled:
        chance = 0.5 * (np.pad(chance, (0, rank)) + np.pad(chance, (rank, 0)))
    found = doubled[moved > 0].sum()
    return min(1.0, 2 * float(min(chance[: found + 1].sum(), chance[found:].sum())))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value, from 1; ties get their mean rank. ``scipy.stats`` takes a second to import."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[place]


def _rank_biserial(gain: np.ndarray) -> float:
    moved = gain[gain != 0]
    if not len(moved):
        return 0.0
    ranks = _ranks(np.abs(moved))
    return float((ranks[moved > 0].sum() - ranks[moved < 0].sum()) / ranks.sum())


def _resampled(values: np.ndarray) -> np.ndarray:
    """Return resamples with replacement, ``[RESAMPLES, n]``."""
    return values[_picks(len(values))]


@lru_cache(maxsize=4)
def _picks(n: int) -> np.ndarray:
    """Return the indices of the resamples of ``n`` values, ``[RESAMPLES, n]``, drawn with a fixed seed."""
    return np.random.default_rng(0).integers(n, size=(RESAMPLES, n), dtype=np.int32)


def _percentiles(means: np.ndarray) -> Interval:
    # This method does not interpolate, which is impossible between a number and infinity.
    low, high = np.percentile(means, [2.5, 97.5], method="inverted_cdf")
    return Interval(float(low), float(high))
