"""Nested tuples of tensors: the states of models, layers and cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

State = tuple[Any, ...]
"""Nested tuple of tensors, each ``[B, ...]``, passed from one step to the next."""

_NESTS = (tuple, list)


def map_state(function: Callable[..., Any], *states: Any) -> Any:
    """Apply ``function`` to corresponding tensors of states with the same structure; None stays None."""
    first = states[0]
    if first is None:
        return None
    if not isinstance(first, _NESTS):
        return function(*states)
    return tuple(map_state(function, *parts) for parts in zip(*states, strict=True))


def pick_rows(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Select rows of ``yes`` where ``chosen`` (bool ``[B]``) is True, otherwise rows of ``no``; both ``[B, ...]``."""
    return yes.where(chosen.reshape(-1, *[1] * (yes.dim() - 1)), no)


def unstack(tree: Any) -> list[Any]:
    """Split a nested tuple of tensors ``[T, ...]`` into T nested tuples, one per step.

    Indexing would be slow: the backward pass of ``tensor[t]`` allocates a ``[T, ...]`` tensor of zeros for every t.
    """
    columns = [tensor.unbind() for tensor in tensors_of(tree)]
    rows = (iter(row) for row in zip(*columns, strict=True))
    return [nested(tree, row) for row in rows]


def nested(like: Any, tensors: Iterable[Any]) -> Any:
    """Arrange tensors in the order of `tensors_of` in a nested tuple like ``like``; None stays None.

    Of an iterator, only as many tensors are taken as ``like`` has.
    """
    return _nested(like, iter(tensors))


def _nested(like: Any, left: Iterator[Any]) -> Any:
    if isinstance(like, _NESTS):
        return tuple([_nested(part, left) for part in like])
    return None if like is None else next(left)


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors of a nested tuple, depth first; None is skipped."""
    if not isinstance(state, _NESTS):
        return [] if state is None else [state]
    found: list[Tensor] = []
    for part in state:
        if isinstance(part, _NESTS):
            found += tensors_of(part)
        elif part is not None:
            found.append(part)
    return found
