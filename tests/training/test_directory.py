"""A run's directory: derived from the configuration, one process at a time, and never overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import processes
import pytest
import tiers
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rnnlab import config, files
from rnnlab.interface import InputError
from rnnlab.tasks.char_lm import CharLM
from rnnlab.training import checkpoint, train
from rnnlab.training.directory import FREE_KEYS, RunDirectory, flatten, run_name
from rnnlab.training.trainer import Trainer

SMALL = [
    "model.hidden_size=16",
    "model.embedding_size=8",
    "task.corpus=corpus.txt",
    "task.batch_size=4",
    "task.seq_len=8",
    "trainer.steps=4",
    "trainer.eval_every=2",
    "trainer.checkpoint_every=2",
    "trainer.log_every=2",
    "logger.tensorboard=false",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, with a corpus: paths in the tests are relative to it."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    (tmp_path / "corpus.txt").write_text("".join(draw.choice("abcdefgh\n") for _ in range(600)))
    return tmp_path


def run(*options):
    """Train in this process; returns the summary."""
    return train(config.compose([*SMALL, *options]))


def command(*options):
    """The same as a process of its own."""
    arguments = [processes.programs() / "rnnlab", "train", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=os.getcwd()
    )


def tree(folder):
    """Every file below ``folder`` with what is in it and when it was written; who has the lock is no content."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder",
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


def refuse(*options):
    """The one sentence with which training is refused; nothing may have been touched."""
    before = tree(Path())
    with pytest.raises(InputError) as refused:
        run(*options)
    assert tree(Path()) == before
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_finished_run_is_not_trained_again(folder):
    first = run("run_dir=a")
    before = tree(folder)
    again = run("run_dir=a")
    assert tree(folder) == before
    assert again == first
    assert again["status"] == "finished"


def test_a_second_process_is_refused_while_the_first_runs(folder):
    options = [*SMALL, "run_dir=a", "trainer.steps=1000000"]
    first = command(*options)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "a" / "checkpoints" / "last.pt").exists():
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        second = command(*options)
        try:
            output, errors = second.communicate(timeout=60)
        finally:
            second.kill()
        assert first.poll() is None, "the first must not be disturbed"
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
    assert first.returncode == 143
    assert second.returncode == 2
    assert output == ""
    assert errors == "rnnlab: another process is training in a; wait for it or stop it\n"


def test_a_directory_that_another_process_has_is_left_untouched():
    with RunDirectory("a").claim(config.compose([*SMALL, "run_dir=a"])):
        # What the process that has it wrote meanwhile must survive the other's attempt.
        Path("a/metrics.jsonl").write_text('{"step": 2, "split": "train"}\n')
        Path("a/summary.json").write_text('{"status": "stopped"}')
        assert "another process is training in a" in refuse("run_dir=a")
    assert run("run_dir=a")["status"] == "finished"


def test_another_configuration_is_refused_with_the_differences(folder):
    run("run_dir=a")
    message = refuse("run_dir=a", "seed=1", "optimizer.lr=0.5", "trainer.steps=9")
    for difference in ("seed: 0 -> 1", "optimizer.lr: 0.004 -> 0.5", "trainer.steps: 4 -> 9", "run_dir"):
        assert difference in message
    assert "model" not in message


def test_another_configuration_on_the_command_line_is_one_line_and_exit_code_2(folder):
    run("run_dir=a")
    before = tree(folder)
    process = command(*SMALL, "run_dir=a", "cell=lstm")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1
    assert "cell.name: gru -> lstm" in errors
    assert tree(folder) == before


def test_where_data_and_the_run_lie_makes_no_other_configuration(folder):
    first = run("run_dir=a")
    (folder / "a").rename(folder / "b")
    assert run("run_dir=b", "data.root=elsewhere") == first


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints", "metrics.jsonl"])
def test_a_foreign_directory_is_refused(folder, name):
    (folder / "a").mkdir()
    (folder / "a" / name).write_text("mine")
    assert "is not empty and holds no run" in refuse("run_dir=a")


