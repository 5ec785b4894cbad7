"""Statistics for few runs: robust means, intervals, paired tests, corrections.

A run that diverged has a score of infinity on the bad side: it counts in medians, interquartile means and ranks, and
makes a mean infinite instead of vanishing from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

FEWEST_FOR_INTERVAL = 4
"""With fewer, an interquartile mean trims nothing, and there are too few resamples to speak of an interval."""

FEWEST_FOR_TEST = 6
"""With fewer pairs, the smallest p of the exact paired Wilcoxon test, 2 / 2^n, is above 0.05."""

RESAMPLES = 10_000


class Interval(NamedTuple):
    """A 95% interval."""

    low: float
    high: float


class Paired(NamedTuple):
    """A against B, run by run with the same seed.

    n: pairs.
    difference: mean of A - B; of those pairs in which neither diverged.
    interval: 95% bootstrap interval of it; None for fewer than `FEWEST_FOR_INTERVAL` such pairs.
    wins: in how many pairs A is better.
    effect: matched-pairs rank-biserial correlation, -1 to 1 (Kerby, 2014, doi:10.2466/11.IT.3.1): positive where A is
        better.
    p: two-sided and exact, Wilcoxon's signed-rank test; None for fewer than `FEWEST_FOR_TEST` pairs.
    """

    n: int
    difference: float
    interval: Interval | None
    wins: int
    effect: float
    p: float | None


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of what remains without the quarter of lowest and the quarter of highest ``values``.

    As recommended by Agarwal et al. (2021, arXiv:2108.13264); of n values, ``n // 4`` are left out at either end.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def interval(values: Sequence[float]) -> Interval | None:
    """The 95% percentile bootstrap interval of the interquartile mean; the same values give the same interval.

    None for fewer than `FEWEST_FOR_INTERVAL` values.
    """
    values = np.sort(np.asarray(values, dtype=float))
    if len(values) < FEWEST_FOR_INTERVAL:
        return None
    drawn = np.sort(_resampled(values), axis=1)
    cut = len(values) // 4
    return _percentiles(drawn[:, cut : len(values) - cut].mean(axis=1))


def paired(a: Sequence[float], b: Sequence[float], better: str) -> Paired:
    """A against B, pair by pair.

    Args:
        a: scores, the i-th belonging to the i-th of ``b``.
        b: as many scores.
        better: ``lower`` or ``higher``.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    difference = np.zeros(len(a))
    np.subtract(a, b, out=difference, where=a != b)  # where both diverged, neither is better
    gain = -difference if better == "lower" else difference
    finite = difference[np.isfinite(a) & np.isfinite(b)]
    # Ranks need numbers: a pair of which one diverged differs by more than every other.
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
    """P-values corrected for their number, step by step (Holm, 1979); None stays None and does not count."""
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[index] = largest
    return corrected


def pareto(points: Sequence[Sequence[float]]) -> list[bool]:
    """Which of ``points``, every coordinate of which is better lower, no other point beats or equals in all and beats
    in one.
    """
    values = np.asarray(points, dtype=float)
    return [
        bool(np.isfinite(one).all() and not ((values <= one).all(axis=1) & (values < one).any(axis=1)).any())
        for one in values
    ]


def _wilcoxon(gain: np.ndarray) -> float:
    """The exact two-sided p-value of the signed-rank test: zeros are left out, equal differences share their mean rank.

    Under the null hypothesis every sign is as likely as the other. The distribution of the rank sum is built up rank by
    rank; ranks are doubled, as mean ranks may end in a half.
    """
    moved = gain[gain != 0]
    doubled = np.rint(2 * stats.rankdata(np.abs(moved))).astype(int)
    chance = np.ones(1)
    for rank in doubled:
        chance = 0.5 * (np.pad(chance, (0, rank)) + np.pad(chance, (rank, 0)))
    found = doubled[moved > 0].sum()
    return min(1.0, 2 * float(min(chance[: found + 1].sum(), chance[found:].sum())))


def _rank_biserial(gain: np.ndarray) -> float:
    moved = gain[gain != 0]
    if not len(moved):
        return 0.0
    ranks = stats.rankdata(np.abs(moved))
    return float((ranks[moved > 0].sum() - ranks[moved < 0].sum()) / ranks.sum())


def _resampled(values: np.ndarray) -> np.ndarray:
    """Resamples with replacement, ``[RESAMPLES, n]``."""
    return values[_picks(len(values))]


@lru_cache(maxsize=4)
def _picks(n: int) -> np.ndarray:
    """Which of ``n`` values are drawn, ``[RESAMPLES, n]``; always the same."""
    return np.random.default_rng(0).integers(n, size=(RESAMPLES, n), dtype=np.int32)


def _percentiles(means: np.ndarray) -> Interval:
    # Between a number and infinity there is nothing to interpolate.
    low, high = np.percentile(means, [2.5, 97.5], method="inverted_cdf")
    return Interval(float(low), float(high))
