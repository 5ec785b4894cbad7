"""The statistics compared with scipy and with cases computed by hand."""

from itertools import product
from math import comb, inf, isnan, nan

import numpy as np
import pytest
from scipy import stats

from rnnlab.analysis.statistics import holm, interquartile_mean, interval, paired, pareto

RANDOM = np.random.default_rng(1)


def test_interquartile_mean_by_hand():
    assert interquartile_mean([1, 2, 3]) == 2, "of three values, none is left out"
    assert interquartile_mean([0, 1, 3, 100]) == 2
    assert interquartile_mean([9, 1, 2, 3, -50, 4, 5, 6]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert interquartile_mean([1, 2, 3, inf]) == 2.5, "one diverged run of four is left out"
    assert interquartile_mean([1, 2, inf, inf]) == inf


@pytest.mark.parametrize("n", range(1, 25))
def test_interquartile_mean_equals_trim_mean_of_scipy(n):
    values = RANDOM.standard_normal(n)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-14)


@pytest.mark.parametrize("n", [4, 6, 10, 20])
def test_interval_equals_the_percentile_bootstrap_of_scipy(n):
    """The two draw different resamples, so their bounds agree approximately."""
    values = RANDOM.standard_normal(n)

    def statistic(sample, axis):
        return stats.trim_mean(sample, 0.25, axis=axis)

    theirs = stats.bootstrap((values,), statistic, n_resamples=20_000, method="percentile", rng=3).confidence_interval
    ours = interval(values)
    # A 2.5% quantile of 10,000 draws has an error of about 0.16% in rank, here 0.05 of a standard deviation.
    assert ours.low == pytest.approx(theirs.low, abs=0.05)
    assert ours.high == pytest.approx(theirs.high, abs=0.05)


def test_interval_of_few_equal_and_diverged_values():
    assert interval([1, 2, 3]) is None
    assert interval([2.0] * 5) == (2, 2)
    assert interval([1, 2, 3, 4]) == interval([4, 3, 2, 1]), "the order of the runs does not matter"
    assert interval([1.0, 1.0, 1.0, 1.0, 1.0, inf]).high == inf
    assert interval([inf] * 4) == (inf, inf)


def test_interval_of_five_normal_values_has_the_coverage_on_the_page():
    """The page states 91%, from 10,000 samples; 400 samples agree within three standard errors."""
    samples = np.random.default_rng(5).standard_normal((400, 5))
    holds = [found.low <= 0 <= found.high for found in map(interval, samples)]
    assert np.mean(holds) == pytest.approx(0.91, abs=0.045)


def test_paired_by_hand():
    result = paired([1, 2, 3], [2, 4, 2], "lower")
    assert (result.n, result.wins, result.p, result.interval) == (3, 2, None, None)
    assert result.difference == pytest.approx(-2 / 3)
    # |differences| 1, 2, 1 have ranks 1.5, 3, 1.5; A is better in the first two: (4.5 - 1.5) / 6.
    assert result.effect == pytest.approx(0.5)
    assert paired([1, 2, 3], [2, 4, 2], "higher").effect == pytest.approx(-0.5)


def test_no_p_value_below_six_pairs():
    """If all of five pairs have the same direction, the exact p is 2 / 2^5 = 0.0625, which is never below 0.05."""
    assert paired([1, 2, 3, 4, 5], [2, 4, 6, 8, 10], "lower").p is None
    assert paired([1, 2, 3, 4, 5, 6], [2, 4, 6, 8, 10, 12], "lower").p == pytest.approx(2 / 2**6)


def exact(differences):
    """Compute the two-sided p of the signed-rank test by enumerating the signs of all nonzero differences."""
    differences = np.asarray(differences)[np.asarray(differences) != 0]
    ranks = stats.rankdata(np.abs(differences))
    total = ranks[differences > 0].sum()
    sums = np.array(list(product((0, 1), repeat=len(ranks)))) @ ranks if len(ranks) else np.zeros(1)
    return min(1.0, 2 * min(np.mean(sums <= total), np.mean(sums >= total)))


@pytest.mark.parametrize("n", [6, 7, 9, 11])
def test_p_is_exact(n):
    a, b = RANDOM.standard_normal((2, n))
    assert paired(a, b, "lower").p == pytest.approx(exact(a - b))


@pytest.mark.parametrize("n", [6, 10, 14, 16])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_p_is_exact_with_ties_and_zeros(n, steps):
    differences = RANDOM.integers(-steps, steps + 2, n).astype(float)
    assert paired(differences, [0.0] * n, "lower").p == pytest.approx(exact(differences))


def test_five_differences_among_many_equal_pairs_are_not_significant():
    assert paired([1.0] * 5 + [0.0] * 15, [0.0] * 20, "lower").p == pytest.approx(2 / 2**5)


@pytest.mark.parametrize("n", [20, 40])
def test_p_equals_the_exact_p_of_scipy(n):
    a, b = RANDOM.standard_normal((2, n))
    assert paired(a, b + 0.5, "lower").p == pytest.approx(stats.wilcoxon(a - b - 0.5, method="exact").pvalue)


def test_p_of_many_pairs():
    """p is close to the normal approximation, and no sum overflows."""
    a, b = RANDOM.standard_normal((2, 400))
    expected = stats.wilcoxon(a - b, method="approx", correction=False).pvalue
    assert paired(a, b, "lower").p == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_effect_equals_that_from_the_rank_sums_of_scipy(better):
    a, b = RANDOM.standard_normal((2, 12))
    gain = b - a if better == "lower" else a - b
    positive = stats.wilcoxon(gain, alternative="greater").statistic
    assert paired(a, b, better).effect == pytest.approx(2 * positive / comb(13, 2) - 1)


def test_diverged_pairs_count_as_the_largest_difference():
    result = paired([1, 2, 3, 4, 5, 6], [1.5, 3, inf, inf, 6, inf], "lower")
    assert result.wins == 6
    assert result.p == pytest.approx(2 / 2**6)
    assert result.difference == pytest.approx(np.mean([-0.5, -1, -1])), (
        "mean over the pairs in which neither run diverged"
    )
    both = paired([inf] * 6, [inf] * 6, "lower")
    assert (both.wins, both.effect, both.p) == (0, 0, 1)
    assert isnan(both.difference)
    assert paired([-inf, 1, 1], [0.5, 0.5, 0.5], "higher").wins == 2


def test_equal_runs_have_no_difference():
    result = paired([1.0] * 7, [1.0] * 7, "lower")
    assert (result.wins, result.effect, result.p, result.difference) == (0, 0, 1, 0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, None, 0.6]) == [1.0, None, 1.0]
    assert holm([]) == []
    assert holm([None, 0.02]) == [None, 0.02], "pairs without a test do not count in the correction"


def test_pareto_by_hand():
    points = [(1, 3), (2, 2), (3, 1), (2, 3), (3, 3), (inf, 0), (nan, 0)]
    assert pareto(points) == [True, True, True, False, False, False, False]
    assert pareto([(1, 1), (1, 1)]) == [True, True], "equal points do not dominate each other"
