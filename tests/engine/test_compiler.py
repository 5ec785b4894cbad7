"""The cache of compiled libraries, and what happens where nothing can be compiled."""

import ctypes
import logging
import os
import pwd
import shutil
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from rnnlab import cells
from rnnlab.engine import cache, once
from rnnlab.engine.cpu import compiler
from rnnlab.layers import Recurrent

ANSWER = "int answer(void) { return %d; }\n"
CACHED = ("blas", "compiler", "load", "surroundings")


def _forget():
    """As in a process that has compiled nothing yet."""
    for name in CACHED:
        getattr(getattr(compiler, name), "cache_clear", lambda: None)()
    for function in (cache.cache_folder, cache.trusted_folder):
        function.cache_clear()


@pytest.fixture
def fresh(monkeypatch):
    """A process that has compiled, and complained about, nothing yet, and a compiler that nobody has named."""
    monkeypatch.delenv("CC", raising=False)
    once.forget_warnings()
    _forget()
    yield
    _forget()


@pytest.fixture
def folder(fresh, tmp_path, monkeypatch):
    """An empty cache."""
    path = tmp_path / "cache"
    monkeypatch.setenv("RNNLAB_CACHE", str(path))
    return path


@pytest.fixture
def compiled(monkeypatch):
    """What the compiler was called for, so far."""
    calls, compile_ = [], compiler._compile

    def counting(source, target, defines):
        calls.append(Path(source).read_text())
        compile_(source, target, defines)

    monkeypatch.setattr(compiler, "_compile", counting)
    return calls


def _script(path, *lines):
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o700)
    return path


def _answer(number=42):
    library = compiler.load(ANSWER % number)
    assert library.answer() == number
    return library


def _libraries(folder):
    return sorted(path.name for path in folder.iterdir())


