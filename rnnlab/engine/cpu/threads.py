"""Run a C function on several threads, each of which computes a share of the work."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from rnnlab.engine.cpu import compiler

_POOL: list[ThreadPoolExecutor] = []
_FORKED: list[bool] = []  # a forked process has no worker threads, and OpenMP does not restart them
os.register_at_fork(after_in_child=partial(_FORKED.append, True))


def run(function: Any, calls: Sequence[int], held: tuple[Any, ...]) -> None:
    """Call a C function that takes a ``struct team`` (``c/team.h``).

    Args:
        function: the C function.
        calls: for every share of the work, the address of its ``struct call``.
        held: the owners of all memory that the function reads and writes. They are kept alive until all threads are
            done, even if this thread is interrupted.
    """
    openmp = _openmp()
    if openmp[0] or len(calls) == 1:
        _team(function, openmp, calls, held)
    elif _FORKED:
        for call in calls:
            _team(function, openmp, [call], held)
    else:
        _together([partial(_team, function, openmp, [call], held) for call in calls])


def can_wait() -> bool:
    """Whether the threads of a call can wait for each other: they are OpenMP's, and all of them run."""
    return bool(_openmp()[0])


def _openmp() -> list[int]:
    """Return the addresses of OpenMP's functions for a ``struct team``; zeros if they cannot be used."""
    return [0, 0, 0] if _FORKED else compiler.blas().openmp


def _team(function: Any, openmp: list[int], calls: Sequence[int], held: tuple[Any, ...]) -> None:
    pointers = array("q", calls)
    team = array("q", [*openmp, 0, pointers.buffer_info()[0], len(calls)])
    function(team.buffer_info()[0])


def _together(tasks: list[Callable[[], None]]) -> None:
    """Run tasks in parallel, the first in this thread."""
    if len(tasks) > 1 and not _POOL:
        _POOL.append(ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="rnnlab"))
    others = [_POOL[0].submit(task) for task in tasks[1:]]
    tasks[0]()
    for other in others:
        other.result()
