"""Where the values of a step with heads are: every value of one head is a number, a vector or a matrix.

The states of such a step have a head axis after the batch axis, and the step combines no two heads. A value
``[B, heads, ...]`` has the axes after the head axis; ``[B, heads * d]`` is ``[B, heads, d]`` in memory. Operations that
only change the shape are views of other values.

All heads share a value ``[B, 1, ...]``. Each head computes it. Of its gradient each head computes a part, and the parts
of all heads are summed after the last step. Until then they need not be complete, as a shared value depends on shared
values only, and their gradients are linear functions of its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from rnnlab.engine.ir.derive import Backward
from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.ir.program import Node, Program, Unsupported, Value, values_of

Shape = tuple[int, ...]
RESHAPES = ("squeeze", "unsqueeze", "flatten", "unflatten")
EXPANDS = ("expand", "expand_as")
REDUCES = ("sum", "amax", "sum_to")


@dataclass(frozen=True)
class View:
    """A value of one head as a view of another value: its shape, and the strides of its axes in the memory of that."""

    base: Value
    shape: Shape
    strides: Shape

    def index(self, axes: list[str]) -> str:
        """Return the index of an element; ``axes`` are the indices of the domain's axes, aligned at the last axis."""
        used = axes[len(axes) - len(self.shape) :]
        terms = [
            axis if stride == 1 else f"{axis} * {stride}"
            for axis, size, stride in zip(used, self.shape, self.strides, strict=True)
            if size > 1 and stride
        ]
        return " + ".join(terms) or "0"


