"""Shares of one piece of work, each done by a C function, side by side."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from rnnlab.engine.cpu import compiler

_POOL: list[ThreadPoolExecutor] = []
_FORKED: list[bool] = []  # threads do not survive a fork, and OpenMP's are not made again
os.register_at_fork(after_in_child=partial(_FORKED.append, True))


def run(function: Any, calls: Sequence[int], held: tuple[Any, ...]) -> None:
    """Call a C function, which takes a ``struct team``, for shares of the work.

    Args:
        function: it.
        calls: for every share the address of its ``struct call``.
        held: whatever it reads and writes: other threads still work there if this one is interrupted.
    """
    openmp = [0, 0, 0] if _FORKED else compiler.blas().openmp
    if openmp[0] or len(calls) == 1:
        _team(function, openmp, calls, held)
    elif _FORKED:
        for call in calls:
            _team(function, openmp, [call], held)
    else:
        _together([partial(_team, function, openmp, [call], held) for call in calls])


def _team(function: Any, openmp: list[int], calls: Sequence[int], held: tuple[Any, ...]) -> None:
    pointers = array("q", calls)
    team = array("q", [*openmp, 0, pointers.buffer_info()[0], len(calls)])
    function(team.buffer_info()[0])


def _together(tasks: list[Callable[[], None]]) -> None:
    """Run tasks at the same time, the first in this thread."""
    if len(tasks) > 1 and not _POOL:
        _POOL.append(ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="rnnlab"))
    others = [_POOL[0].submit(task) for task in tasks[1:]]
    tasks[0]()
    for other in others:
        other.result()
