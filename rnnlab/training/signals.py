"""Stop a run on a signal, or when its parent process ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

PR_SET_PDEATHSIG = 1  # from <sys/prctl.h> of Linux


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A context manager that yields a list to which SIGTERM and SIGINT are appended; a second signal acts as usual.

    A second SIGTERM within one second is ignored, because schedulers signal a process, its group and its job in turn.
    """
    caught: list[int] = []
    heard: dict[int, float] = {}

    def note(number: int, frame: object) -> None:
        if number not in heard:
            _signal_at_end_of_parent(0)  # otherwise each thread of a killed parent would send another signal
            heard[number] = perf_counter()
            caught.append(number)
        elif number == signal.SIGINT or perf_counter() > heard[number] + 1:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(parent: int) -> None:
    """Send SIGTERM to this process when its parent process ends, even if the parent is killed (Linux only).

    If the parent has already ended, this process exits immediately. On other systems, a worker therefore exits when it
    calls this function before its next run.

    Args:
        parent: process ID of the parent.
    """
    _signal_at_end_of_parent(signal.SIGTERM)
    if os.getppid() != parent:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + signal.SIGTERM)  # after an exception, the worker would take the next job from its queue


def _signal_at_end_of_parent(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
