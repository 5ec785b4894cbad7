"""Commands as processes of their own, without a second and a half of imports each.

One process imports what every command imports and then forks: a child runs the command line. ``programs()`` is a folder
with a ``python`` and an ``rnnlab`` that ask it for such a child and pass on arguments, environment, working directory,
limits, standard streams, SIGINT, SIGTERM and SIGKILL. A test that is about starting or importing uses
``sys.executable``.
"""

import array
import atexit
import gc
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from contextlib import suppress
from functools import cache
from pathlib import Path

HERE = str(Path(__file__).parent)
SHARED = "RNNLAB_TEST_PROGRAMS"
"""Variable by which processes of a test run find the folder of the programs: one serves all of them."""
SHIM = """#!{python} -IS
import sys
sys.path.append({here!r})
from process_client import ask
sys.exit(ask({address!r}, {kind!r}))
"""


@cache
def programs() -> Path:
    """The folder of ``python`` and ``rnnlab``; the process behind them ends with the one that first asked for it."""
    if folder := os.environ.get(SHARED):
        return Path(folder)
    folder = Path(tempfile.mkdtemp())
    os.environ[SHARED] = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address = str(folder / "socket")
    server = subprocess.Popen(
        [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", text=True
    )
    assert server.stdout.readline() == "ready\n"
    atexit.register(server.communicate)
    for kind in ("python", "rnnlab"):
        file = folder / kind
        file.write_text(SHIM.format(python=sys.executable, here=HERE, address=address, kind=kind))
        file.chmod(0o755)
    return folder


def rnnlab(*arguments: str, **options) -> subprocess.CompletedProcess:
    """Run ``rnnlab`` with these arguments; ``options`` are those of `subprocess.run`."""
    return subprocess.run(
        [programs() / "rnnlab", *arguments], **{"capture_output": True, "text": True, "timeout": 300, **options}
    )


def _serve(address: str) -> dict:
    """Fork a child for every request and return its request in it; end this process once the one before it has."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _collect)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    print("ready", flush=True)
    is_first = True
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            os._exit(0)
        if is_first:
            _import()
            is_first = False
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        data, streams = _receive(connection)
        child = os.fork()
        if child:
            for stream in streams:
                os.close(stream)
            connection.sendall(f"{child}\n".encode())
            threading.Thread(target=_kill_with, args=(connection, child), daemon=True).start()
            _, status = os.waitpid(child, 0)
            with suppress(OSError):
                connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os._exit(0)
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return data


def _import() -> None:
    """Import what every command imports, and what many import."""
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401
    import torch
    from torch.utils import tensorboard  # noqa: F401

    from rnnlab import analysis, config  # noqa: F401
    from rnnlab.tasks import char_lm

    torch.set_num_threads(1)
    char_lm.SAMPLE_LENGTH = 5  # longer samples would take a quarter of the time of a short training
    config.compose([])  # loads Hydra
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # the rest of what torch imports, on first use
    gc.collect()
    gc.freeze()  # children share these pages; to look at them is to copy them


def _kill_with(connection: socket.socket, child: int) -> None:
    """Kill a child when the program that asked for it has been killed: its end of the connection is closed then."""
    with suppress(OSError):  # the child may have ended first
        if not connection.recv(1):
            os.kill(child, signal.SIGKILL)


def _collect(*_) -> None:
    """Wait for every child that has ended: the time that it took then counts as this process's."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """A request and the three standard streams that come with its first byte."""
    numbers = array.array("i", [0, 0, 0])
    data, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(numbers.itemsize * 3))
    numbers.frombytes(ancillary[0][2])
    while not data.endswith(b"\n"):
        data += connection.recv(1 << 16)
    return json.loads(data), numbers.tolist()[3:]


def _execute(request: dict) -> None:
    """Run the command line of a request as ``python`` does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN if request["ignores_int"] else signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_FSIZE, request["file_size"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    arguments = request["arguments"]
    if request["kind"] == "rnnlab":
        arguments = ["-m", "rnnlab", *arguments]
    while arguments[0] == "-W":
        import warnings

        warnings.simplefilter(arguments[1])
        arguments = arguments[2:]
    sys.path[:] = [path for path in sys.path if path != HERE]
    sys.path.insert(0, "")
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), module.__dict__)
    elif arguments[:2] == ["-m", "rnnlab"]:
        from rnnlab.__main__ import main

        sys.path.pop(0)  # as of the installed command, which adds the working directory itself
        sys.argv = ["rnnlab", *arguments[2:]]
        sys.exit(main())
    else:
        sys.path[0] = str(Path(arguments[0]).parent)
        sys.argv = arguments
        module.__file__ = arguments[0]
        exec(compile(Path(arguments[0]).read_text(), arguments[0], "exec"), module.__dict__)


def _end(run, *arguments) -> None:
    """Run a function and end the process as Python does, except that nothing is taken apart: that takes a second."""
    code = 0
    try:
        run(*arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.path.remove(HERE)
    os.environ["OMP_NUM_THREADS"] = "1"
    _end(_execute, _serve(sys.argv[1]))
