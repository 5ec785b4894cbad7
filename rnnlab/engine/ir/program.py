"""A step as data: an ordered list of operations and the values that they compute.

`rnnlab.engine.ir.trace` makes a `Program` of a cell, `rnnlab.engine.ir.derive` differentiates it, and
`rnnlab.engine.ir.emit_python` and `rnnlab.engine.cpu.emit` print it as Python and as C.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from math import prod
from typing import Any
from weakref import WeakValueDictionary


class Unsupported(Exception):
    """The step uses something that cannot be traced, differentiated or compiled. The message is a noun phrase."""


class Extent(int):
    """An integer that is a size of a tensor. Unlike other numbers in a step, it changes with the width of the layer."""


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor of a program: its name, and its shape when the step was traced."""

    name: str
    shape: tuple[int, ...] = field(repr=False)

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Node:
    """``results = operation(*arguments)``; arguments are Values, numbers, or lists of them."""

    operation: str
    arguments: tuple[Any, ...]
    results: tuple[Value, ...]


@dataclass(eq=False)
class Program:
    """A step: its leaves (constants of the sequence, inputs of one step, state), its operations, its results."""

    constants: list[Value]
    inputs: list[Value]
    state: list[Value]
    nodes: list[Node]
    output: Value
    new_state: list[Value]


_PROGRAMS: WeakValueDictionary[Any, Program] = WeakValueDictionary()


def interned(program: Program) -> Program:
    """Return the first program that is equal to ``program``, so that equal programs are derived and lowered once."""
    return _PROGRAMS.setdefault(_description(list(vars(program).values())), program)


def _description(part: Any) -> Any:
    """Return a hashable value that is equal for equal parts of programs."""
    if isinstance(part, list | tuple):
        return tuple(map(_description, part))
    if isinstance(part, Node):
        return part.operation, _description(part.arguments), _description(part.results)
    return (part.name, part.shape) if isinstance(part, Value) else (type(part), repr(part))


class Builder:
    """Builds a program: each method adds the operation of that name, such as ``b.add(x, y)``, and returns its value.

    Args:
        prefix: the prefix of the names of new values.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[Node] = []
        self._numbers: Iterator[int] = count()

    def fresh(self, shape: tuple[int, ...], prefix: str | None = None) -> Value:
        """Return a new value without a node."""
        return Value(f"{self.prefix if prefix is None else prefix}{next(self._numbers)}", tuple(shape))

    def node(self, operation: str, arguments: tuple[Any, ...], *shapes: tuple[int, ...]) -> tuple[Value, ...]:
        """Add a node with results of these shapes and return its values."""
        results = tuple(self.fresh(shape) for shape in shapes)
        self.nodes.append(Node(operation, arguments, results))
        return results

    def __getattr__(self, operation: str) -> Callable[..., Value]:
        def add(*arguments: Any) -> Value:
            shapes = [value.shape for value in values_of(arguments)]
            return self.node(operation, arguments, broadcast(*shapes))[0]

        return add

    def sum(self, x: Value, dim: int) -> Value:
        """Sum over an axis, which is kept with size 1."""
        return self.node("sum", (x, dim), _at(x.shape, dim, 1))[0]

    def amax(self, x: Value, dim: int) -> Value:
        """Take the maximum over an axis, which is kept with size 1."""
        return self.node("amax", (x, dim), _at(x.shape, dim, 1))[0]

    def squeeze(self, x: Value, dim: int) -> Value:
        """Remove an axis of size 1."""
        dim %= len(x.shape)
        return self.node("squeeze", (x, dim), x.shape[:dim] + x.shape[dim + 1 :])[0]

    def unsqueeze(self, x: Value, dim: int) -> Value:
        """Insert an axis of size 1."""
        dim %= len(x.shape) + 1
        return self.node("unsqueeze", (x, dim), (*x.shape[:dim], 1, *x.shape[dim:]))[0]

    def expand_as(self, x: Value, like: Value) -> Value:
        """Broadcast ``x`` to the shape of ``like``."""
        return self.node("expand_as", (x, like), like.shape)[0]

    def expand(self, x: Value, sizes: list[int]) -> Value:
        """Broadcast axes of size 1 to new sizes; -1 keeps an axis."""
        shape = tuple(old if size == -1 else size for old, size in zip(x.shape, sizes, strict=True))
        return self.node("expand", (x, sizes), shape)[0]

    def sum_to(self, x: Value, like: Value) -> Value:
        """Sum ``x`` over the axes along which ``like`` was broadcast."""
        return self.node("sum_to", (x, like), like.shape)[0]

    def split(self, x: Value, sizes: list[int], dim: int) -> tuple[Value, ...]:
        """Split ``x`` along an axis."""
        return self.node("split", (x, list(sizes), dim), *(_at(x.shape, dim, size) for size in sizes))

    def cat(self, pieces: list[Value], dim: int) -> Value:
        """Concatenate along an axis."""
        size = sum(piece.shape[dim] for piece in pieces)
        return self.node("cat", (list(pieces), dim), _at(pieces[0].shape, dim, size))[0]

    def flatten(self, x: Value) -> Value:
        """Merge all axes after the batch axis."""
        return self.node("flatten", (x,), (x.shape[0], prod(x.shape[1:])))[0]

    def unflatten(self, x: Value, sizes: list[int]) -> Value:
        """Replace the second of two axes by several axes."""
        return self.node("unflatten", (x, list(sizes)), (x.shape[0], *sizes))[0]

    def t(self, x: Value) -> Value:
        """Transpose a matrix."""
        return self.node("t", (x,), x.shape[::-1])[0]

    def mm(self, rows: Value, weight: Value) -> Value:
        """Multiply two matrices."""
        return self.node("mm", (rows, weight), (rows.shape[0], weight.shape[1]))[0]


def values_of(argument: Any) -> list[Value]:
    """List the Values in an argument of a node, at any depth of nesting."""
    if isinstance(argument, list | tuple):
        return [value for item in argument for value in values_of(item)]
    return [argument] if isinstance(argument, Value) else []


def needed(nodes: list[Node], results: Iterable[Value], known: Collection[Value] = ()) -> list[Node]:
    """Return the nodes that compute ``results`` from the ``known`` values and the leaves, in order."""
    wanted, kept = set(results).difference(known), []
    for node in reversed(nodes):
        if wanted.intersection(node.results):
            wanted.update(value for value in values_of(node.arguments) if value not in known)
            kept.append(node)
    return kept[::-1]


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of elementwise results. ``torch.broadcast_shapes`` would import SymPy, which takes 0.3 seconds.

    Raises:
        ValueError: the shapes do not match.
    """
    found = [1] * max(map(len, shapes), default=0)
    for shape in shapes:
        for place in range(-len(shape), 0):
            if found[place] == 1:
                found[place] = shape[place]
            elif shape[place] not in (1, found[place]):
                raise ValueError(f"the shapes {shapes} cannot be broadcast to one shape")
    return tuple(found)


def _at(shape: tuple[int, ...], dim: int, size: int) -> tuple[int, ...]:
    """Replace the size at ``dim``."""
    dim %= len(shape)
    return (*shape[:dim], size, *shape[dim + 1 :])