@lru_cache(maxsize=1024)
def natural(shape: Shape) -> Shape:
    """Return the strides of a contiguous array."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


class Layout:
    """The views and operands of a step with heads.

    Args:
        program: the step.
        batch_size: the number of sequences that the step was traced with.

    Attributes:
        heads: the number of heads.
        views: the view of every value except constants.
        operands: the arguments of every node that computes something, as views and numbers.
        domains: the shape over which every such node is computed.
        by_head: for every constant, whether its first axis is the heads.
        shared: the values that all heads share.

    Raises:
        Unsupported: the states have no common head axis.
    """

    def __init__(self, program: Program, batch_size: int) -> None:
        self.batch_size = batch_size
        heads = {value.shape[1] if len(value.shape) > 1 else 0 for value in program.state}
        if len(heads) != 1 or all(len(value.shape) < 3 for value in program.state):
            raise Unsupported("states without a common axis of heads")
        (self.heads,) = heads
        self.constants = set(program.constants)
        self.views: dict[Value, View] = {}
        self.operands: dict[Node, list[Any]] = {}
        self.domains: dict[Node, Shape] = {}
        self.by_head: dict[Value, bool] = {}
        self.shared: set[Value] = set()
        self.of_constant: set[Value] = set()  # gradients of constants, which have no batch axis
        self.leaves([*program.inputs, *program.state])

    def leaves(self, values: list[Value]) -> None:
        """Add values that are arrays."""
        for value in values:
            shape = self.inner(value)
            self.views[value] = View(value, shape, natural(shape))

    def inner(self, value: Value) -> Shape:
        """Return the shape of a value of one head."""
        shape = value.shape
        if 2 <= len(shape) <= 4 and shape[0] == self.batch_size and 0 not in shape:
            if shape[1] == 1 < self.heads:
                self.shared.add(value)
                return tuple(shape[2:])
            if len(shape) == 2 and shape[1] % self.heads == 0:
                return () if shape[1] == self.heads else (shape[1] // self.heads,)
            if len(shape) > 2 and shape[1] == self.heads:
                return tuple(shape[2:])
        raise Unsupported(f"a tensor of shape {_named(shape, self.batch_size)} in a step with heads")

    def constant(self, value: Value, result: Shape) -> View:
        """Return a constant as an operand of a result with the shape ``result``."""
        missing = len(result) - len(value.shape)
        full = (1,) * missing + tuple(value.shape)
        if missing < 0 or full[0] != 1:
            raise Unsupported(f"a constant of shape {list(value.shape)} in a step with heads")
        by_head = full[1] > 1
        shape = full[2:] if len(result) > 2 else (full[1] // self.heads,) if full[1] > self.heads else ()
        if by_head and full[1] % self.heads:
            raise Unsupported(f"a constant of shape {list(value.shape)} in a step with heads")
        if self.by_head.setdefault(value, by_head) != by_head:
            raise Unsupported("a constant whose first axis is the heads in one operation only")
        return View(value, shape, natural(shape))

    def add(self, node: Node) -> None:
        """Add a node, whose arguments are known."""
        op, result = node.operation, node.results[0]
        if op in RESHAPES or op in EXPANDS:
            self.views[result] = self._viewed(op, node.arguments[0], result)
            return
        if op in ("sum", "amax"):
            x, dim = node.arguments
            if x not in self.views or dim % len(x.shape) < 2:
                raise Unsupported(f"{op} over the heads or over a constant")
            self.operands[node], self.domains[node] = [self.views[x]], self.views[x].shape
            self.leaves([result])
        elif op == "sum_to":
            x, like = node.arguments
            self.operands[node], self.domains[node] = [self.views[x]], self.views[x].shape
            if like in self.constants:
                self.of_constant.add(result)
                shape = self.constant(like, x.shape).shape
                self.views[result] = View(result, shape, natural(shape))
            elif len(like.shape) == len(x.shape):
                self.leaves([result])
            else:
                raise Unsupported("a gradient that is summed over the heads")
        elif OPERATIONS[op].c is not None:
            self._elementwise(node, result)
        else:
            raise Unsupported(f"{op} in a step with heads")

    def reduces(self, node: Node) -> bool:
        """Whether a node reduces elements of a head; the others only sum over the heads and the batch."""
        return node.operation in REDUCES and prod(self.domains[node]) > prod(self.views[node.results[0]].shape)

    def formula(self, node: Node) -> str:
        """Return the C expression of a node that does not reduce."""
        return "{}" if node.operation in REDUCES else OPERATIONS[node.operation].c

    def _viewed(self, op: str, x: Value, result: Value) -> View:
        if x not in self.views or x in self.of_constant:
            raise Unsupported(f"{op} of a constant in a step with heads")
        view, shape = self.views[x], self.inner(result)
        if op in RESHAPES:
            return _reshaped(view, shape)
        pairs = zip(view.shape, view.strides, shape, strict=True)
        return View(view.base, shape, tuple(stride if size == wanted else 0 for size, stride, wanted in pairs))

    def _elementwise(self, node: Node, result: Value) -> None:
        values = values_of(node.arguments)
        if self.constants.issuperset(values):
            raise Unsupported("arithmetic of constants; compute it in prepare")
        if self.of_constant.intersection(values):
            if not self.of_constant.issuperset(values):
                raise Unsupported("a gradient of a constant in a step with heads")
            self.of_constant.add(result)
            self.views[result] = View(result, self.views[values[0]].shape, self.views[values[0]].strides)
        else:
            self.leaves([result])
        known = [value for value in values if value not in self.constants]
        if any(len(value.shape) != len(result.shape) for value in known):
            raise Unsupported("operands with different numbers of axes in a step with heads")
        self.domains[node] = self.views[result].shape
        self.operands[node] = [
            argument
            if not isinstance(argument, Value)
            else self.constant(argument, result.shape)
            if argument in self.constants
            else self.views[argument]
            for argument in node.arguments
        ]


def laid_out(program: Program, back: Backward, batch_size: int) -> Layout:
    """Return the layout of a step and its backward step.

    Args:
        program: the step.
        back: its backward step.
        batch_size: the number of sequences that the step was traced with.

    Raises:
        Unsupported: the states have no common head axis, or the step combines heads.
    """
    if back.products:
        raise Unsupported("mm in a step with heads")
    layout = Layout(program, batch_size)
    for node in program.nodes:
        layout.add(node)
    if program.output in layout.shared:
        raise Unsupported("an output that all heads share")
    layout.leaves([back.output_gradient, *back.state_gradients])
    for node in back.nodes:
        layout.add(node)
    return layout


def _reshaped(view: View, shape: Shape) -> View:
    """Return a view with another shape and the same number of elements."""
    if prod(view.shape) != prod(shape):
        raise Unsupported("another shape of a value that all heads share")
    strides = [stride for size, stride in zip(view.shape, view.strides, strict=True) if size > 1]
    if [size for size in view.shape if size > 1] == [size for size in shape if size > 1]:
        remaining = iter(strides)
        return View(view.base, shape, tuple(next(remaining) if size > 1 else 0 for size in shape))
    sizes = tuple(size for size in view.shape if size > 1)
    if tuple(strides) != natural(sizes):
        raise Unsupported("another shape of a broadcast tensor")
    return View(view.base, shape, natural(shape))


def _named(shape: Shape, batch_size: int) -> str:
    sizes = ["B" if size == batch_size and not i else str(size) for i, size in enumerate(shape)]
    return f"[{', '.join(sizes)}]"
