"""Runs that an earlier version trained or left unfinished: resumed, evaluated, generated from, compared, diagnosed."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import tiers
import torch

from rnnlab import __main__, analysis
from rnnlab.interface import InputError
from rnnlab.training import evaluate_run, train
from rnnlab.training.directory import RunDirectory, run_name
from rnnlab.training.logger import console
from rnnlab.training.settings import complete

HERE = Path(__file__).parents[1] / "old_runs"
EXPECTED = json.loads((HERE / "expected.json").read_text())
NEAR = {"rtol": 1e-4, "atol": 1e-5}  # processors round differently


@pytest.fixture
def runs(tmp_path, monkeypatch, undrawn):
    """A copy of the runs, in which the working directory is as it was."""
    shutil.copytree(HERE, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    monkeypatch.setattr(sys, "argv", ["rnnlab"])
    yield tmp_path / "runs"
    console.handlers.clear()


def numbers(tree):
    """The numbers of nested dictionaries, by path."""
    if isinstance(tree, dict):
        return {f"{key}/{path}": value for key, part in tree.items() for path, value in numbers(part).items()}
    return {"": tree}


@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_resumed_as_if_it_had_never_stopped(runs, name):
    before = (runs / "stopped" / name / "metrics.jsonl").read_text().splitlines()
    config = complete(RunDirectory(runs / "stopped" / name).config())
    summary = train(config)
    assert (summary["status"], summary["steps"]) == ("finished", 6)
    after = (runs / "stopped" / name / "metrics.jsonl").read_text().splitlines()
    assert after[: len(before)] == before
    whole = json.loads((runs / "whole" / name / "summary.json").read_text())
    best, expected = (
        {k: v for k, v in numbers(one["best"]).items() if "by_length" not in k} for one in (summary, whole)
    )
    assert best == pytest.approx(expected, rel=1e-4)
    files = [runs / kind / name / "checkpoints" / "last.pt" for kind in ("stopped", "whole")]
    resumed, expected = (torch.load(file, weights_only=True)["model"] for file in files)
    assert resumed.keys() == expected.keys()
    for key in resumed:
        torch.testing.assert_close(resumed[key], expected[key], **NEAR)


@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_evaluated_as_before(runs, name):
    for split, expected in EXPECTED[name].items():
        if split == "text":
            continue
        found = evaluate_run(runs / "whole" / name, split, "cpu")
        assert found.keys() == expected.keys()
        assert numbers({k: v for k, v in found.items() if k != "by_length"}) == pytest.approx(
            numbers({k: v for k, v in expected.items() if k != "by_length"}), rel=1e-4
        )


@pytest.mark.parametrize("name", [name for name, found in EXPECTED.items() if "text" in found])
def test_it_generates_the_same_text(runs, name, capsys):
    prompt = EXPECTED[name]["text"]
    assert __main__.main(["generate", f"run=whole/{name}", "length=12", "temperature=0"]) == 0
    assert capsys.readouterr().out == prompt + "\n"


@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_not_trained_again_and_keeps_its_name(runs, name):
    """The directory that rnnlab would derive for it today is named as the earlier version would have named it."""
    config = complete(RunDirectory(runs / "whole" / name).config())
    assert train(config)["seconds"] == json.loads((runs / "whole" / name / "summary.json").read_text())["seconds"]
    assert run_name(config) == NAMES[name]


NAMES = json.loads((HERE / "names.json").read_text())


def test_they_are_compared(runs, capsys):
    assert __main__.main(["compare", "whole", "--out", "page"]) == 0
    printed = capsys.readouterr().out
    for name in EXPECTED:
        assert RunDirectory(runs / "whole" / name).summary()["task"] in printed


def test_they_can_be_grouped_by_an_option_that_none_of_them_has(runs):
    assert "prefetch" not in json.dumps([RunDirectory(runs / "whole" / name).config() for name in EXPECTED])
    found, _ = analysis.read(["whole"])
    sections = analysis.compare(found, by=["trainer.prefetch"]).sections
    assert {group.label for section in sections for group in section.groups} == {"prefetch=true"}
    with pytest.raises(InputError, match=r"did you mean 'trainer\.prefetch'"):
        analysis.compare(found, by=["trainer.prefetsch"])


@pytest.mark.parametrize("name", tiers.every(3, ["vowels", "char_lm", "regularised"]))
def test_it_is_diagnosed(runs, name):
    assert __main__.main(["diagnose", f"run=whole/{name}", f"out=found-{name}", "steps=5", "sequences=2"]) == 0
    assert (runs / f"found-{name}" / "page.html").exists()
