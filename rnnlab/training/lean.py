"""PyTorch's optimizers without its compiler. They import it when they are created, which takes a second."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


class _StandIn(ModuleType):
    """Stand-in for the compiler's module: two functions without effect. Any other attribute loads the real module."""

    @staticmethod
    def graph_break(*_: Any, **__: Any) -> None:
        """Do nothing, because no graph is being recorded."""

    @staticmethod
    def disable(function: Any, *_: Any, **__: Any) -> Any:
        """Return the function unchanged, because nothing is being compiled."""
        return function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _remove(self)
        return getattr(importlib.import_module(NAME), name)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Inside the context, importing ``torch._dynamo`` returns a stand-in, unless the module is already imported.

    `torch.optim` imports it for two functions that have an effect only during compilation.
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
