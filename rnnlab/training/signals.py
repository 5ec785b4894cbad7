"""Stop a run on a signal, or when its parent process ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that receives SIGTERM and SIGINT instead of the process; the same signal again acts as usual.

    Not a SIGTERM at once after another, as schedulers send them: to a process, to its group, to its job.
    """
    caught: list[int] = []
    heard: dict[int, float] = {}

    def note(number: int, frame: object) -> None:
        if number not in heard:
            _signal_at_end_of_parent(0)  # or each further thread of a killed parent would send one more as it ends
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
    """Send SIGTERM to this process when its parent process ends, even if that was killed.

    Where the parent is gone already, this process ends at once. Being told needs Linux; elsewhere a worker ends before
    its next run.

    Args:
        parent: the process that began this one.
    """
    _signal_at_end_of_parent(signal.SIGTERM)
    if os.getppid() != parent:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + signal.SIGTERM)  # an exception would only have the worker take up what is left in its queue


def _signal_at_end_of_parent(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
