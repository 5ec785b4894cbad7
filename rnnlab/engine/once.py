"""Warnings that are logged only once, and a thread-safe cached property."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

_WARNED: set[str] = set()


def warn_once(sentence: str) -> None:
    """Log a warning, unless the same sentence was logged before in this process."""
    if sentence not in _WARNED:
        _WARNED.add(sentence)
        log.warning(sentence)


def forget_warnings() -> None:
    """Let `warn_once` log every sentence again, as in a new process."""
    _WARNED.clear()


class once:  # noqa: N801 - used like `functools.cached_property`
    """A property whose value is computed at first use and then cached.

    If several threads compute the value at the same time, all of them get the value that was stored first.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, of: Any, owner: type | None = None) -> Any:
        return self if of is None else vars(of).setdefault(self.name, self.make(of))
