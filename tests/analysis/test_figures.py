"""Figures of a comparison: baselines, marks of evaluations, and plain units."""

import json
from itertools import combinations
from math import inf, nan

import numpy as np
import pytest
from made import compared, make

from rnnlab import report
from rnnlab.analysis import curves, figures
from rnnlab.analysis.units import difference, difference_unit, is_share, scale, told
from rnnlab.analysis.verdict import on_baselines, verdict
from rnnlab.interface import Metric

RIGHT = Metric("of the symbols right", "higher")
NATS = Metric("nats")
TWO = {"chance": {"loss": 2.4}, "mean": {"loss": 2.0}}
BASELINES = {"valid": TWO, "test": TWO}


def drawn(result):
    (section,) = result.sections
    return figures.figures(section, figures.looks_of(result))


def ticks(axis):
    """The texts of the major ticks within the limits of an axis."""
    low, high = sorted(axis.get_view_interval())
    texts = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
    return [label.get_text() for place, label in texts if low <= place <= high]


def test_every_baseline_is_drawn_and_named(folder):
    for seed in range(2):
        make(folder, "gru", seed, score=1.0, baselines=BASELINES)
        make(folder, "lstm", seed, score=1.5, baselines=BASELINES)
    result = compared()
    shown = drawn(result)
    for name, along in (("scores", "x"), ("step", "y"), ("seconds", "y")):
        axes = shown[name][0].axes[0]
        lines = [list(getattr(line, f"get_{along}data")()) for line in axes.lines if line.get_linestyle() == "--"]
        assert lines == [[2.0, 2.0], [2.4, 2.4]]
        assert [text.get_text() for text in axes.texts] == ["mean: 2", "chance: 2.4"]
        assert "dashed lines are baselines" in shown[name][1]
    said = on_baselines(result.sections[0])
    assert said == "Baselines on test: mean (2) and chance (2.4). Every group is better than both."


def test_a_baseline_far_from_the_scores_is_an_arrow_at_the_edge(folder):
    for seed in range(2):
        make(folder, "gru", seed, score=1.0 + 0.01 * seed, baselines={"test": {"chance": {"loss": 9.0}}})
    axes = drawn(compared())["scores"][0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["chance: 9 →"]
    assert axes.get_xlim()[1] < 1.1


def test_the_text_names_the_only_baseline_once(folder):
    make(folder, "gru", score=1.0, baselines={"test": {"mean": {"loss": 1.0}}})
    (section,) = compared().sections
    assert verdict(section).endswith("all does no better than the baseline mean (1).")
    assert on_baselines(section) == ""
    make(folder, "gru", 1, score=1.0)
    assert on_baselines(compared().sections[0]) == "", "another run did not record it"


def test_marks_are_at_the_evaluations(folder):
    for seed in range(3):
        make(folder, "gru", seed, score=1.0 + seed)
    shown = drawn(compared())
    for axis, places in (("step", [10, 20, 30]), ("tokens", [1000, 2000, 3000]), ("seconds", [1, 2, 3])):
        (line,) = shown[axis][0].axes[0].lines
        marked = line.get_xdata()[line.get_markevery()]
        assert marked.tolist() == places
        values = line.get_ydata()[line.get_markevery()]
        assert values == pytest.approx([2.0 * 30 / step for step in (10, 20, 30)]), "the median over the seeds"
    assert "marks are evaluations" in shown["step"][1]


def test_many_evaluations_are_not_marked(folder):
    place = make(folder, "gru")
    lines = [{"step": s, "split": "valid", "tokens": s, "seconds": s, "loss": 1.0 / s} for s in range(1, 80)]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (line,) = drawn(compared())["step"][0].axes[0].lines
    assert line.get_markevery() == []


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.98437, RIGHT, "98.44%"),
        (1.0, RIGHT, "100%"),
        (nan, RIGHT, "–"),
        (-inf, RIGHT, "−∞"),
        (0.98437, NATS, "0.9844"),
    ],
)
def test_shares_are_told_in_percent(value, metric, text):
    assert told(value, metric) == text


def test_differences_of_shares_are_percentage_points():
    assert (difference(-0.032, RIGHT), difference_unit(RIGHT)) == ("−3.2", "percentage points of the symbols right")
    assert (difference(-0.032, NATS), difference_unit(NATS)) == ("−0.032", "nats")
    assert not is_share(Metric("of zero velocity, worst horizon")), "a ratio that is better if lower is no share"


@pytest.mark.parametrize(
    ("quantity", "largest", "divisor", "label"),
    [
        ("step", 20_000, 1, "training steps"),
        ("step", 5_000_000, 1e6, "training steps (millions)"),
        ("seconds", 100, 1, "training time (seconds)"),
        ("seconds", 1000, 60, "training time (minutes)"),
        ("seconds", 20_000, 3600, "training time (hours)"),
        ("tokens", 4e9, 1e9, "input steps trained on (billions)"),
        ("flops", 2e19, 1e18, "floating-point operations (10¹⁸)"),
    ],
)
def test_axes_have_plain_units(quantity, largest, divisor, label):
    assert scale(quantity, largest) == (divisor, label)


def test_numbers_on_axes_are_plain(folder):
    about = {"metrics": {"loss": {"unit": "of the steps right", "better": "higher"}}}
    for score in (0.2, 0.7):
        place = make(folder, "gru", int(10 * score), score=score, **about)
        records = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        changed = [{**one, "step": 400 * one["step"], "seconds": 600.0 * one["step"], "loss": score} for one in records]
        (place / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in changed))
    shown = drawn(compared())
    axes = shown["step"][0].axes[0]
    assert "8,000" in ticks(axes.xaxis)
    assert "40%" in ticks(axes.yaxis)
    assert shown["seconds"][0].axes[0].get_xlabel() == "training time (hours)"
    assert shown["seconds"][0].axes[0].lines[0].get_xdata()[-1] == pytest.approx(600 * 30 / 3600)
    assert "40%" in ticks(shown["scores"][0].axes[0].xaxis)


def test_small_numbers_on_a_logarithmic_axis_have_superscripts(folder):
    for seed, score in enumerate((1e-9, 1e-6)):
        make(folder, "gru", seed, score=score)
    assert {"10⁻⁸", "10⁻⁷"} <= set(ticks(drawn(compared())["scores"][0].axes[0].xaxis))


@pytest.mark.parametrize("is_vertical", [False, True])
def test_labels_of_reference_lines_do_not_cover_each_other(is_vertical):
    made, axes = report.figure()
    axes.plot([0, 1], [0, 1])
    report.mark_values(axes, {"first": 0.5, "second": 0.51, "far": 99.0, "farther": 100.0}, is_vertical)
    made.draw_without_rendering()
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["first", "second", *(["far →", "farther →"] if is_vertical else ["↑ far", "↑ farther"])]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_the_curves_of_a_run_have_its_baselines_and_plain_units(folder):
    about = {"metrics": {"loss": {"unit": "nats", "better": "lower"}, "mae": {"unit": "of it", "better": "higher"}}}
    place = make(folder, "gru", baselines={"valid": {"chance": {"loss": 3.0, "mae": 0.5}}}, **about)
    axes = {one.get_title(): one for one in curves.draw(curves.read(place), "run", curves.about(place)).axes}
    assert [text.get_text() for text in axes["loss (nats)"].texts] == ["chance: 3"]
    assert [text.get_text() for text in axes["mae (of it)"].texts] == ["chance: 50%"]
    assert np.array_equal(axes["loss (nats)"].lines[1].get_xdata(), [10, 20, 30])
