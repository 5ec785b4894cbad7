"""Which matrix product is used: measured once for a processor, stored, and the same in every later process."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import processes
import pytest
import torch

from rnnlab import cells, engine
from rnnlab.engine import cache, once
from rnnlab.engine.cpu import compiler, gemm, tune
from rnnlab.interface import InputError

CACHED = (cache.trusted_folder, cache.cache_folder, compiler.load, tune._stored_speedups, gemm.own)
FAST, SLOW = {"step": 2.0, "sequence": 1.02}, {"step": 0.9, "sequence": 0.5}


def _forget():
    """As in a new process."""
    for cached in CACHED:
        cached.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, and nothing that overrides a measurement."""
    monkeypatch.delenv("RNNLAB_GEMM", raising=False)
    monkeypatch.setenv("RNNLAB_CACHE", str(tmp_path / "cache"))
    once.forget_warnings()
    _forget()
    yield tmp_path / "cache"
    _forget()


@pytest.fixture
def measured(monkeypatch):
    """The types that were measured so far; the results are those of ``measured.speedups``."""

    class Measured(list):
        speedups = FAST

    calls = Measured()
    monkeypatch.setattr(tune, "measure", lambda dtype: calls.append(dtype) or calls.speedups)
    return calls


def _choices(dtype=torch.float32):
    return {use: tune.prefers_own(dtype, use) for use in FAST}


def _file(folder):
    (path,) = folder.glob("gemm-*.json")
    return path


def test_the_faster_one_is_used_and_a_tie_is_the_blas_s(folder, measured):
    assert _choices() == {"step": True, "sequence": False}
    measured.speedups = SLOW
    assert _choices(torch.float64) == {"step": False, "sequence": False}


def test_a_later_process_does_not_measure_again(folder, measured):
    before = _choices()
    _forget()
    measured.speedups = SLOW
    assert _choices() == before
    assert measured == [torch.float32]


def test_another_processor_or_torch_is_measured_anew(folder, measured, monkeypatch):
    _choices()
    surroundings = compiler.surroundings()
    monkeypatch.setattr(compiler, "surroundings", lambda: surroundings + b"another")
    _forget()
    _choices()
    monkeypatch.setattr(torch, "__version__", "9.9")
    _forget()
    _choices()
    assert len(measured) == 3


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b"{}", b'{"step": 2.0}', b'{"step": 2.0, "sequence": "fast"}']
    + [f'{{"step": 2.0, "sequence": {value}}}'.encode() for value in ("NaN", "-1.0", "Infinity", "null")],
)
def test_a_damaged_file_is_measured_anew(folder, measured, content):
    _choices()
    path = _file(folder)
    path.write_bytes(content)
    _forget()
    measured.speedups = SLOW
    assert _choices() == {"step": False, "sequence": False}
    assert json.loads(path.read_text()) == SLOW
    assert [one.name for one in folder.iterdir()] == [path.name], "nothing else is left"


def test_of_two_processes_at_once_the_first_decides(folder, monkeypatch):
    def measure(dtype):
        if dtype == torch.float32:  # meanwhile another process stores what it found
            monkeypatch.setattr(tune, "measure", lambda dtype: SLOW)
            tune._stored_speedups.__wrapped__(dtype)
        return FAST

    monkeypatch.setattr(tune, "measure", measure)
    assert _choices() == {"step": False, "sequence": False}
    assert json.loads(_file(folder).read_text()) == SLOW


def test_many_processes_agree(folder):
    """Each measures something else, and takes its time; all use what one of them measured."""
    code = (
        "import random, time, torch; from rnnlab.engine.cpu import tune; "
        "tune.measure = lambda dtype: time.sleep(0.1) or {'step': random.random(), 'sequence': random.random()}; "
        "print(tune._stored_speedups(torch.float32))"
    )

    def run(_):
        return subprocess.run(
            [processes.programs() / "python", "-c", code], capture_output=True, text=True, timeout=240
        ).stdout

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(run, range(4)))
    assert len(set(said)) == 1
    assert said[0].count(":") == 2, said


@pytest.mark.parametrize("is_known", [False, True])
def test_a_folder_that_cannot_be_written(folder, measured, monkeypatch, caplog, is_known):
    if is_known:
        _choices()
        _forget()
    folder.mkdir(mode=0o700, exist_ok=True)
    access = os.access  # the super-user may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))
    assert _choices() == {"step": is_known, "sequence": False}
    assert len(measured) == is_known, "what cannot be stored could differ in the next process"
    assert ("cannot be written; set RNNLAB_CACHE" in caplog.text) != is_known


def test_a_full_disk(folder, measured, monkeypatch, caplog):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tune.json, "dump", full)
    assert _choices() == {"step": False, "sequence": False}
    assert "No space left on device" in caplog.text


def test_a_file_system_without_links(folder, measured, monkeypatch):
    def no_links(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert _choices() == {"step": True, "sequence": False}
    assert json.loads(_file(folder).read_text()) == FAST


@pytest.mark.parametrize(("asked", "own"), [("blas", False), ("own", True)])
def test_the_variable_overrides(folder, measured, monkeypatch, asked, own):
    monkeypatch.setenv("RNNLAB_GEMM", asked)
    assert _choices() == {"step": own, "sequence": own}
    assert (gemm.own(torch.float32, "step") is not None) == own
    assert not measured


def test_a_mistake_in_the_variable_is_reported(folder, monkeypatch):
    monkeypatch.setenv("RNNLAB_GEMM", "mkl")
    with pytest.raises(InputError, match="RNNLAB_GEMM=mkl must be blas or own; unset it to measure"):
        engine.choose(cells.create("gru", input_size=2, hidden_size=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_measurement_itself(dtype):
    """It sees a difference: the BLAS with a delay is slower."""
    found = tune.measure(dtype)
    assert found.keys() == FAST.keys()
    assert all(0.05 < speedup < 50 for speedup in found.values())
    assert tune._speedup(lambda: None, lambda: sum(range(20_000))) > 10


def test_without_a_compiler_it_is_the_blas(folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)
    for cached in (compiler.compiler, compiler.surroundings):
        monkeypatch.setattr(compiler, cached.__name__, cached.__wrapped__)
    assert _choices() == {"step": False, "sequence": False}
