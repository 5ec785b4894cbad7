"""Runs that another version of rnnlab made, with fewer options, other ones, or other defaults."""

from __future__ import annotations

import hashlib
import json

import pytest
import yaml

from rnnlab import analysis, config
from rnnlab.interface import InputError
from rnnlab.layers import regularisers
from rnnlab.training import checkpoint, evaluate_run, sweep, train
from rnnlab.training.directory import FREE_KEYS, RunDirectory, differences, flatten, run_name
from rnnlab.training.trainer import Trainer

SMALL = ["task=adding", "task.lengths=[9,9]", "task.test_lengths=[9,9]", "task.batch_size=4", "task.eval_batches=1"]
SMALL += ["model.hidden_size=4", "trainer.steps=4", "trainer.eval_every=2", "trainer.checkpoint_every=2"]
SMALL += ["logger.tensorboard=false"]

NEWER = ("task.curriculum", "model.norm", "cell.reset", "trainer.target", "optimizer.betas", "budget.seconds")
"""Options that an older version did not have; `SMALL` leaves them at their defaults."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory; paths in the tests are relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*options):
    return train(config.compose([*SMALL, *options]))


def without(settings, *options):
    """A configuration as a version without ``options`` would have written it."""
    old = json.loads(json.dumps(settings))
    for option in options:
        group, _, name = option.partition(".")
        del old[group][name]
    return old


def make_older(directory, *options, **changes):
    """Rewrite every stored configuration of a run: ``options`` removed, groups replaced by ``changes``."""
    settings = {**without(RunDirectory(directory).config(), *options), **changes}
    (directory / "config.yaml").write_text(yaml.safe_dump(settings))
    summary = directory / "summary.json"
    if summary.exists():
        summary.write_text(json.dumps({**json.loads(summary.read_text()), "config": settings}))
    for path in (directory / "checkpoints").glob("*.pt"):
        checkpoint.save(path, {**checkpoint.load(path), "config": settings})


def name_of_everything(settings):
    """The derived directory as it was when its digest counted every option, defaults too."""
    counts = {key: value for key, value in flatten(settings).items() if key not in FREE_KEYS}
    digest = hashlib.sha256(json.dumps(counts, sort_keys=True).encode()).hexdigest()[:8]
    return f"runs/adding/gru-s0-{digest}"


def test_an_interrupted_run_of_an_older_version_goes_on(folder, monkeypatch):
    step_on = Trainer.set_learning_rate

    def stop_at_three(self):
        if self.progress.step == 2:
            raise KeyboardInterrupt
        step_on(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "set_learning_rate", stop_at_three)
        with pytest.raises(KeyboardInterrupt):
            run("run_dir=a")
    make_older(folder / "a", *NEWER)
    summary = run("run_dir=a")
    assert (summary["status"], summary["steps"]) == ("finished", 4)


def test_a_finished_run_of_an_older_version_is_evaluated_and_gone_on_from(folder):
    summary = run("run_dir=a")
    make_older(folder / "a", *NEWER)
    assert evaluate_run("a", "test")["loss"] == summary["test"]["loss"]
    assert run("run_dir=b", "trainer.steps=6", "trainer.init_from=a/checkpoints/last.pt")["steps"] == 6


def test_an_option_that_is_absent_has_its_default_and_no_other_value(folder):
    run("run_dir=a")
    make_older(folder / "a", *NEWER)
    RunDirectory("a").check(config.compose([*SMALL, "run_dir=a"]))
    with pytest.raises(InputError, match=r"another configuration \(model.norm: none -> rms\)"):
        RunDirectory("a").check(config.compose([*SMALL, "model.norm=rms", "run_dir=a"]))


def test_whole_sections_may_be_absent(folder):
    settings = config.compose([*SMALL, "run_dir=a"])
    train(settings)
    older = {key: value for key, value in settings.items() if key not in ("engine", "budget", "logger")}
    (folder / "a" / "config.yaml").write_text(yaml.safe_dump(older))
    with pytest.raises(InputError, match="seed: 0 -> 1"):
        run("run_dir=a", "seed=1")
    RunDirectory("a").check({**settings, "logger": {"tensorboard": True, "progress": True, "diagnostics": False}})


def test_a_derived_directory_of_an_older_version_is_found(folder):
    settings = config.compose(SMALL)
    old = name_of_everything(without(settings, *NEWER))
    train({**settings, "run_dir": old})
    make_older(folder / old, *NEWER)
    found = config.compose(SMALL)
    assert found["run_dir"] == old != settings["run_dir"]
    assert len(list((folder / "runs" / "adding").iterdir())) == 1
    for other in ("model.norm=rms", "seed=1", "cell=lstm"):
        assert config.compose([*SMALL, other])["run_dir"] != old


def test_a_new_option_leaves_the_derived_name_as_it_is():
    settings = config.compose(SMALL)
    assert run_name(without(settings, *NEWER)) == run_name(settings)
    assert run_name({**settings, "model": {**settings["model"], "invented": 1}}) != run_name(settings)


def test_a_default_that_changed_gives_a_directory_of_its_own(folder):
    settings = config.compose(SMALL)
    train(settings)
    make_older(folder / settings["run_dir"], optimizer={**settings["optimizer"], "lr": 0.123})
    moved = config.compose(SMALL)["run_dir"]
    assert moved == settings["run_dir"] + "-2"
    assert run()["status"] == "finished"
    assert config.compose(SMALL)["run_dir"] == moved, "the same command finds the same run"
    assert len(list((folder / "runs" / "adding").iterdir())) == 2


def test_an_option_that_was_removed_is_named(folder):
    settings = config.compose([*SMALL, "run_dir=a"])
    train(settings)
    make_older(folder / "a", cell={**settings["cell"], "leak": 0.5})
    with pytest.raises(InputError, match=r"a was trained with cell\.leak=0\.5, an option that this version of rnnlab"):
        evaluate_run("a", "test")
    with pytest.raises(InputError, match=r"cell\.leak: 0\.5 -> absent"):
        run("run_dir=a")


def test_a_removed_option_of_training_bars_no_evaluation(folder):
    settings = config.compose([*SMALL, "run_dir=a"])
    summary = train(settings)
    make_older(folder / "a", trainer={**settings["trainer"], "patience": 3}, logger={"color": True})
    assert evaluate_run("a", "test")["loss"] == summary["test"]["loss"]


def test_a_class_that_was_removed_is_named(folder):
    settings = config.compose([*SMALL, "run_dir=a"])
    train(settings)
    make_older(folder / "a", cell={"name": "forgotten", "bias": True})
    with pytest.raises(InputError, match="unknown cell 'forgotten'"):
        evaluate_run("a", "test")
    with pytest.raises(InputError, match=r"cell\.name: forgotten -> gru"):
        run("run_dir=a")


def test_runs_of_two_versions_are_compared(folder):
    for place, seed in ("a", 0), ("b", 1):
        run(f"run_dir={place}", f"seed={seed}")
    make_older(folder / "a", *NEWER)
    runs, _ = analysis.read(["a", "b"])
    assert differences(runs[0].config, runs[1].config) == ["seed: 0 -> 1"]
    (section,) = analysis.compare(runs).sections
    assert [len(group.runs) for group in section.groups] == [2]


def test_a_configuration_changed_by_hand_is_one_sentence(folder):
    settings = config.compose(SMALL)
    train(settings)
    path = folder / settings["run_dir"] / "config.yaml"
    for damage in ({"cell": "gru"}, {"trainer": None}, {"model": {}}, {"task": []}):
        path.write_text(yaml.safe_dump({**settings, **damage}))
        with pytest.raises(InputError, match="holds a run with another configuration"):
            train(settings)
        config.compose(SMALL)  # looks for the directory, and passes it by


@pytest.mark.parametrize(
    "options", [["cell=mingru", "model.recurrent_dropout=0.2"], ["cell=orthogonal", "model.weight_drop=0.2"]], ids=str
)
def test_a_run_with_dropout_that_is_refused_now_is_still_evaluated(folder, options, monkeypatch):
    with regularisers.as_trained():  # as an earlier version trained it
        summary = run("run_dir=a", "engine.backend=reference", *options)
    assert evaluate_run("a", "test")["loss"] == summary["test"]["loss"]
    with pytest.raises(InputError, match=r"(nothing to drop|explode)"):
        run("run_dir=b", *options)
    assert not (folder / "b").exists()


@pytest.mark.parametrize(
    "options", [["cell=mingru", "model.recurrent_dropout=0.2"], ["cell=orthogonal", "model.weight_drop=0.2"]], ids=str
)
def test_a_run_with_dropout_that_is_refused_now_is_still_resumed(folder, options, monkeypatch):
    def stop_at_three(self):
        if self.progress.step == 2:
            raise KeyboardInterrupt
        step_on(self)

    step_on = Trainer.set_learning_rate
    with regularisers.as_trained():  # as an earlier version trained it
        whole = run("run_dir=whole", *options)
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "set_learning_rate", stop_at_three)
            with pytest.raises(KeyboardInterrupt):
                run("run_dir=a", *options)
    summary = run("run_dir=a", *options)
    assert (summary["status"], summary["steps"]) == ("finished", 4)
    assert summary["test"] == whole["test"]
    with pytest.raises(InputError, match=r"(nothing to drop|explode)"):
        run("run_dir=b", *options)
    assert not (folder / "b").exists()


def test_the_length_of_a_run_that_does_not_store_it_is_the_default(folder):
    run("run_dir=runs/a")
    (folder / "runs" / "a" / "summary.json").unlink()
    make_older(folder / "runs" / "a", "trainer.steps")
    (found,), _ = sweep.survey("runs")
    assert (found.state, found.step, found.steps) == ("stopped", 4, 1500)
