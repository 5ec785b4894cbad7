"""Texts of a comparison page: how scores are made, and how to read each figure."""

from __future__ import annotations

from rnnlab.analysis.comparison import CLOSE_TO_BASELINE
from rnnlab.analysis.statistics import FEWEST_FOR_TEST

SCORING = (
    "A score is the metric of a run's best checkpoint, which is chosen on valid and measured once on test (on valid if "
    "the task has no test split). The score of a diverged run is infinitely bad: it counts in median, interquartile "
    "mean (IQM) and ranks, and makes the mean infinite.",
    "The IQM is the mean of the middle half of the runs (Agarwal et al., 2021). Its 95% interval is a percentile "
    "bootstrap over runs and requires at least 4 runs.",
    "The interval is too narrow for few runs: for normally distributed data it contains the true value in 88% of all "
    "cases with 4 runs, 91% with 5, 94% with 10 and 94% with 20, not in 95%.",
    "A baseline is the score of a trivial predictor, such as the mean of the targets. A group is better than a "
    f"baseline if its IQM is better by more than {CLOSE_TO_BASELINE:.0%} of the baseline and its whole interval is "
    "better.",
    "Two groups are compared on pairs of runs with the same seed. The test is Wilcoxon's signed-rank test, exact and "
    "two-sided; its p-values are corrected by Holm's method for all pairs of groups of a section. With fewer than "
    f"{FEWEST_FOR_TEST} pairs of runs there is no test, because the smallest possible p-value is above 0.05. The "
    "effect size is the matched-pairs rank-biserial correlation: 1 if the first group is better in every pair, -1 if "
    "it is worse in every pair.",
    "Curves are medians over runs. A run that ended early keeps its last value; a diverged run has the worst possible "
    "value after its end. Bands go from the lowest to the highest run. FLOPs count matrix products and operations on "
    "matrix-valued states, forward and backward.",
    "Seconds are training time on the machines named above; other load on a machine makes it longer.",
)
"""Paragraphs on scores, intervals, tests and costs."""

_CURVE = (
    "Each line is a group of runs. Marks show where the runs were evaluated; between two evaluations the line is "
    "interpolated. The band goes from the lowest to the highest run, so a narrow band means that the seed hardly "
    "matters. Groups whose bands overlap may differ by chance."
)
READING = {
    "scores": "Each row is a group and each point is one run. Points far apart mean that the result depends on the "
    "seed. The thick bar is the interquartile mean, and the thin line is its 95% interval. A group that does not get "
    "past a dashed line has learned no more than that trivial predictor.",
    "step": f"{_CURVE} This axis shows how fast a group learns per update.",
    "tokens": "The same curves by the number of input steps that the model has read, which is fair between different "
    "batch sizes and lengths.",
    "seconds": "The same curves by training time without evaluations, which depends on the machine and on how fast "
    "each cell runs there. Marks are at the median time of each evaluation.",
    "flops": "The same curves by the amount of computation, which does not depend on the machine.",
    "pareto-parameters": "Each mark is a group. A group on the line is the best one of its size or smaller: "
    "every group off the line is beaten by one that is no larger.",
    "pareto-seconds": "Each mark is a group. A group on the line is the best one within its training time: "
    "every group off the line is beaten by one that is no slower.",
    "length": "A flat line means that the model works at every length. A line that gets worse beyond the lengths of "
    "training shows that it does not generalise to longer sequences.",
    "state": "How much a larger state helps. A line that stays flat has no use for more state.",
}
"""How to read each figure of a section."""
