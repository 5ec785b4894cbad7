"""The data of a run that is looked at later: moved, by a relative path from another folder, or others of their name."""

import hashlib
import json
import sys
import urllib.error
from pathlib import Path

import pytest

from rnnlab import __main__, config, data
from rnnlab.data import PublicFile
from rnnlab.interface import InputError
from rnnlab.tasks import char_lm
from rnnlab.training import checkpoint, evaluate_run, load, train

TEXT = "the cat sat on the mat.\n" * 60
OTHER = TEXT[::-1]
SMALL = ["task.batch_size=2", "task.seq_len=8", "model.hidden_size=4", "trainer.steps=2", "trainer.eval_every=2"]
QUIET = ["logger.tensorboard=false", "logger.progress=false"]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two empty folders, the first of which is the working directory; the network is out of reach."""

    def unreachable(url, timeout):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(data.urllib.request, "urlopen", unreachable)
    monkeypatch.delenv("RNNLAB_DATA", raising=False)
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    return tmp_path / "a", tmp_path / "b"


def begin(*options):
    return train(config.compose([*SMALL, *QUIET, *options]))


def forget_the_folder(run):
    """Make the run one of a version that did not note where it began."""
    for path in (run / "checkpoints").iterdir():
        content = checkpoint.load(path)
        del content["folder"]
        checkpoint.save(path, content)


@pytest.fixture
def own(folders):
    """A run in the folder ``a``, of a text that is given by a relative path."""
    Path("t.txt").write_text(TEXT)
    begin("task.corpus=t.txt", "run_dir=runs/r")
    return folders


def measured(run, **options):
    return {key: evaluate_run(run, "test", "cpu", **options)[key] for key in ("step", "loss")}


def expected(run):
    summary = json.loads((run / "summary.json").read_text())
    return {key: summary["test"][key] for key in ("step", "loss")}


def test_a_relative_path_is_found_from_another_folder(own, monkeypatch):
    a, b = own
    monkeypatch.chdir(b)
    assert measured(a / "runs/r") == expected(a / "runs/r")
    forget_the_folder(a / "runs/r")
    assert measured(a / "runs/r") == expected(a / "runs/r")


def test_a_run_and_its_data_may_move_together(own, monkeypatch):
    a, b = own
    a.rename(b / "c")
    monkeypatch.chdir(b)
    assert measured("c/runs/r") == expected(b / "c/runs/r")
    (b / "c/runs/r").rename(b / "s")
    (b / "c/t.txt").rename(b / "t.txt")
    monkeypatch.chdir(b / "c")
    assert measured(b / "s") == expected(b / "s")


def test_other_data_of_the_same_name_are_refused_but_where_none_are_needed(own, monkeypatch, capsys):
    a, b = own
    (b / "t.txt").write_text(OTHER)
    monkeypatch.chdir(b)
    for command in ("evaluate", "diagnose"):
        assert __main__.main([command, f"run={a}/runs/r"]) == 2
        assert "another SHA-256" in capsys.readouterr().err
    assert not list(b.glob("diagnosis*"))
    assert __main__.main(["generate", f"run={a}/runs/r", "length=3"]) == 0
    with pytest.raises(InputError, match=f"the run was started in {a}; set data.root=FOLDER to the folder of the data"):
        load(a / "runs/r", "cpu", check_data=True)
    assert measured(a / "runs/r", data_root=str(a)) == expected(a / "runs/r")


def test_a_file_that_has_moved_is_found_by_its_name(folders):
    a, b = folders
    (a / "t.txt").write_text(TEXT)
    begin(f"task.corpus={a}/t.txt", f"run_dir={b}/r")
    (a / "t.txt").rename(b / "t.txt")
    with pytest.raises(InputError, match=r"task\.corpus='.*t\.txt' is neither a file .*; set data\.root=FOLDER"):
        evaluate_run(b / "r", "test")
    for root in (b, "../b"):
        assert measured(b / "r", data_root=str(root)) == expected(b / "r")


def test_a_run_is_taken_up_from_another_folder(own, monkeypatch):
    a, b = own
    (a / "runs/r/summary.json").unlink()
    monkeypatch.chdir(b)
    assert begin("task.corpus=t.txt", f"run_dir={a}/runs/r")["status"] == "finished"
    (a / "runs/r/summary.json").unlink()
    (b / "t.txt").write_text(OTHER)
    with pytest.raises(InputError, match="another SHA-256"):
        begin("task.corpus=t.txt", f"run_dir={a}/runs/r")


def test_the_name_of_a_built_in_corpus_is_no_path(folders):
    a, _ = folders
    begin("run_dir=r", "task.batch_size=512")
    (a / "pydoc").mkdir()
    assert measured("r", data_root=str(a)) == expected(a / "r")


@pytest.fixture
def public(folders, monkeypatch):
    """A run of a public set in the root ``one``, given by the environment and relative to the folder ``a``."""
    a, b = folders
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    monkeypatch.setattr(char_lm, "TINY_SHAKESPEARE", PublicFile("set/input.txt", "https://example.org/x", digest))
    (a / "one/set").mkdir(parents=True)
    (a / "one/set/input.txt").write_text(TEXT)
    monkeypatch.setenv("RNNLAB_DATA", "one")
    begin("task.corpus=tiny_shakespeare", "run_dir=r")
    monkeypatch.delenv("RNNLAB_DATA")
    return a, b


def test_an_empty_variable_means_the_default_folder(public, monkeypatch):
    a, _ = public
    (a / "one").rename(a / "data")
    monkeypatch.setenv("RNNLAB_DATA", "")
    begin("task.corpus=tiny_shakespeare", "run_dir=empty")
    assert measured("empty") == expected(a / "empty") == expected(a / "r")
    begin("run_dir=builtin")  # needs no folder at all
    assert measured("builtin") == expected(a / "builtin")


def test_public_data_are_found_where_the_run_found_them(public, monkeypatch):
    a, b = public
    monkeypatch.chdir(b)
    assert measured(a / "r") == expected(a / "r")
    monkeypatch.setenv("RNNLAB_DATA", str(b))  # set for other data
    assert measured(a / "r") == expected(a / "r")


@pytest.mark.parametrize("by", ["environment", "option", "both"])
def test_public_data_that_have_moved_are_found_where_they_are_said_to_be(public, monkeypatch, by):
    a, b = public
    (a / "one").rename(b / "two")
    with pytest.raises(InputError, match=r"set data\.root to the folder that contains set/"):
        evaluate_run("r", "test")
    if by != "option":
        monkeypatch.setenv("RNNLAB_DATA", str(b / "two" if by == "environment" else a))
    assert measured("r", data_root=None if by == "environment" else str(b / "two")) == expected(a / "r")


@pytest.mark.slow
def test_commands_take_the_root_of_data(public, monkeypatch, capsys):
    a, b = public
    (a / "one").rename(b / "two")
    for command, *more in (["evaluate"], ["diagnose", "steps=8", "sequences=1"], ["generate", "length=3"]):
        assert __main__.main([command, f"run={a}/r", f"data.root={b}/two", *more]) == 0
    assert __main__.main(["evaluate", "run=r", f"data_root={b}/two"]) == 2
    assert "did you mean 'data.root'?" in capsys.readouterr().err


TASK = """
from pathlib import Path
import torch
from rnnlab.interface import Batch, Tokens
from rnnlab.outputs import categorical_loss
from rnnlab.tasks import Task


