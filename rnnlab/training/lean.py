"""PyTorch's optimizers without its compiler, which they import when they are made: a second that no run needs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


class _StandIn(ModuleType):
    """What the optimizers use of the compiler's module outside of a compilation: nothing. All else loads the module."""

    @staticmethod
    def graph_break(*_: Any, **__: Any) -> None:
        """Nothing: no graph is being recorded."""

    @staticmethod
    def disable(function: Any, *_: Any, **__: Any) -> Any:
        """The function itself: nothing is being compiled."""
        return function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _remove(self)
        return getattr(importlib.import_module(NAME), name)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Within the context an import of ``torch._dynamo`` gives a stand-in, unless it has been imported before.

    `torch.optim` imports it for two functions, which do something only while a program is compiled.
    """
    if NAME in sys.modules:
        yield
        return
    stand_in = _StandIn(NAME)
    sys.modules[NAME] = stand_in
    try:
        yield
    finally:
        _remove(stand_in)


def _remove(stand_in: _StandIn) -> None:
    if sys.modules.get(NAME) is stand_in:
        del sys.modules[NAME]
