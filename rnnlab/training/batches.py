"""Training batches, the next one prepared while the model trains on the current one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter

from rnnlab.interface import Batch

WORTH = 5e-4
"""Seconds that a batch must take before another thread prepares it: below, the threads cost more than they save."""


@contextmanager
def ahead(make: Callable[[int], Batch], steps: int, enabled: bool = True) -> Iterator[Callable[[int], Batch]]:
    """Within the context, a function from a step to its batch, which prepares the next one in a worker thread.

    Batches are a pure function of the step, so that the thread changes none of them. A batch that takes no time is made
    without it, and so are all batches under a debugger.

    Args:
        make: from a step to its batch.
        steps: the number of steps; none is prepared beyond.
        enabled: False to prepare nothing ahead.
    """
    enabled = enabled and not _is_debugged()
    pending: dict[int, Future[Batch]] = {}

    def get(step: int) -> Batch:
        if step in pending:
            batch = pending.pop(step).result()
            worth = True
        else:
            started = perf_counter()
            batch = make(step)
            worth = perf_counter() - started > WORTH
        pending.clear()
        if enabled and worth and step + 1 < steps:
            pending[step + 1] = pool.submit(make, step + 1)
        return batch

    with ThreadPoolExecutor(1, "batches") as pool:
        yield get


def _is_debugged() -> bool:
    """Whether a debugger or a tracer looks on, which would not see what another thread does."""
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12
    return sys.gettrace() is not None or (monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID))