def _fork(function):
    """Run a function in a child process; what to wait for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pytest-xdist has a thread
        child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return child


def _numbers(layer, inputs):
    outputs, final = layer(inputs)
    loss = outputs.square().sum() + sum(state.sum() for state in final)
    return [outputs, *final, *torch.autograd.grad(loss, [inputs, *layer.parameters()])]


# The folder


def test_the_folder_is_the_one_that_is_named(folder):
    assert cache.cache_folder() == folder
    _answer()
    assert len(_libraries(folder)) == 1


@pytest.mark.parametrize("empty", [False, True])
def test_the_folder_is_the_user_s_by_default(fresh, tmp_path, monkeypatch, empty):
    for name in ("RNNLAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
        if empty:
            monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "rnnlab"


def test_the_folder_is_the_desktop_s(fresh, tmp_path, monkeypatch):
    monkeypatch.delenv("RNNLAB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg" / "rnnlab"


def test_a_new_folder_is_private(folder):
    before = os.umask(0)
    try:
        _answer()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_others_may_read_is_trusted(folder):
    folder.mkdir(mode=0o755)
    assert cache.cache_folder() == folder


def _not_the_folder(folder, tmp_path, monkeypatch):
    """The cache is a private one, and works."""
    monkeypatch.setattr(compiler.tempfile, "tempdir", str(tmp_path))
    _answer()
    found = cache.cache_folder()
    assert found != folder
    assert found.stat().st_uid == os.geteuid()
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert len(_libraries(found)) == 1


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o707, 0o702, 0o777, 0o1777], ids=oct)
def test_a_folder_that_others_may_write_is_not_trusted(folder, tmp_path, monkeypatch, mode):
    folder.mkdir()
    folder.chmod(mode)
    _not_the_folder(folder, tmp_path, monkeypatch)
    assert not _libraries(folder)


def test_what_lies_in_a_folder_that_is_not_trusted_is_not_loaded(folder, tmp_path, monkeypatch, compiled):
    _answer()
    folder.chmod(0o777)
    _forget()
    _not_the_folder(folder, tmp_path, monkeypatch)
    assert len(compiled) == 2


def test_someone_else_s_folder_is_not_trusted(folder, tmp_path, monkeypatch):
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
    else:
        mine = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    _not_the_folder(folder, tmp_path, monkeypatch)


@pytest.mark.parametrize("where", ["a file", "below a file", "where nothing can be made", "read only"])
def test_a_folder_that_cannot_be_written(folder, tmp_path, monkeypatch, where):
    if where == "read only":
        folder.mkdir(mode=0o500)
        access = os.access  # the super-user may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))
    elif where == "where nothing can be made":
        folder = Path("/proc/rnnlab")
    else:
        folder.write_text("")
        folder = folder if where == "a file" else folder / "below"
    monkeypatch.setenv("RNNLAB_CACHE", str(folder))
    _not_the_folder(folder, tmp_path, monkeypatch)


def test_a_user_without_a_home(fresh, tmp_path, monkeypatch):
    def unknown(number):
        raise KeyError(number)

    for name in ("RNNLAB_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)  # a container run with any number as its user
    _not_the_folder(None, tmp_path, monkeypatch)


def test_a_folder_that_is_named_from_where_one_stands(folder, tmp_path, monkeypatch):
    folder.mkdir(mode=0o700)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RNNLAB_CACHE", ".")
    _answer()
    monkeypatch.chdir(tmp_path)  # as Hydra may do
    _answer(43)
    assert len(_libraries(folder)) == 2


def test_a_folder_that_disappears_is_made_anew(folder):
    _answer()
    shutil.rmtree(folder)
    _answer(43)


@pytest.mark.slow
def test_a_folder_of_one_process_goes_with_it(tmp_path):
    shared, temporary = tmp_path / "shared", tmp_path / "tmp"
    for path in (shared, temporary):
        path.mkdir()
    shared.chmod(0o777)
    code = f"from rnnlab.engine.cpu import compiler; assert compiler.load({ANSWER % 42!r}).answer() == 42"
    environment = os.environ | {"RNNLAB_CACHE": str(shared), "TMPDIR": str(temporary)}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=120, check=True)
    assert not _libraries(temporary)


# What lies in it


def test_nothing_is_compiled_twice(folder, compiled):
    _answer()
    _forget()
    _answer()
    assert len(compiled) == 1


def test_a_layer_is_compiled_once_for_all_processes(folder, compiled, monkeypatch):
    monkeypatch.setenv("RNNLAB_GEMM", "blas")  # the other would be one more library

    def work():
        layer = Recurrent(cells.create("rnn", input_size=3, hidden_size=4), "fused")
        inputs = torch.randn(5, 2, 3)
        layer(inputs)[0].sum().backward()
        with torch.no_grad():
            layer(inputs)

    work()
    assert len(compiled) == 2  # with and without a backward step
    _forget()
    work()
    assert len(compiled) == 2
    assert len(_libraries(folder)) == 2


@pytest.mark.parametrize("damage", ["empty", "truncated", "one byte", "replaced", "no library"])
def test_a_library_that_is_not_what_it_was_is_built_anew(folder, compiled, damage):
    _answer(43)
    (other,) = folder.iterdir()
    _answer()
    (path,) = set(folder.iterdir()) - {other}
    whole = path.read_bytes()
    changed = {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "one byte": whole[:-1] + bytes([whole[-1] ^ 1]),
        "replaced": other.read_bytes(),
        "no library": b"not a library",
    }[damage]
    path.unlink()  # not written over: this process has it in its memory
    path.write_bytes(changed)
    _forget()
    before = len(compiled)
    _answer()
    assert len(compiled) == before + 1
    assert [one for one in folder.iterdir() if one != other] == [path]
    assert path.read_bytes() == whole


def test_a_damaged_library_that_another_process_removes_first(folder, monkeypatch):
    _answer()
    (path,) = folder.iterdir()
    path.unlink()
    path.write_bytes(b"")
    _forget()
    digest = compiler._digest

    def late(file):
        if file == path:
            path.unlink(missing_ok=True)
        return digest(file)

    monkeypatch.setattr(compiler, "_digest", late)
    _answer()


@pytest.mark.parametrize("damaged", [False, True])
def test_many_processes_build_the_same_at_once(folder, damaged):
    if damaged:
        _answer()
        (path,) = folder.iterdir()
        path.unlink()
        path.write_bytes(b"")
        _forget()
    reading, writing = os.pipe()

    def work():
        os.close(writing)
        os.read(reading, 1)  # until all are there
        _answer()

    children = [_fork(work) for _ in range(8)]
    os.close(reading)
    os.close(writing)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert len(_libraries(folder)) == 1
    _answer()


def test_another_text_is_another_library(folder, compiled):
    _answer()
    _answer(43)
    assert len(compiled) == len(_libraries(folder)) == 2


def test_other_macros_are_another_library(folder, compiled):
    assert [compiler.load("int answer(void) { return N; }", f"N={n}").answer() for n in (1, 2)] == [1, 2]
    assert len(compiled) == len(_libraries(folder)) == 2


def test_another_header_is_another_library(folder, compiled, monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "SOURCES", tmp_path)
    for number in (1, 2, 1):
        (tmp_path / "answer.h").write_text(f"enum {{ ANSWER = {number} }};")
        _forget()
        library = compiler.load('#include "answer.h"\nint answer(void) { return ANSWER; }')
        assert library.answer() == number
    assert len(compiled) == len(_libraries(folder)) == 2


def test_other_flags_are_another_library(folder, compiled, monkeypatch):
    _answer()
    _forget()
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-DOTHER"))
    _answer()
    assert len(compiled) == len(set(_libraries(folder))) == 2


def test_another_compiler_is_another_library(folder, compiled, tmp_path, monkeypatch):
    _answer()
    real = compiler.compiler()[0]
    own = _script(tmp_path / "own-cc", f'exec {real} "$@"')
    for commands, expected in ((str(own), 2), (f"{own} -g0", 3), (str(own), 3)):
        monkeypatch.setenv("CC", commands)
        _forget()
        _answer()
        assert len(compiled) == expected
    os.utime(own, (0, 0))  # a newer version under the same name
    _forget()
    _answer()
    assert len(compiled) == 4


def test_another_processor_is_another_library(folder, compiled, monkeypatch):
    _answer()
    _forget()
    surroundings = compiler.surroundings
    monkeypatch.setattr(compiler, "surroundings", lambda: surroundings() + b"another")
    _answer()
    assert len(compiled) == 2


@pytest.mark.parametrize("text", [ANSWER % 42, "this is no C"])
def test_nothing_else_is_left_in_the_folder(folder, text):
    if text.startswith("int"):
        compiler.load(text)
    else:
        with pytest.raises(compiler.NoCompiler, match=r"fails: .*error"):
            compiler.load(text)
    assert all(name.endswith(".so") for name in _libraries(folder))
    assert len(_libraries(folder)) == text.startswith("int")


def test_the_compiler_may_have_arguments(folder, tmp_path, monkeypatch):
    log = tmp_path / "log"
    own = _script(tmp_path / "c c", f'echo "$@" > "{log}"', f'exec {compiler.compiler()[0]} "$@"')
    monkeypatch.setenv("CC", f"'{own}' -DONE -DTWO")
    _forget()
    _answer()
    assert log.read_text().startswith("-DONE -DTWO ")


# Where nothing can be compiled


def _no_symbol(monkeypatch):
    class Library:
        def __init__(self, *arguments, **options):
            pass

        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(ctypes, "CDLL", Library)


def _no_library(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", refuse)


def _other_integers(monkeypatch):
    """A product that does nothing with what it is given."""
    nothing = ctypes.CFUNCTYPE(None)(lambda: None)

    class Library:
        def __init__(self, *arguments, **options):
            self.sgemm_ = self.dgemm_ = nothing

    monkeypatch.setattr(ctypes, "CDLL", Library)


def _command(*lines):
    def prepare(monkeypatch, tmp_path):
        monkeypatch.setenv("CC", str(_script(tmp_path / "own-cc", *lines)))

    return prepare


def _empty_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def _not_executable(monkeypatch, tmp_path):
    (tmp_path / "cc").write_text("")
    monkeypatch.setenv("CC", str(tmp_path / "cc"))


OBSTACLES = {
    "no such compiler": lambda monkeypatch, tmp_path: monkeypatch.setenv("CC", "/nonexistent/cc"),
    "no such command": lambda monkeypatch, tmp_path: monkeypatch.setenv("CC", "no-such-compiler -O2"),
    "not a command": lambda monkeypatch, tmp_path: monkeypatch.setenv("CC", "cc '"),
    "not executable": _not_executable,
    "no program for this machine": lambda monkeypatch, tmp_path: (
        (tmp_path / "cc").write_bytes(b"\x7fELF"),
        (tmp_path / "cc").chmod(0o700),
        monkeypatch.setenv("CC", str(tmp_path / "cc")),
    ),
    "empty path": _empty_path,
    "fails": _command("echo 'step.c: error: no' >&2", "exit 1"),
    "fails silently": _command("exit 1"),
    "is killed": _command("kill -9 $$"),
    "makes nothing": _command("exit 0"),
    # The last words of the command are: step.c -o step.so -lm
    "makes no library": _command('for word; do case $word in *.so) echo no > "$word";; esac; done'),
    "no product": lambda monkeypatch, tmp_path: _no_symbol(monkeypatch),
    "no library of torch": lambda monkeypatch, tmp_path: _no_library(monkeypatch),
    "another product": lambda monkeypatch, tmp_path: _other_integers(monkeypatch),
}


@pytest.mark.parametrize("backend", ["fused", "auto"])
@pytest.mark.parametrize("name", OBSTACLES)
def test_where_nothing_can_be_compiled_steps_run_as_python(folder, tmp_path, monkeypatch, caplog, name, backend):
    OBSTACLES[name](monkeypatch, tmp_path)
    caplog.set_level(logging.WARNING)
    inputs = torch.randn(5, 3, 3, dtype=torch.float64, requires_grad=True)
    for options in ({"name": "lstm"}, {"name": "gru", "reset": "before"}):
        cell = cells.create(input_size=3, hidden_size=4, **options).double()
        layer = Recurrent(cell, backend)
        expected = _numbers(Recurrent(cell, "reference"), inputs)
        for _ in range(2):
            torch.testing.assert_close(_numbers(layer, inputs), expected, rtol=1e-12, atol=1e-12)
            with torch.no_grad():
                torch.testing.assert_close(layer(inputs)[0], expected[0], rtol=1e-12, atol=1e-12)
    compiling = [record.getMessage() for record in caplog.records if "instead of C" in record.getMessage()]
    assert len(compiling) == 1
    assert not folder.exists() or not _libraries(folder)


def test_a_compiler_that_fails_is_not_tried_again_at_every_call(folder, tmp_path, monkeypatch, compiled):
    OBSTACLES["fails"](monkeypatch, tmp_path)
    layer = Recurrent(cells.create("rnn", input_size=3, hidden_size=4), "fused")
    for _ in range(5):
        layer(torch.randn(5, 3, 3))[0].sum().backward()
        with torch.no_grad():
            layer(torch.randn(5, 3, 3))
    assert len(compiled) <= 2


def test_a_missing_compiler_is_named_with_what_to_do(fresh, tmp_path, monkeypatch):
    _empty_path(monkeypatch, tmp_path)
    with pytest.raises(compiler.NoCompiler, match=r"there is no C compiler \(cc, gcc or clang\); install one"):
        compiler.compiler()
    monkeypatch.setenv("CC", "nonexistent")
    with pytest.raises(compiler.NoCompiler, match="CC=nonexistent is not an executable program"):
        compiler.compiler()


@pytest.mark.parametrize("command", ["cc", "gcc", "clang"])
def test_any_of_the_usual_compilers_is_found(folder, tmp_path, monkeypatch, command):
    own = _script(tmp_path / command, f'exec {compiler.compiler()[0]} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}")
    _forget()
    assert compiler.compiler() == (str(own),)


def test_a_compiler_that_hangs_is_given_up(folder, tmp_path, monkeypatch):
    OBSTACLES["fails"](monkeypatch, tmp_path)
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: run(["sleep", "10"], **options | {"timeout": 0.1})
    )
    with pytest.raises(compiler.NoCompiler, match=r"cannot be run.*timed out"):
        compiler.load(ANSWER % 42)
    assert not _libraries(folder)
