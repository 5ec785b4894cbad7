"""``rnnlab runs``, ``rnnlab plot`` and ``rnnlab doctor``."""

import json

import pytest

from rnnlab import __main__
from rnnlab.analysis import curves
from rnnlab.interface import InputError


def make(place, cell, score, seed=0, task="adding", monitor="loss", better="lower", status="finished", **more):
    """Write the directory of a run."""
    place.mkdir(parents=True)
    config = {"seed": seed, "run_dir": str(place), "task": {"name": task}, "cell": {"name": cell}}
    summary = {"status": status, "config": config, "parameters": 1234, "steps": 20, "seconds": 3.4, "monitor": monitor}
    summary |= {"metrics": {monitor: {"unit": "", "better": better}}, "test": {monitor: score, "step": 20}, **more}
    (place / "summary.json").write_text(json.dumps(summary))
    (place / "config.yaml").write_text(json.dumps(config))


def listed(capsys, *arguments):
    """The rows of the tables that ``rnnlab runs`` prints, without headings."""
    assert __main__.main(["runs", *arguments]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines() if "runs/" in line]


def test_runs_are_listed_by_task_the_best_first(folder, capsys):
    make(folder / "runs" / "a", "gru", 0.5)
    make(folder / "runs" / "b", "lstm", 0.25, seed=3, parameters=99)
    make(folder / "runs" / "c", "gru", 0.7, task="parity", monitor="accuracy", better="higher")
    make(folder / "runs" / "d", "rnn", 0.9, task="parity", monitor="accuracy", better="higher")
    make(folder / "runs" / "e", "rnn", float("nan"), status="diverged")
    rows = listed(capsys)
    assert [row[3 if row[0] != "-" else 1] for row in rows] == [f"runs/{name}" for name in "baedc"]
    assert rows[0] == ["0.25", "test", "loss", "runs/b", "lstm", "3", "99", "finished", "20", "3"]
    assert rows[2] == ["-", "runs/e", "rnn", "0", "1,234", "diverged", "20", "3"]


def test_runs_are_sorted_by_any_column(folder, capsys):
    for name, parameters in (("a", 30), ("b", 10), ("c", 20)):
        make(folder / "runs" / name, "gru", 0.5, parameters=parameters)
    assert [row[3] for row in listed(capsys, "sort=parameters")] == ["runs/b", "runs/c", "runs/a"]
    assert [row[3] for row in listed(capsys, "runs", "sort=run")] == ["runs/a", "runs/b", "runs/c"]
    assert __main__.main(["runs", "sort=speed"]) == 2
    assert "sort='speed' is not one of score, run" in capsys.readouterr().err


def test_a_folder_without_runs(folder, capsys):
    (folder / "empty").mkdir()
    assert __main__.main(["runs", "empty"]) == 2
    assert "no run found in empty" in capsys.readouterr().err
    assert __main__.main(["runs", "--all"]) == 2
    assert "unknown option '--all'" in capsys.readouterr().err


def records(place, *lines):
    place.mkdir(parents=True, exist_ok=True)
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_curves_have_a_panel_for_each_metric_and_a_line_for_each_split(folder, capsys):
    lines = [{"step": step, "split": "train", "loss": 3 / step, "lr": 0.1, "tokens": 9} for step in (1, 2, 3)]
    lines += [{"step": step, "split": "valid", "loss": 4 / step, "accuracy": 0.1 * step} for step in (1, 3)]
    lines += [{"step": 3, "split": "test", "loss": 1.5, "by_length": {"4": {"loss": 1.0}}}]
    lines += [{"step": 4, "split": "train", "loss": float("nan"), "lr": None}]
    records(folder / "a", *lines)
    measured = curves.read(folder / "a")
    assert {name: set(series) for name, series in measured.items()} == {
        "loss": {"train", "valid", "test"},
        "lr": {"train"},
        "accuracy": {"valid"},
    }
    assert measured["loss"]["train"] == ([1, 2, 3], [3, 1.5, 1])
    figure = curves.draw(measured, "a")
    assert [axes.get_title() for axes in figure.axes] == ["loss", "learning rate", "accuracy"]
    loss = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert loss == {"train": [3, 1.5, 1], "valid": [4, 4 / 3], "test, step 3": [1.5, 1.5]}
    assert curves.read(folder / "a", "lr") == {"loss": {"train": ([0.1] * 3, [3, 1.5, 1])}}
    by_rate = curves.draw(curves.read(folder / "a", "lr"), "a", against="lr").axes[0]
    assert (by_rate.get_xscale(), by_rate.get_xlabel()) == ("log", "learning rate")
    assert __main__.main(["plot", "a", "against=rate"]) == 2
    assert "against='rate' is not one of step, tokens, seconds, lr" in capsys.readouterr().err
    assert __main__.main(["plot", "a", "metrics=loss", "out=only.png"]) == 0
    assert (folder / "only.png").read_bytes().startswith(b"\x89PNG")
    assert "accuracy" not in (folder / "only.svg").read_text()
    assert __main__.main(["plot", "a", "out=only"]) == 2
    assert "out=only.png exists" in capsys.readouterr().err
    assert __main__.main(["plot", "a"]) == __main__.main(["plot", "a"]) == 0
    assert __main__.main(["plot", "a", "metrics=bpc"]) == 2
    assert "metrics=bpc was not measured; the run has loss, lr, accuracy" in capsys.readouterr().err


def test_a_run_without_measurements_has_no_curves(folder):
    records(folder / "a")
    for place, says in (("a", "no measurements yet"), ("b", "no metrics.jsonl")):
        with pytest.raises(InputError, match=says):
            curves.read(folder / place)


def test_the_doctor_says_what_there_is_and_what_is_missing(folder, capsys, monkeypatch):
    (folder / "sets" / "babi").mkdir(parents=True)
    monkeypatch.setenv("RNNLAB_DATA", "sets")
    assert __main__.main(["doctor"]) == 0
    told = capsys.readouterr().out
    names = [line.split("  ")[0] for line in told.splitlines()]
    assert names[:5] == ["rnnlab", "Python", "processor", "threads", "C compiler"]
    assert "(RNNLAB_DATA): babi" in told
    monkeypatch.delenv("RNNLAB_DATA")
    monkeypatch.setattr("importlib.metadata.version", _without_matplotlib)
    assert __main__.main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "missing: matplotlib (pip install 'rnnlab[plots]')" in told
    assert "data does not exist (the default of data.root" in told
    assert __main__.main(["doctor", "now"]) == 2


def _without_matplotlib(name):
    import importlib.metadata

    if name == "matplotlib":
        raise importlib.metadata.PackageNotFoundError(name)
    return "1.0"
