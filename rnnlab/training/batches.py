"""Prefetching: the next training batch is prepared while the model trains on the current batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter

from rnnlab.interface import Batch

WORTH = 5e-4
"""Seconds. Batches that take less time are not prefetched, because the worker thread costs more than it saves."""


@contextmanager
def ahead(make: Callable[[int], Batch], steps: int, enabled: bool = True) -> Iterator[Callable[[int], Batch]]:
    """A context manager that yields a function from step to batch, which prefetches the next batch in a worker thread.

    A batch is a pure function of the step, so prefetching does not change it. Batches that take less than `WORTH` are
    not prefetched, nor are any under a debugger.

    Args:
        make: function from the step to its batch.
        steps: number of training steps; no batch is made beyond the last step.
        enabled: False disables prefetching.
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
    """Whether a debugger or a tracer is active; it could not follow the worker thread."""
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12
    return sys.gettrace() is not None or (monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID))
