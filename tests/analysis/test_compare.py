"""Comparison of runs: groups, statistics, tables and page. Damaged runs are reported and never dropped silently."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from math import inf, nan

import browser
import numpy as np
import pytest
import tiers
from made import compared, make

from rnnlab import __main__, analysis, config
from rnnlab.analysis import figures, report
from rnnlab.analysis.verdict import verdict
from rnnlab.interface import InputError
from rnnlab.report import style
from rnnlab.training import train

HTML = "<img src=x onerror=alert(1)>|`$x$"


def groups(result):
    return {group.label: group for section in result.sections for group in section.groups}


def test_groups_and_their_statistics(folder):
    for seed in range(8):
        make(folder, "gru", seed, score=1.0 + seed)
        make(folder, "lstm", seed, score=2.0 + seed)
    (section,) = compared().sections
    gru, lstm = section.groups
    assert (gru.label, lstm.label) == ("gru", "lstm"), "best first"
    assert (gru.mean, gru.median, gru.iqm) == (4.5, 4.5, 4.5)
    assert section.keys == ["cell.name"]
    ((a, b, result, p),) = section.pairs
    assert (a.label, b.label, result.n, result.wins, result.difference) == ("gru", "lstm", 8, 8, -1)
    assert p == result.p == pytest.approx(2 / 2**8)
    assert "unlikely to be chance" in verdict(section)


def test_the_metric_is_drawn_against_the_state_size(folder):
    accuracies = {
        ("gru", 64): [0.5, 0.2],
        ("gru", 128): [0.9, 0.4],
        ("mlstm", 64): [1.0, 0.6],
        ("mlstm", 256): [1, 0.8],
    }
    for (cell, size), values in accuracies.items():
        for seed in range(3):
            table = {str(pairs): value + 0.01 * (seed - 1) for pairs, value in zip((4, 16), values, strict=True)}
            test = {"step": 30, "loss": 1.0, "by_length": table}
            more = {"length_metric": "accuracy", "length_name": "pairs", "state_size": size, "lr": size * 1e-5}
            make(folder, cell, seed, test=test, **more)
    (section,) = compared().sections
    drawn = figures.figures(section, figures.looks_of(compared()))
    made, told = drawn["state"]
    assert told == "Metric on test against the numbers in the state of a sequence, median over runs."
    shown = {
        (axes.get_title(), line.get_label()): dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for axes in made.axes
        for line in axes.lines
    }
    expected = {
        (cell, f"pairs {pairs}"): {size: values[place] for (name, size), values in accuracies.items() if name == cell}
        for cell in ("gru", "mlstm")
        for place, pairs in enumerate((4, 16))
    }
    assert shown == {key: pytest.approx(points) for key, points in expected.items()}
    assert made.axes[0].get_ylabel() == "accuracy"
    assert drawn["length"][1] == "Metric on test against pairs, median over runs."


def test_without_lengths_there_is_a_curve_for_each_cell(folder):
    for cell, size, score in (("gru", 8, 3.0), ("gru", 16, 2.0), ("lstm", 16, 1.0)):
        make(folder, cell, score=score, state_size=size, lr=size * 1e-5)
    (section,) = compared(by=["cell.name"]).sections
    (axes,) = figures.figures(section, figures.looks_of(compared(by=["cell.name"])))["state"][0].axes
    shown = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert shown == {"gru": ([8, 16], [3.0, 2.0]), "lstm": ([16], [1.0])}


def test_one_state_size_or_none_is_not_drawn(folder):
    make(folder, "gru", state_size=8)
    make(folder, "lstm", state_size=16)
    make(folder, "rnn")
    (section,) = compared().sections
    assert "state" not in figures.figures(section, figures.looks_of(compared()))


CHANCE = {"chance": {"loss": 3.0, "mae": 0.9}, "mean": {"loss": 2.0}}
BASELINES = {"valid": CHANCE, "test": CHANCE}


def test_no_group_is_best_if_none_is_better_than_a_baseline(folder):
    for seed in range(3):
        make(folder, "gru", seed, score=1.95, baselines=BASELINES)  # within 5%
        make(folder, "lstm", seed, score=2.5, baselines=BASELINES)
    (section,) = compared().sections
    assert section.baselines() == {"mean": 2.0, "chance": 3.0}, "best first"
    assert verdict(section) == (
        "By loss on test (nats, lower is better), no group does better than the baseline mean (2): gru has 1.95."
    )


def test_groups_that_are_not_better_than_a_baseline_are_named(folder):
    for seed in range(3):
        make(folder, "gru", seed, score=0.1, baselines=BASELINES)
        make(folder, "lstm", seed, score=2.0, baselines=BASELINES)
        make(folder, "rnn", seed, score=2.5, baselines=BASELINES)
    (section,) = compared().sections
    assert "gru has 0.1, the best of 3 groups" in verdict(section)
    assert verdict(section).endswith(" lstm and rnn do no better than the baseline mean (2).")


def test_a_group_whose_interval_contains_the_baseline_is_not_better(folder):
    for seed, score in enumerate([0.5, 1.5, 3.0, 2.1, 0.6, 2.2]):
        make(folder, "gru", seed, score=score, baselines=BASELINES)
    ((group,),) = [section.groups for section in compared().sections]
    assert group.iqm < 0.95 * 2 < 2 < group.interval.high
    assert not group.beats(2.0)


@pytest.mark.parametrize("value", [0.56, 0.52])
def test_baselines_of_a_metric_that_is_better_if_higher(folder, value):
    about = {
        "metrics": {"loss": {"unit": "right", "better": "higher"}},
        "baselines": {"test": {"chance": {"loss": 0.5}}},
    }
    for seed in range(4):
        make(folder, "gru", seed, score=value, **about)
        make(folder, "rnn", seed, score=0.5, **about)
    (section,) = compared().sections
    assert ("no group does better than the baseline chance (50%)" in verdict(section)) == (value < 0.525)


@pytest.mark.slow
def test_baselines_on_the_page_and_in_the_tables(folder):
    for seed in range(2):
        make(folder, "gru", seed, score=1.0, baselines=BASELINES)
        make(folder, "lstm", seed, score=1.5)  # an older run without baselines
    place = analysis.write(compared(), "out")
    html = (place / "index.html").read_text()
    assert "baseline: chance" in html
    assert html.count("mean: 2") >= 5, "at the lines of the scores and the curves"
    assert html.count("chance: 3") >= 5
    assert "| baseline: mean | – | – | 2 | 2 | 2 |" in (place / "report.md").read_text()
    rows = list(csv.reader((place / "baselines.csv").read_text().splitlines()))
    assert ["adding", "d1", "loss", "test", "mean", "2.0"] in rows
    assert len(rows) == 5


def test_baselines_that_differ_or_are_damaged_are_not_shown(folder):
    other = {"test": {"chance": {"loss": 4.0}, "mean": {"loss": "two"}, "odd": 3}}
    make(folder, "gru", 0, score=1.0, baselines=BASELINES)
    make(folder, "gru", 1, score=1.0, baselines=other)
    make(folder, "gru", 2, score=1.0, baselines=[1])
    result = compared()
    assert result.sections[0].baselines() == {"mean": 2.0}
    assert any("baselines in summary.json is [1]" in text for text in report.problems(result))


@pytest.mark.usefixtures("undrawn")
def test_three_seeds_show_points_and_no_p_value(folder):
    for seed in range(3):
        make(folder, "gru", seed, score=1.0)
        make(folder, "lstm", seed, score=2.0)
    result = compared()
    ((_, _, pair, p),) = result.sections[0].pairs
    assert pair.p is None
    assert p is None
    assert "3 pairs are too few for a test" in verdict(result.sections[0])
    out = analysis.write(result, folder / "out")
    assert "below 6 no p-value" in (out / "index.html").read_text()


def test_the_selected_metric_and_its_direction(folder):
    metrics = {"accuracy": {"unit": "share", "better": "higher"}}
    for cell, score in (("gru", 0.9), ("lstm", 0.8)):
        test = {"accuracy": score}
        make(folder, cell, monitor="accuracy", metrics=metrics, test=test, best=test)
    (section,) = compared().sections
    assert [group.label for group in section.groups] == ["gru", "lstm"]
    assert "higher is better" in verdict(section)
    with pytest.raises(InputError, match=r"no metric 'acuracy'") as error:
        compared(metric="acuracy")
    names = str(error.value).partition("it has ")[2].split(", ")
    assert "accuracy" in names
    assert len(names) == len(set(names))


@pytest.mark.usefixtures("undrawn")
def test_selection_uses_valid_and_reports_use_test(folder):
    """Tuning selects the value that is best on the validation set, although another is better on the test set."""
    for seed in (100, 101):
        make(folder, "gru", seed, score=9.0, valid=1.0, lr=0.01)
        make(folder, "gru", seed, score=0.1, valid=2.0, lr=0.1)
    for seed in (0, 1):
        make(folder, "gru", seed, score=5.0, valid=4.0, lr=0.01)
    result = compared(tune=["optimizer.lr"])
    assert groups(result)["all"].scores == [5.0, 5.0]
    tuning = result.tuning
    assert (len(tuning.runs), tuning.seconds, tuning.seeds, tuning.set_aside) == (4, 12.0, [100, 101], 0)
    assert [(value, score, picked) for _, value, _, score, picked in tuning.rows] == [
        ("lr=0.01", 1.0, True),
        ("lr=0.1", 2.0, False),
    ]
    page = (analysis.write(result, folder / "out") / "index.html").read_text()
    assert "The search took 4 runs and 12 seconds" in page


def test_each_group_is_tuned_separately(folder):
    for cell, good in (("gru", 0.01), ("lstm", 0.1)):
        for lr in (0.01, 0.1):
            for seed in (7, 0, 1):
                make(folder, cell, seed, score=lr if seed == 7 else 3.0, valid=abs(lr - good), lr=lr)
    result = compared(tune=["optimizer.lr"], tune_seeds=[7])
    assert {label: {run.config["optimizer.lr"] for run in group.runs} for label, group in groups(result).items()} == {
        "gru": {0.01},
        "lstm": {0.1},
    }
    with pytest.raises(InputError, match="no run is left to report after tuning"):
        compared(tune=["optimizer.lr"])


def test_groups_without_runs_at_the_tuned_value_are_reported(folder):
    for lr in (0.01, 0.1):
        make(folder, "gru", 7, valid=lr, lr=lr)
        make(folder, "lstm", 7, valid=lr, lr=lr)
    make(folder, "gru", 0, lr=0.1)
    make(folder, "lstm", 0, lr=0.01)
    result = compared(tune=["optimizer.lr"])
    assert list(groups(result)) == ["lstm"]
    assert any("gru was tuned to lr=0.01, but no run" in problem for problem in result.problems)


@pytest.mark.usefixtures("undrawn")
def test_tasks_and_data_are_never_mixed(folder):
    make(folder, "gru", 0, digest="one")
    make(folder, "lstm", 0, digest="two")
    make(folder, "gru", 0, task="parity")
    result = compared()
    assert [(s.task, s.digest, len(s.groups)) for s in result.sections] == [
        ("adding", "one", 1),
        ("adding", "two", 1),
        ("parity", "d1", 1),
    ]
    assert not any(section.pairs for section in result.sections)
    assert "runs of different sections are not compared" in (analysis.write(result, "out") / "index.html").read_text()


def test_diverged_runs_count_as_the_worst(folder):
    for seed in range(4):
        make(folder, "gru", seed, score=1.0 + seed)
        make(folder, "lstm", seed, score=0.5, status="diverged" if seed < 2 else "finished", test=None)
    found = groups(compared())
    assert found["lstm"].diverged == 2
    assert found["lstm"].mean == inf
    assert found["lstm"].iqm == inf
    assert found["gru"].iqm == 2.5
    assert list(found) == ["gru", "lstm"]


def test_solved_runs_are_counted(folder):
    for seed in range(3):
        make(folder, "gru", seed, target=0.1, solved=20 if seed else None)
        make(folder, "lstm", seed)
    found = groups(compared(by=["cell.name"]))
    assert (found["gru"].solved, found["lstm"].solved) == (2, None)


def test_the_verdict_on_a_solved_task_gives_the_steps_to_the_target(folder):
    """A run ends when it reaches the target, so which loss is lower below the target is chance."""
    for seed in range(3):
        make(folder, "gru", seed, score=0.09, target=0.1, solved=20 + 10 * seed)
        make(folder, "lstm", seed, score=0.05, target=0.1, solved=200)
        make(folder, "rnn", seed, score=0.08 + seed, target=0.1, solved=None if seed else 10)
        make(folder, "elman", seed, score=2.0, target=0.1, solved=None)
    (section,) = compared(by=["cell.name"]).sections
    assert verdict(section).endswith(
        "gru after 30 steps and lstm after 200 steps (median) reached the target of 0.1 in every run. "
        "The other groups reached it in fewer runs: rnn in 1 of 3 and elman in none."
    )


def test_a_group_has_one_colour_in_every_section(folder):
    for task, better in (("adding", 0.1), ("parity", 0.9)):
        make(folder, "gru", 0, task=task, score=better)
        make(folder, "lstm", 0, task=task, score=1 - better)
    result = compared(by=["cell.name"])
    first, second = ([group.label for group in section.groups] for section in result.sections)
    assert first == second[::-1]
    looks = figures.looks_of(result)
    for section in result.sections:
        drawn = {
            line.get_label(): line.get_color()
            for line in figures.figures(section, looks)["step"][0].axes[0].lines
            if not line.get_label().startswith("_")
        }
        assert drawn == {label: style(looks[label])["color"] for label in first}


@pytest.mark.usefixtures("undrawn")
def test_several_tasks_share_an_overview_figure(folder):
    for task in ("adding", "parity"):
        make(folder, "gru", 0, task=task)
        make(folder, "lstm", 0, task=task)
    folder_of_report = analysis.write(compared(by=["cell.name"]), "out")
    assert (folder_of_report / "figures" / "overview.svg").exists()
    assert "Every task: the metric on valid" in (folder_of_report / "index.html").read_text()


def test_pairs_agree_in_all_other_options(folder):
    """If groups are formed by cell, the runs of a pair have the same seed and the same learning rate."""
    for lr in (0.1, 0.2):
        for seed in range(3):
            make(folder, "gru", seed, score=lr + seed, lr=lr)
            make(folder, "lstm", seed, score=2 * lr + seed, lr=lr)
    ((_, _, pair, _),) = compared(by=["cell.name"]).sections[0].pairs
    assert (pair.n, pair.wins) == (6, 6)
    assert pair.difference == pytest.approx(-0.15)


def test_widths_that_follow_from_the_cell_do_not_separate_pairs(folder):
    """A width that differs only between cells, as with a budget, does not distinguish runs further."""
    for cell, width in (("gru", 8), ("lstm", 7)):
        for seed in range(3):
            place = make(folder, cell, seed)
            summary = json.loads((place / "summary.json").read_text())
            summary["config"]["model"]["hidden_size"] = width
            (place / "summary.json").write_text(json.dumps(summary))
    (section,) = compared().sections
    assert section.keys == ["cell.name"]
    assert [pair.n for *_, pair, _ in section.pairs] == [3]
    assert section.differences["model.hidden_size"] == [["8"], ["7"]]


def test_damaged_runs_are_reported_by_name(folder):
    make(folder, "gru", 0)
    broken = make(folder, "gru", 1)
    lines = (broken / "metrics.jsonl").read_text().splitlines()
    (broken / "metrics.jsonl").write_text("\n".join([*lines[:2], '{"step": 15, "spl', *lines[2:], "[1]", "\x00"]))
    nothing = make(folder, "gru", 2, test={"loss": None})
    half = make(folder, "gru", 3)
    (half / "summary.json").write_text((half / "summary.json").read_text()[:200])
    missing = make(folder, "gru", 4)
    (missing / "summary.json").unlink()
    odd = make(folder, "gru", 5)
    (odd / "metrics.jsonl").write_text('{"step": 10, "split": "valid", "loss": NaN, "tokens": "many", "seconds": 1}\n')
    lost = make(folder, "gru", 6)
    (lost / "summary.json").write_text("{}")
    (lost / "config.yaml").write_text("a: [")
    cut = make(folder, "gru", 8)
    lines = (cut / "metrics.jsonl").read_text().splitlines()
    (cut / "metrics.jsonl").write_text("\n".join([lines[0][:-20], *lines[1:]]))  # a truncated line of the split train
    silent = make(folder, "gru", 7)
    (silent / "metrics.jsonl").unlink()
    result = compared()
    out = analysis.write(result, "out")
    (group,) = groups(result).values()
    assert [run.seed for run in group.runs] == [0, 1, 2, 5, 7, 8]
    assert sorted(run.seed for run in group.unfinished) == [3, 4]
    assert group.diverged == 1
    told = (out / "report.md").read_text()
    for place, sentence in (
        (broken, "line 3, 8, 9 cannot be read"),
        (nothing, "loss on test is not a finite number; the run counts as diverged"),
        (half, "summary.json cannot be read"),
        (missing, "summary.json is missing"),
        (odd, "loss on valid is not a finite number at step 10"),
        (lost, "neither summary.json nor config.yaml can be read"),
        (cut, "line 1 cannot be read"),
        (silent, "metrics.jsonl is missing"),
    ):
        assert re.search(f"- .*{place.name}.*{re.escape(sentence)}", told), (sentence, told)


@pytest.mark.parametrize("bad", tiers.every(2, [None, True, "x", -1, {"a": 1}, [1], nan]), ids=str)
def test_a_summary_with_invalid_values_is_read(folder, bad):
    """A report is written for any value of a part of a summary, and invalid values are reported."""
    make(folder, "gru", 1)
    place = make(folder, "gru", 0)
    whole = json.loads((place / "summary.json").read_text())
    parts = [(key,) for key in whole if key not in ("config", "monitor")]
    parts += [(key, inner) for key in ("metrics", "best", "test") for inner in whole[key]]
    for key, *inner in parts:
        summary = json.loads(json.dumps(whole))
        if inner:
            summary[key][inner[0]] = bad
        else:
            summary[key] = bad
        (place / "summary.json").write_text(json.dumps(summary))
        result = compared()
        assert sum(len(section.groups) for section in result.sections), key
        report.markdown(result)
        report.tables(result)
        for section in result.sections:
            figures._by_length(section.groups, figures.looks_of(result))
        report._page(result, None, [[] for _ in result.sections], folder / "out").html()
        if key in ("metrics", "versions") and bad is not None and not isinstance(bad, dict):
            assert any(str(place.name) in text for text in report.problems(result)), (key, inner)


def test_links_are_followed_and_unreadable_files_are_reported(folder, monkeypatch):
    away = make(folder / "elsewhere", "gru", 0)
    make(folder, "gru", 1)
    (folder / "runs" / "link").symlink_to(away)
    (folder / "runs" / "back").symlink_to(folder / "runs")
    odd = make(folder, "gru", 2)
    (odd / "summary.json").unlink()
    (odd / "summary.json").mkdir()
    result = compared()
    (group,) = groups(result).values()
    assert [run.seed for run in group.runs] == [0, 1]
    assert [run.seed for run in group.unfinished] == [2]
    assert any(odd.name in text and "summary.json cannot be read" in text for text in report.problems(result))
    whole = os.scandir

    def closed(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    (folder / "runs" / "shut").mkdir()
    monkeypatch.setattr(os, "scandir", closed)
    assert any("shut cannot be searched (Permission denied)" in text for text in compared().problems)


def test_copies_of_a_run_count_once(folder):
    place = make(folder, "gru", 0)
    make(folder, "lstm", 0)
    shutil.copytree(place, folder / "runs" / "z-copy")
    result = compared("runs", "runs", place)
    assert [len(group.runs) for group in groups(result).values()] == [1, 1]
    assert any("z-copy has the same configuration and seed" in problem for problem in result.problems)


def test_values_of_a_configuration_are_escaped_on_the_page(folder):
    for cell in (HTML, "gru"):
        for seed in range(2):
            make(folder, cell, seed)
    out = analysis.write(compared(), "out")
    page = (out / "index.html").read_text()
    assert "<img" not in page
    assert page.count("<script>") == 1
    assert "&lt;img src=x" in (out / "report.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_every_number_links_to_its_runs(folder):
    places = [make(folder, cell, seed) for cell in ("gru", "lstm") for seed in range(2)]
    page = (analysis.write(compared(), "deep/er/out") / "index.html").read_text()
    anchors = set(re.findall(r'id="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= anchors
    links = re.findall(r'href="([^"#:]+)"', page)
    assert {(folder / "deep/er/out" / link).resolve() for link in links} == {place.resolve() for place in places}


@pytest.mark.usefixtures("undrawn")
def test_other_metrics_are_shown_next_to_the_score(folder):
    for seed, mae in enumerate([0.25, 0.75, 7.0]):
        make(folder, "gru", seed, test={"loss": 1.0, "mae": mae})
    text = (analysis.write(compared(), "out") / "index.html").read_text()
    assert "mae (error, lower is better)" in text
    assert '<td data-sort="0.75" class="n"><a href="#runs-1-1">0.75</a></td>' in text


@pytest.mark.slow
def test_files_of_a_report(folder):
    for cell in ("gru", "lstm"):
        for seed in range(4):
            make(folder, cell, seed, score=1.0 + seed)
    out = analysis.write(compared(), "out")
    tables = {name: (out / f"{name}.csv").read_text().splitlines() for name in ("groups", "runs", "pairs")}
    rows = list(csv.DictReader(tables["groups"]))
    assert [(row["group"], row["runs"], float(row["iqm"])) for row in rows] == [("gru", "4", 2.5), ("lstm", "4", 2.5)]
    assert len(list(csv.DictReader(tables["runs"]))) == 8
    assert len(list(csv.DictReader(tables["pairs"]))) == 1
    names = {path.name for path in (out / "figures").iterdir()}
    for name in ("scores", "step", "tokens", "seconds", "flops", "pareto-parameters", "pareto-seconds"):
        assert {f"adding-{name}.png", f"adding-{name}.svg"} <= names
    assert analysis.write(compared(), "out").name == "out-2", "an existing report is not overwritten"


def test_curves_continue_after_the_end_of_a_run(folder):
    from rnnlab.analysis.figures import _stepped

    grid = np.array([5.0, 10, 15, 20, 40])
    x, y = np.array([10.0, 20.0]), np.array([4.0, 2.0])
    assert _stepped(grid, x, y, None).tolist() == [4, 4, 3, 2, 2]
    assert _stepped(grid, x, y, inf).tolist() == [4, 4, 3, 2, inf]
    assert _stepped(grid, x, np.array([4.0, inf]), None).tolist() == [4, 4, 4, inf, inf]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a directory"),
        (["."], "no run found in ."),
        ([], "give run directories"),
        (["runs", "--by", "cel.name"], "unknown key 'cel.name'; did you mean 'cell.name'"),
        (["runs", "--by"], "--by needs a value"),
        (["runs", "--bye", "cell.name"], "unknown option 'bye=cell.name'"),
        (["runs", "--tune", "optimizer.lr"], "no run is left to report"),
    ],
)
def test_invalid_arguments_are_refused(folder, capsys, arguments, message):
    if "runs" in arguments:
        make(folder)
    assert __main__.main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "comparison").exists()


def test_the_command_on_real_runs(folder, capsys):
    small = ["task=adding", "task.lengths=[5,5]", "task.test_lengths=[5,9]", "task.batch_size=4", "trainer.steps=4"]
    small += ["task.eval_batches=1", "trainer.eval_every=2", "logger.tensorboard=false", "model.hidden_size=4"]
    for cell in ("rnn", "gru"):
        for seed in (0, 1):
            train(config.compose([*small, f"cell={cell}", f"seed={seed}"]))
    assert __main__.main(["compare", "runs", "--by=cell.name", "--out", "mine", "metric=mae"]) == 0
    told = capsys.readouterr().out
    assert "By mae on test (mean absolute error, lower is better), " in told
    assert told.rstrip().endswith("Written: mine/index.html")
    assert (folder / "mine/figures/adding-flops.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_the_budget_and_the_deviation_from_it(folder):
    """The table shows both, and the Pareto front ignores sizes that are equal by design."""
    for cell, found in (("gru", 19_900), ("lstm", 20_200)):
        for seed in range(2):
            budget = {"of": "parameters", "goal": 20_000, "found": found, "deviation": found / 20_000 - 1}
            make(folder, cell, seed, score=1.0 + (cell == "gru"), parameters=found, budget=budget)
    result = compared()
    (section,) = result.sections
    assert [group.label for group in section.groups] == ["lstm", "gru"]
    assert section.is_of_one_size
    assert section.front == [True, False], "under a budget, 1% fewer parameters do not count"
    out = analysis.write(result, "out")
    page = (out / "index.html").read_text()
    assert ">+1.00%</a>" in page
    assert ">−0.50%</a>" in page
    assert "Budget: 20,000 parameters" in page
    assert not list((out / "figures").glob("*pareto-parameters*"))
    make(folder, "gru", 2)
    (section,) = compared().sections
    assert not section.is_of_one_size, "one run has no budget"
    assert section.front == [True, True]


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_a_state_size_is_compared_with_others(folder):
    """Summaries of earlier versions do not have it."""
    make(folder, "gru", 0)
    make(folder, "lstm", 0, state_size=512)
    out = analysis.write(compared(), "out")
    page = (out / "index.html").read_text()
    assert ">state size<" in page
    assert ">operations<" in page
    assert ">600<" in page
    table = [line.split(",") for line in (out / "groups.csv").read_text().splitlines()]
    sizes = {row[table[0].index("group")]: row[table[0].index("state_size")] for row in table[1:]}
    assert float(sizes["lstm"]) == 512
    assert sizes["gru"] in ("", "nan")


@pytest.mark.usefixtures("undrawn")
def test_empty_columns_are_left_out(folder):
    make(folder, "gru", 0, flops_per_token=None)
    make(folder, "lstm", 0, flops_per_token=None)
    page = (analysis.write(compared(), "out") / "index.html").read_text()
    assert ">off budget<" not in page
    assert ">state size<" not in page
    assert ">operations<" not in page
    assert ">solved<" not in page


@pytest.mark.usefixtures("undrawn")
def test_tuning_runs_are_listed_and_runs_set_aside_are_counted(folder):
    for lr in (0.01, 0.1):
        for seed in (7, 0, 1):
            make(folder, "gru", seed, valid=lr, lr=lr)
    result = compared(tune=["optimizer.lr"], tune_seeds=[7])
    assert result.tuning.set_aside == 2
    out = analysis.write(result, "out")
    page = (out / "index.html").read_text()
    assert page.count('href="#tuning-runs"') == 2 * 4
    assert "The 2 runs of the search" in page
    assert "2 runs of other seeds have values that were not picked" in (out / "report.md").read_text()


def test_curves_are_read_once(folder, monkeypatch):
    """The curves of several tasks are drawn twice, in the overview and separately; a problem is reported once."""
    for task in ("adding", "parity"):
        place = make(folder, "gru", 0, task=task)
        (place / "metrics.jsonl").write_text("{\n")
    told = (analysis.write(compared(), "out") / "report.md").read_text()
    assert told.count("line 1 cannot be read") == 2


@pytest.mark.slow
def test_thousands_of_runs_take_the_time_to_read_them(folder):
    """2,000 runs of 1,000 points take less than twice the CPU time of parsing their metrics line by line."""
    place = make(folder, "gru", 0)
    summary = json.loads((place / "summary.json").read_text())
    lines = [
        json.dumps({"step": s, "split": "valid", "tokens": 100 * s, "seconds": s / 10, "loss": 1 / s, "mae": 0.1})
        + "\n"
        for s in range(1, 1001)
    ]
    for number in range(2000):
        run = folder / "many" / str(number)
        run.mkdir(parents=True)
        summary["seed"] = summary["config"]["seed"] = number // 8
        summary["config"]["cell"]["name"] = f"cell{number % 8}"
        summary["test"]["loss"] = 1 + number / 1000
        (run / "summary.json").write_text(json.dumps(summary))
        (run / "metrics.jsonl").write_text("".join(lines))
    script = "import sys, time; from rnnlab.__main__ import main; main(sys.argv[1:]); print(time.process_time())"
    done = subprocess.run(
        [sys.executable, "-c", script, "compare", "many"], capture_output=True, text=True, check=True, timeout=300
    )
    started = time.process_time()
    for file in (folder / "many").glob("*/metrics.jsonl"):
        assert len([json.loads(line) for line in file.read_text().splitlines()]) == 1000
    assert float(done.stdout.splitlines()[-1]) < 2 * (time.process_time() - started)
    assert "cell0" in done.stdout


def test_compare_and_status_do_not_import_pytorch(folder):
    """Importing PyTorch takes longer than the rest of these commands."""
    make(folder, "gru", 0)
    script = "import sys; from rnnlab.__main__ import main; print(main(['status', 'runs']), main(['compare', 'runs']))"
    script += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0 0", "False"], done.stderr


@pytest.mark.slow
@browser.needed
def test_the_page_in_a_browser(folder):
    """Test the page at the width of a screen and of a telephone, in light and dark mode, and printed.

    Nothing is wider than the window, a number opens the list of its runs, tables sort, the page loads no other file,
    and the console is empty.
    """
    for task in ("adding", "parity"):
        for cell in (HTML, "gru", "a_cell_with_a_name_that_is_longer_than_any_other"):
            for seed in (*range(6), 100):
                status = "diverged" if (cell, seed) == ("gru", 3) else "finished"
                make(folder, cell, seed, task=task, score=1 + seed / 10, lr=0.1, status=status)
    out = analysis.write(compared(tune=["optimizer.lr"], tune_seeds=[100]), "out")
    with browser.browser() as look:
        for width, scheme, paper in ((1280, "light", "#fff"), (390, "light", "#fff"), (390, "dark", "#17181a")):
            look.open(out / "index.html", width, scheme)
            assert look.run("document.documentElement.scrollWidth") == width
            assert look.run("getComputedStyle(document.body).getPropertyValue('--paper')") == paper
            look.run("document.querySelector('td a').click()")
            assert (
                look.run("new Promise(done => setTimeout(() => done(document.querySelectorAll('[open]').length), 50))")
                == 1
            )
            mean = "[...document.querySelectorAll('table')[0].rows].slice(1).map(r => r.cells[3].textContent)"
            look.run("document.querySelectorAll('table')[0].querySelectorAll('th button')[3].click()")
            ascending = look.run(mean)
            assert ascending[-1] == "∞"
            look.run("document.querySelectorAll('table')[0].querySelectorAll('th button')[3].click()")
            assert look.run(mean)[0] == "∞", "a diverged run sorts as infinity"
            tables = look.run("[...document.querySelectorAll('.table, .wide')].map(t => t.getAttribute('tabindex'))")
            assert set(tables) == {"0"}, "wide tables can be scrolled with the keyboard"
        look.open(out / "index.html", 1280, "dark", media="print")
        assert look.run("getComputedStyle(document.body).getPropertyValue('--paper')") == "#fff"
        assert look.run("getComputedStyle(document.querySelector('.table')).overflowX") == "visible"
        look.printed(folder / "page.pdf")
        assert (folder / "page.pdf").read_bytes().startswith(b"%PDF")
    assert not look.complaints
    assert {address.partition(":")[0] for address in look.requests} == {"file"}
    assert set(look.requests) == {(out / "index.html").absolute().as_uri()}
