"""What a program of `processes.programs` does: ask for a child, pass signals on to it, exit as it does."""

import array
import json
import os
import resource
import signal
import socket
import sys
import time


def ask(address: str, kind: str) -> int:
    """Run this process's command line in a child of the process behind ``address``; returns its exit code."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    request = {
        "kind": kind,
        "arguments": sys.argv[1:],
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "file_size": resource.getrlimit(resource.RLIMIT_FSIZE),
        "ignores_int": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
    }
    streams = array.array("i", [0, 1, 2])
    data = json.dumps(request).encode() + b"\n"
    sent = connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    connection.sendall(data[sent:])
    for stream in (0, 1, 2):  # whoever reads them sees them end with the child
        os.close(stream)
    answers = connection.makefile()
    child, last = int(answers.readline()), 0.0

    def forward(number: int, frame: object) -> None:
        nonlocal last
        if time.monotonic() - last > 0.5:  # `timeout` sends its signal to the process and to its group
            os.kill(child, number)
        last = time.monotonic()

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, forward)
    code = int(answers.readline())
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code