def test_a_run_dir_that_is_a_file_is_refused():
    assert "run_dir='corpus.txt' is a file" in refuse("run_dir=corpus.txt")


def test_an_empty_directory_is_taken(folder):
    (folder / "a").mkdir()
    assert run("run_dir=a")["status"] == "finished"


@pytest.mark.parametrize("writes", [0, 1])
def test_a_process_that_ended_while_making_the_directory_does_not_bar_the_way(folder, monkeypatch, writes):
    """The end comes before or after the configuration, which is the first file, is written."""
    write = files.write_bytes

    def dying_write(path, data):
        if writes:
            write(path, data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", dying_write)
        with pytest.raises(KeyboardInterrupt):
            run("run_dir=a")
    assert (folder / "a").is_dir()
    assert run("run_dir=a")["status"] == "finished"


def test_the_configuration_is_in_the_directory(folder):
    settings = config.compose([*SMALL, "run_dir=a"])
    train(settings)
    assert yaml.safe_load((folder / "a" / "config.yaml").read_text()) == settings
    assert RunDirectory("a").config() == settings


def test_data_that_changed_are_refused_when_going_on(folder, monkeypatch):
    step_of = []

    def stop_at_three(self):
        step_of.append(self.progress.step)
        if len(step_of) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "set_learning_rate", stop_at_three)
        with pytest.raises(KeyboardInterrupt):
            run("run_dir=a")
    text = (folder / "corpus.txt").read_text()
    (folder / "corpus.txt").write_text(text[::-1])  # as long, and of the same characters
    before = tree(folder / "a")
    with pytest.raises(InputError, match="another SHA-256"):
        run("run_dir=a")
    assert tree(folder / "a") == before
    (folder / "corpus.txt").write_text(text)
    assert run("run_dir=a")["status"] == "finished"


# Names of derived directories


def test_the_derived_name_is_stable():
    first = config.compose(SMALL)["run_dir"]
    assert config.compose(SMALL[::-1])["run_dir"] == first
    assert config.compose([*SMALL, "data.root=elsewhere"])["run_dir"] == first
    in_another_process = "from rnnlab.config import compose; import sys; print(compose(sys.argv[1:])['run_dir'])"
    output = subprocess.run(
        [processes.programs() / "python", "-c", in_another_process, *SMALL], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == first


def test_the_derived_name_changes_with_every_option():
    base = config.compose(SMALL)
    # A name chooses a file: that it counts is shown by the groups below.
    keys = [key for key in flatten(base) if not key.endswith((".name", ".class")) and key not in FREE_KEYS]
    assert len(keys) > 25
    assert {"seed", "engine.backend", "task.corpus", "trainer.init_from", "trainer.log_every"} <= set(keys)
    names = {"": run_name(base)}
    for key in keys:
        changed = json.loads(json.dumps(base))
        section, option = changed, key
        while "." in option:
            head, _, option = option.partition(".")
            section = section[head]
        section[option] = "another value"
        names[key] = run_name(changed)
    for choice in ("model=lstm", "cell=rnn", "optimizer=sgd", "scheduler=constant"):
        names[choice] = run_name(config.compose([*SMALL, choice]))
    assert len(set(names.values())) == len(names)


def test_the_derived_name_says_what_a_person_looks_for():
    assert config.compose([*SMALL, "cell=rnn", "seed=7"])["run_dir"].startswith("runs/char_lm/gru-rnn-s7-")


def test_two_seeds_of_a_sweep_get_two_directories(folder):
    process = command("-m", "seed=0,1", *SMALL)
    _, errors = process.communicate(timeout=90)
    assert (process.returncode, errors) == (0, "")
    summaries = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("runs/char_lm/*/summary.json")}
    assert len(summaries) == 2
    for name, summary in summaries.items():
        assert summary["status"] == "finished"
        assert f"-s{summary['seed']}-" in name
        assert config.compose([*SMALL, f"seed={summary['seed']}"])["run_dir"] == f"runs/char_lm/{name}"
    weights = [checkpoint.load(path)["model"]["readout.weight"] for path in folder.glob("runs/char_lm/*/*/last.pt")]
    assert not torch.equal(*weights)


