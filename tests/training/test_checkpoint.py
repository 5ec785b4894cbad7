"""Checkpoints: what is saved comes back, whole or not at all, and nothing in a stranger's file is ever run."""

from __future__ import annotations

import os
import pickle
import random

import numpy as np
import pytest
import torch

from rnnlab.interface import InputError
from rnnlab.training import checkpoint

CONTENT = {
    "config": {"seed": 3, "task": {"split": [0.9, 0.1], "name": "é"}},
    "model": {"weight": torch.tensor([[1.0, -0.0], [float("inf"), 1e-40]]), "steps": torch.tensor(7)},
    "state": ((torch.ones(2, 3, dtype=torch.bfloat16), (torch.zeros(2, dtype=torch.float64),)),),
    "progress": {"best": None, "seconds": 0.1},
}


class Dangerous:
    """Unpickled by anything but a careful reader, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.pt"


def refuse(path):
    """The one sentence with which a file is refused."""
    with pytest.raises(InputError) as refused:
        checkpoint.load(path)
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_what_is_saved_comes_back(path):
    checkpoint.save(path, CONTENT)
    loaded = checkpoint.load(path)
    assert loaded.pop("rnnlab") == checkpoint.FORMAT
    assert loaded.keys() == CONTENT.keys()
    assert loaded["config"] == CONTENT["config"]
    assert loaded["progress"] == CONTENT["progress"]
    for name, tensor in CONTENT["model"].items():
        assert torch.equal(loaded["model"][name], tensor)
    [(low, (double,))] = loaded["state"]
    assert (low.dtype, double.dtype) == (torch.bfloat16, torch.float64)
    assert os.listdir(path.parent) == [path.name]


def test_any_careful_program_can_read_it(path):
    checkpoint.save(path, {**CONTENT, "random": checkpoint.random_states()})
    assert torch.load(path, weights_only=True)["config"] == CONTENT["config"]


@pytest.mark.parametrize("broken", ["os.replace", "os.fsync", "torch.save"])
@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_a_crash_while_saving_leaves_the_old_file_whole(path, monkeypatch, broken, error):
    checkpoint.save(path, CONTENT)
    before = path.read_bytes()

    def crash(*arguments, **options):
        if broken == "torch.save":
            arguments[1].write(b"the first half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(broken, crash)
        with pytest.raises(type(error)):
            checkpoint.save(path, {"model": {}})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name], "a temporary file was left"
    checkpoint.save(path, {"model": {}})
    assert checkpoint.load(path)["model"] == {}


def test_the_first_file_appears_whole_or_not_at_all(path, monkeypatch):
    def crash(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, CONTENT)
    assert os.listdir(path.parent) == []


def test_the_file_is_on_the_disk_before_it_takes_its_place(path, monkeypatch):
    """Otherwise a power cut could leave the new name with nothing in it."""
    happened = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (happened.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda source, target: (happened.append("replace"), replace(source, target)))
    checkpoint.save(path, CONTENT)
    assert happened == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_a_missing_file_is_refused(path):
    assert "there is no checkpoint" in refuse(path)
    path.mkdir()
    assert "there is no checkpoint" in refuse(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(path, share):
    checkpoint.save(path, CONTENT)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "damaged" in refuse(path)


@pytest.mark.parametrize(
    ("error", "expected", "says"),
    [
        (PermissionError(13, "Permission denied"), PermissionError, "Permission denied"),
        (OSError(5, "Input/output error"), OSError, "Input/output error"),
        (MemoryError(), InputError, "not enough memory to load"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), InputError, "not enough memory to load"),
        (EOFError(), checkpoint.Damaged, "it is damaged"),
    ],
)
def test_only_damage_is_called_damage(path, monkeypatch, error, expected, says):
    checkpoint.save(path, CONTENT)

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(expected, match=says) as refused:
        checkpoint.load(path)
    assert isinstance(refused.value, checkpoint.Damaged) == (expected is checkpoint.Damaged)


# To an unpickler the first letters of a text are instructions, and each text fails in a way of its own.
@pytest.mark.parametrize(
    "text", ["# notes\n", "hello", "an ordinary text\n", "step,loss\n1,2\n", "run 1", "\0\0\0", "💾"]
)
def test_a_text_is_refused(path, text):
    path.write_text(text)
    refuse(path)


def test_bytes_without_meaning_are_refused(path):
    draw = random.Random(0)
    for size in range(1, 200):
        path.write_bytes(bytes([0x80, 2]) + draw.randbytes(size))  # begins like a pickle, so that torch goes on reading
        refuse(path)


@pytest.mark.parametrize("program", ["pickle", "torch"])
def test_code_is_not_run(path, program):
    trace = path.parent / "trace"
    content = {"rnnlab": checkpoint.FORMAT, "model": Dangerous(trace)}
    if program == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    assert "contains code, which is never run" in refuse(path)
    assert not trace.exists()
    torch.load(path, weights_only=False) if program == "torch" else pickle.loads(path.read_bytes())
    assert trace.exists(), "a careless reader runs it, or this test shows nothing"


@pytest.mark.parametrize("content", [{"weight": torch.ones(2)}, [1, 2], torch.ones(2), {"rnnlab": -1}])
def test_what_torch_saved_for_another_program_is_refused(path, content):
    torch.save(content, path)
    assert "not a checkpoint of this version of rnnlab" in refuse(path)


def draw():
    """Some of every generator; an odd number of normal draws, so that the spare one of each pair is in the state."""
    return (
        [random.random(), random.gauss(0, 1)],
        [np.random.random(), np.random.standard_normal()],
        torch.cat([torch.rand(5), torch.randn(3), torch.dropout(torch.ones(20), 0.5, True)]).tolist(),
    )


def test_random_generators_come_back_exactly(path):
    draw()
    checkpoint.save(path, {"random": checkpoint.random_states()})
    first, second = draw(), draw()
    assert all(one != other for one, other in zip(first, second, strict=True))
    for _ in range(2):
        checkpoint.restore_random_states(checkpoint.load(path)["random"])
        assert draw() == first
        assert draw() == second
