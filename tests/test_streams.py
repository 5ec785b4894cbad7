"""Standard streams that are closed, full, without a reader or without Unicode: no traceback, and no run is lost."""

import io
import json
import os
import sys
from pathlib import Path

import pytest
import tiers

from rnnlab import __main__, config
from rnnlab.training import train
from rnnlab.training.logger import console

TINY = ["task=hello", "model.hidden_size=4", "trainer.steps=6", "trainer.eval_every=2"]
QUIET = ["logger.tensorboard=false", "logger.progress=false"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a finished run, whose text has letters that ASCII lacks."""
    folder = tmp_path_factory.mktemp("streams")
    (folder / "text.txt").write_text("größer als Käse, " * 60, encoding="utf-8")
    options = [f"task.corpus={folder}/text.txt", "task.batch_size=2", "task.seq_len=8", "model.hidden_size=4"]
    train(config.compose([*options, *QUIET, "trainer.steps=2", "trainer.eval_every=2", f"run_dir={folder}/run"]))
    return folder


@pytest.fixture
def main(tmp_path, monkeypatch):
    """A function that runs a command line with standard streams of its own; returns its code and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, **given):
        error = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        monkeypatch.setattr(console, "handlers", [])  # those of pytest
        for name, stream in {"stderr": error, "argv": ["rnnlab", *arguments], **given}.items():
            monkeypatch.setattr(sys, name, stream)
        code = __main__.main(list(arguments))
        error.flush()
        return code, error.buffer.getvalue().decode()

    return call


@pytest.fixture
def unread():
    """A standard output into a pipe that has lost its reader."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1, encoding="utf-8") as stream:
        yield stream


@pytest.fixture
def full():
    """A standard output onto a device that is full."""
    with Path("/dev/full").open("w") as stream:
        yield stream


def result(folder):
    return json.loads((folder / "summary.json").read_text())["status"]


@pytest.mark.parametrize("kind", ["unread", "full", "closed"])
def test_training_goes_on_whatever_becomes_of_its_output(main, tmp_path, request, kind):
    stream = None if kind == "closed" else request.getfixturevalue(kind)
    assert main("train", *TINY, *QUIET, "run_dir=a", stdout=stream) == (0, "")
    assert result(tmp_path / "a") == "finished"


def test_training_goes_on_without_standard_error_and_input(main, tmp_path, unread):
    with unread:
        assert main("train", *TINY, "logger.tensorboard=false", "run_dir=a", stdin=None, stderr=unread) == (0, "")
    assert result(tmp_path / "a") == "finished"
    assert main("train", *TINY, *QUIET, "run_dir=b", stderr=None) == (0, "")
    assert result(tmp_path / "b") == "finished"


COMMANDS = [
    ["--help"],
    ["cells"],
    ["explain", "cell=rnn"],
    ["train", "--cfg", "job"],
    ["status", "RUNS"],
    ["compare", "RUNS", "--out", "page"],
    ["evaluate", "run=RUNS/run"],
    ["generate", "run=RUNS/run", "length=20"],
    ["diagnose", "run=RUNS/run", "steps=8", "sequences=1"],
]
every_command = pytest.mark.parametrize(
    "arguments",
    tiers.quick_if(COMMANDS, lambda one: one[0] not in ("diagnose", "compare")),
    ids=lambda arguments: arguments[0],
)


@every_command
def test_a_command_ends_quietly_when_nobody_reads_on(main, runs, unread, arguments):
    assert main(*[word.replace("RUNS", str(runs)) for word in arguments], stdout=unread) == (0, "")


@pytest.mark.parametrize("arguments", [["evaluate", "run=RUNS/run"], ["generate", "run=RUNS/run"], ["--help"]])
def test_an_output_that_is_lost_is_told(main, runs, full, arguments):
    code, said = main(*[word.replace("RUNS", str(runs)) for word in arguments], stdout=full)
    assert (code, said) == (2, "rnnlab: No space left on device\n")


@every_command
def test_a_terminal_without_unicode_shows_escapes(main, runs, arguments):
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    code, said = main(*[word.replace("RUNS", str(runs)) for word in arguments], stdout=output)
    assert (code, said) == (0, "")
    shown = output.buffer.getvalue().decode("ascii")
    assert shown or arguments[0] == "diagnose"


def test_a_character_that_a_terminal_lacks_is_an_escape(main, runs):
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert main("generate", f"run={runs}/run", "prompt=größ", "length=0", stdout=output)[0] == 0
    assert output.buffer.getvalue() == b"gr\\xf6\\xdf\n"


@pytest.mark.parametrize("said", [None, b"", b"\xff\xfe\n"])
def test_a_conversation_without_words(main, runs, said):
    """With no standard input there is nothing to answer; what is no UTF-8 is reported."""
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    given = None if said is None else io.TextIOWrapper(io.BytesIO(said), encoding="utf-8")
    code, complaint = main("generate", f"run={runs}/run", "interactive=true", stdin=given, stdout=output)
    assert code == 0
    assert ("is not valid text in the encoding utf-8" in complaint) == bool(said)
    assert output.buffer.getvalue() == b""


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("temperature=inf", "temperature=inf is not a finite number; it must be 0 or more"),
        ("temperature=nan", "temperature=nan is not a finite number; it must be 0 or more"),
        (f"seed={2**64}", "must be from -2**63 to 2**64 - 1"),
        (f"seed={-(2**63) - 1}", "must be from -2**63 to 2**64 - 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(main, runs, option, says):
    code, said = main("generate", f"run={runs}/run", option)
    assert code == 2
    assert says in said
    assert len(said.splitlines()) == 1


def test_an_argument_that_is_no_text_is_refused(main):
    code, said = main("evaluate", "run=caf\udce9")
    assert (code, said) == (2, "rnnlab: argument 'run=caf\\udce9' is not valid text in the system's encoding utf-8\n")


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**64 - 1])
def test_the_largest_seeds_are_taken(main, runs, seed):
    assert main("generate", f"run={runs}/run", f"seed={seed}", "length=3") == (0, "")