# Going on from another run's checkpoint

ORIGIN = "trainer.init_from=a/checkpoints/last.pt"


def records(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_init_from_goes_on_at_the_checkpoints_step_in_a_directory_of_its_own(folder):
    run("run_dir=a")
    before = tree(folder / "a")
    summary = run("run_dir=b", "trainer.steps=8", ORIGIN)
    assert tree(folder / "a") == before
    assert (summary["status"], summary["steps"], summary["tokens"]) == ("finished", 8, 8 * 4 * 8)
    assert [(r["split"], r["step"]) for r in records(folder / "b") if r["split"] != "test"] == [
        ("train", 6),
        ("valid", 6),
        ("train", 8),
        ("valid", 8),
    ]


def test_init_from_takes_weights_optimizer_state_and_generators_along(folder):
    """With a schedule that knows no end, a run cut in two is the run in one piece."""
    options = ["scheduler=constant", "model.num_layers=2", "model.dropout=0.4"]
    run("run_dir=whole", "trainer.steps=8", *options)
    run("run_dir=a", *options)
    run("run_dir=b", "trainer.steps=8", ORIGIN, *options)
    whole, ours = (checkpoint.load(folder / name / "checkpoints" / "last.pt") for name in ("whole", "b"))
    for key, tensor in whole["model"].items():
        assert torch.equal(ours["model"][key], tensor), key
    for key, state in whole["optimizer"]["state"].items():
        assert all(torch.equal(ours["optimizer"]["state"][key][name], tensor) for name, tensor in state.items())


def test_init_from_finishes_though_the_longer_run_never_beats_the_origin(folder):
    """The best model is then the origin's; the run must still end with a best checkpoint and a test."""
    options = ["scheduler=constant", "optimizer.lr=0.05", "model.hidden_size=32"]
    first = run("run_dir=a", "trainer.steps=40", "trainer.eval_every=10", *options)
    assert first["best"]["step"] < 40, "random letters must be learned by heart for this test to show anything"
    summary = run("run_dir=b", "trainer.steps=50", "trainer.eval_every=10", ORIGIN, *options)
    assert summary["status"] == "finished"
    assert (folder / "b" / "checkpoints" / "best.pt").exists()
    assert summary["test"]["step"] == summary["best"]["step"]


def test_a_run_begun_from_a_checkpoint_is_taken_up_where_it_stopped_not_at_the_origin(folder, monkeypatch):
    run("run_dir=a")
    options = ["run_dir=b", "trainer.steps=8", ORIGIN]
    batch, asked = CharLM.batch, []

    def noted(task, split, step):
        asked.extend([step] if split == "train" else [])
        if step == 7 and asked.count(7) == 1:
            raise KeyboardInterrupt
        return batch(task, split, step)

    monkeypatch.setattr(CharLM, "batch", noted)
    with pytest.raises(KeyboardInterrupt):
        run(*options)
    (folder / "a" / "checkpoints" / "last.pt").unlink()  # not needed any more
    assert run(*options)["status"] == "finished"
    # 0 tells, before a directory is made, whether states are carried and what a step costs.
    assert [step for step in asked if step] == [4, 5, 6, 7, 6, 7]


@pytest.mark.parametrize(
    ("options", "reason"),
    tiers.every(
        3,
        [
            (["trainer.steps=4"], "is at step 4; trainer.steps=4 must be larger"),
            (["trainer.steps=3"], "is at step 4; trainer.steps=3 must be larger"),
            (["task.seq_len=16"], "task.seq_len: 8 -> 16"),
            (["task=hello"], "task.name: char_lm -> hello"),
            (["model.hidden_size=24"], "model.hidden_size: 16 -> 24"),
            (["cell=lstm"], "cell.name: gru -> lstm"),
            (["cell.bias=false"], "cell.bias: True -> False"),
            (["optimizer=sgd"], "optimizer.name: adamw -> sgd"),
            (["optimizer.weight_decay=0.5"], "optimizer.weight_decay: 0.01 -> 0.5"),
        ],
    ),
)
def test_init_from_refuses_what_it_cannot_go_on_from(folder, options, reason):
    run("run_dir=a")
    base = [option for option in SMALL if not (options == ["task=hello"] and option.startswith("task."))]
    before = tree(folder)
    with pytest.raises(InputError) as refused:
        train(config.compose([*base, "run_dir=b", "trainer.steps=8", ORIGIN, *options]))
    assert reason in str(refused.value)
    assert tree(folder) == before


@pytest.mark.parametrize("target", [1e-9, 1e6])
def test_init_from_a_solved_run_goes_on_training(folder, target):
    """Whether another target is reached is for this run's own evaluations to say."""
    first = run("run_dir=a", "trainer.target=1e6")
    assert (first["ended"], first["solved"]) == ("target", 2)
    summary = run("run_dir=b", "trainer.steps=8", f"trainer.target={target}", ORIGIN)
    expected = ("target", 4, 4) if target > 1 else ("steps", None, 8)
    assert (summary["ended"], summary["solved"], summary["steps"]) == expected
    assert summary["best"]["step"] > 2
    assert (folder / "b" / "checkpoints" / "best.pt").exists()


def test_init_from_with_no_training_time_left_is_refused():
    run("run_dir=a")
    assert "was trained for" in refuse("run_dir=b", "trainer.steps=8", "budget.seconds=1e-6", ORIGIN)


FACTORS = "trainer.lr_factors={readout: 0.5, encoder: 0.1}"


@pytest.mark.parametrize(
    ("old", "new", "fits"),
    tiers.every(
        2,
        [
            ("trainer.lr_factors=null", FACTORS, False),
            (FACTORS, "trainer.lr_factors=null", False),
            (FACTORS, "trainer.lr_factors={encoder: 0.1, readout: 0.5}", False),
            (FACTORS, "trainer.lr_factors={readout: 0.5}", False),
            (FACTORS, "trainer.lr_factors={readout: 0.2, encoder: 0.3}", True),
        ],
    ),
)
def test_init_from_with_other_groups_of_parameters_is_refused(folder, old, new, fits):
    """The optimizer's state goes by groups; the factors themselves may change."""
    run("run_dir=a", old)
    if fits:
        assert run("run_dir=b", "trainer.steps=8", ORIGIN, new)["steps"] == 8
    else:
        assert "whose parameter groups differ" in refuse("run_dir=b", "trainer.steps=8", ORIGIN, new)


def test_init_from_with_a_class_that_changed_is_refused(folder):
    run("run_dir=a")
    path = folder / "a" / "checkpoints" / "last.pt"
    content = checkpoint.load(path)
    content["model"]["readout.weight"] = torch.ones(1, 1)
    checkpoint.save(path, content)
    assert "the weights of the checkpoint do not match the model" in refuse("run_dir=b", "trainer.steps=8", ORIGIN)


def test_init_from_takes_a_path_from_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    run("run_dir=a")
    assert run("run_dir=b", "trainer.steps=8", "trainer.init_from=~/a/checkpoints/last.pt")["steps"] == 8


def test_init_from_refuses_other_data_and_what_is_no_checkpoint(folder):
    run("run_dir=a")
    options = ["run_dir=b", "trainer.steps=8"]
    assert "there is no checkpoint nowhere.pt" in refuse(*options, "trainer.init_from=nowhere.pt")
    assert "corpus.txt" in refuse(*options, "trainer.init_from=corpus.txt")
    text = (folder / "corpus.txt").read_text()
    (folder / "corpus.txt").write_text(text[::-1])
    assert "another SHA-256" in refuse(*options, ORIGIN)


FOREIGN = [
    "notes.txt",
    ".my.notes",
    ".notes.draft.unfinished",
    "events.out.tfevents.notes",
    "samples/notes.txt",
    "samples/0009.txt",
    "samples/00000009.md",
    "samples/._00000004.txt",
    "samples/\u0664\u0664\u0664\u0664\u0664\u0664\u0664\u0664.txt",
    "samples/mine/00000009.txt",
    "checkpoints/notes.pt",
    "checkpoints/old/last.pt",
    "checkpoints/old/.last.pt.abc123.unfinished",
]


def test_files_of_the_user_in_a_run_are_left_alone_when_it_goes_on(folder):
    run("run_dir=a")
    (folder / "a" / "summary.json").unlink()
    for name in FOREIGN:
        (folder / "a" / name).parent.mkdir(exist_ok=True)
        (folder / "a" / name).write_text("mine")
    for name in ("samples/00000008.txt", "events.out.tfevents.folder", "checkpoints/.best.pt.abc123.unfinished"):
        (folder / "a" / name).mkdir()
    with (folder / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"note": "mine"}\n')
    (folder / "a" / "samples" / "00000006.txt").write_text("past the last checkpoint")
    assert run("run_dir=a")["status"] == "finished"
    assert {name: (folder / "a" / name).read_text() for name in FOREIGN} == dict.fromkeys(FOREIGN, "mine")
    assert (folder / "a" / "samples" / "00000008.txt").is_dir()
    assert '{"note": "mine"}' in (folder / "a" / "metrics.jsonl").read_text().splitlines()
    assert not (folder / "a" / "samples" / "00000006.txt").exists()


def test_a_folder_in_the_place_of_a_sample_does_not_end_a_run(folder):
    directory = RunDirectory(folder / "a")
    with directory.claim(config.compose([*SMALL, "run_dir=a"])):
        (directory.samples / "00000004.txt").mkdir()
    assert run("run_dir=a")["status"] == "finished"
    assert (directory.samples / "00000002.txt").is_file()


def test_scalars_of_the_user_among_a_run_s_own_are_left_alone(folder):
    from torch.utils.tensorboard import SummaryWriter

    run("run_dir=a", "logger.tensorboard=true")
    with SummaryWriter(str(folder / "a")) as writer:
        for step in (1, 9):
            writer.add_scalar("mine/temperature", 20.0, step)
            writer.add_scalar("train/loss", 0.0, step)
    RunDirectory(folder / "a").rewind(4)
    shown = EventAccumulator(str(folder / "a")).Reload()
    assert [event.step for event in shown.Scalars("mine/temperature")] == [1, 9]
    assert 9 not in [event.step for event in shown.Scalars("train/loss")]
    assert [event.step for event in shown.Scalars("valid/loss")] == [2, 4]
    assert "test/loss" not in shown.Tags()["scalars"]


def test_what_a_killed_save_left_is_removed(folder):
    directory = RunDirectory(folder / "kept")
    with directory.claim(config.compose([])):
        pass
    for name in (
        "checkpoints/.last.pt.abc123__.unfinished",
        ".metrics.jsonl.x.unfinished",
        "samples/.00000004.txt.x.unfinished",
    ):
        (directory.path / name).write_bytes(b"half")
    with directory.claim(config.compose([])):
        pass
    assert not list(directory.path.rglob("*.unfinished"))


def test_a_broken_file_of_a_run_is_named(folder):
    directory, settings = RunDirectory(folder / "broken"), config.compose(SMALL)
    with directory.claim(settings):
        pass
    directory.summary_file.write_text('{"status": ')
    with pytest.raises(InputError, match=r"summary\.json is not JSON"):
        directory.summary()
    for damaged in (b"a: [", b"", b"\xff\xfe"):
        directory.config_file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"config\.yaml is damaged; restore it"):
            directory.check(settings)