class Mine(Task):
    def __init__(self, seed=0, data_root="data", *, source: str = "x.bin"):
        super().__init__(seed, data_root)
        self.input, self.output_size = Tokens(256), 256
        self.numbers = torch.tensor(list(Path(source).read_bytes())).view(10, 2)

    def num_batches(self, split):
        return 1

    def batch(self, split, step):
        return Batch(self.numbers[:-1], self.numbers[1:])

    def loss(self, outputs, batch):
        return categorical_loss(outputs, batch.targets)
"""


def test_a_task_of_one_s_own_that_knows_nothing_of_it_finds_its_file_too(folders, monkeypatch):
    a, b = folders
    (a / "mine_of_places.py").write_text(TASK)
    (a / "x.bin").write_bytes(bytes(range(20)))
    monkeypatch.syspath_prepend(str(a))
    options = ["task=mine_of_places:Mine", "model.hidden_size=4", "trainer.steps=2", "trainer.eval_every=2"]
    train(config.compose([*options, *QUIET, "run_dir=r"]))
    monkeypatch.chdir(b)
    assert evaluate_run(a / "r", "test", "cpu")["step"] == 2
    (a / "x.bin").unlink()
    with pytest.raises(InputError, match=r"cannot use x\.bin: No such file or directory; the run was started in"):
        evaluate_run(a / "r", "test", "cpu")
    del sys.modules["mine_of_places"]
