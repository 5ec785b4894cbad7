"""Tensors as formulas for the element at row b and column j.

A tensor ``[B, F]`` is a sequence of segments of its columns, each an `Expr`: a formula for the element at row b and
column j. ``split`` and ``cat`` only rearrange segments, so a chunk of a sum of two tensors is the sum of two chunks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.ir.program import Node, Unsupported, Value


@dataclass(eq=False)
class Array:
    """Memory with ``width`` numbers per row.

    It has one entry for each time step or one for all of them, and one row for each sequence or one for all of them.

    kind: ``input``, ``constant``, ``state``, ``output``, ``kept``, ``temporary``, ``upstream`` (the gradient of the
        output), ``carry`` (the gradients of the state), ``gradient`` (of a product or an input), ``sum`` (the gradient
        of a constant).
    """

    name: str
    width: int
    kind: str


@dataclass(frozen=True)
class Place:
    """Columns of an array from ``offset`` on, at this time step (``shift`` 0) or the next (1)."""

    array: Array
    offset: int
    shift: int = 0


class Expr:
    """A formula for the element at row b and column j: a load, a number, or an operation on other formulas.

    Equal formulas are one object, so that each is computed once. A formula of ``width`` 1 is the same for all columns.
    """

    __slots__ = ("args", "name", "op", "place", "width")

    def __init__(self, op: str, args: tuple, width: int, place: Place | None, name: str) -> None:
        self.op, self.args, self.width, self.place, self.name = op, args, width, place, name

    @property
    def operands(self) -> list[Expr]:
        """The formulas among its arguments."""
        return [arg for arg in self.args if isinstance(arg, Expr)]

    @property
    def reduces(self) -> bool:
        """Whether it reduces the columns of a row to one number."""
        return self.op in ("sum", "amax")


Segments = tuple[Expr, ...]


class Formulas:
    """The formulas of the values of a program, added node by node.

    Args:
        batch_size: the number of rows that the program was traced with.

    Attributes:
        unique: every formula, by its operation and arguments.
        segments: the formulas of each value.
        by_row: for values with one axis, whether it is the batch axis.
        multiplied: for the result of each product, its node and the formulas of its rows.
        cut_from: for a column range of a formula, that formula and the first column of the range.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.unique: dict[Any, Expr] = {}
        self.segments: dict[Value, Segments] = {}
        self.by_row: dict[Value, bool] = {}
        self.multiplied: dict[Array, tuple[Node, Segments]] = {}
        self.cut_from: dict[Expr, tuple[Expr, int]] = {}
        self._cuts: dict[tuple[Expr, int, int], Expr] = {}

    def expr(self, op: str, *args: Any, width: int = 1, place: Place | None = None, name: str = "") -> Expr:
        """Return the formula of an operation on formulas and numbers; the same object for equal arguments."""
        key = (op, args, place, width)
        if key not in self.unique:
            self.unique[key] = Expr(op, args, width, place, name)
        return self.unique[key]

    def load(self, array: Array, offset: int = 0, width: int | None = None, shift: int = 0) -> Expr:
        """Load columns of an array."""
        width = array.width if width is None else width
        return self.expr("load", width=width, place=Place(array, offset, shift), name=array.name)

    def apply(self, op: str, args: Iterable[Any], name: str = "") -> Expr:
        """Return an operation as wide as its widest operand."""
        args = tuple(args)
        width = max((arg.width for arg in args if isinstance(arg, Expr)), default=1)
        return self.expr(op, *args, width=width, name=name)

    def cut(self, expr: Expr, offset: int, width: int) -> Expr:
        """Return the columns ``offset`` to ``offset + width`` of a formula."""
        if expr.width == width or expr.width == 1:
            return expr
        key = (expr, offset, width)
        if key not in self._cuts:
            if expr.place:
                made = self.load(expr.place.array, expr.place.offset + offset, width, expr.place.shift)
            elif expr.op == "spread":
                made = self.expr("spread", *expr.args, width=width, name=expr.name)
            else:
                args = (self.cut(a, offset, width) if isinstance(a, Expr) else a for a in expr.args)
                made = self.apply(expr.op, args, expr.name)
            self._cuts[key] = made
            whole, before = self.cut_from.get(expr, (expr, 0))
            self.cut_from.setdefault(made, (whole, before + offset))
        return self._cuts[key]

    def columns(self, segments: Segments, offset: int, width: int) -> Segments:
        """Return the columns ``offset`` to ``offset + width`` of a tensor."""
        found, start = [], 0
        for segment in segments:
            low, high = max(offset, start), min(offset + width, start + segment.width)
            if low < high:
                found.append(self.cut(segment, low - start, high - low))
            start += segment.width
        return tuple(found)

    def elementwise(self, op: str, args: Iterable[Any], name: str) -> Segments:
        """Apply an operation to tensors and numbers, segment by segment."""
        args = tuple(args)
        tensors = [arg for arg in args if isinstance(arg, tuple)]
        total = max((width_of(tensor) for tensor in tensors), default=1)
        ends = {0, total}
        for tensor in tensors:
            if width_of(tensor) == total:
                ends |= {sum(s.width for s in tensor[: i + 1]) for i in range(len(tensor))}
        ends = sorted(ends)
        result = []
        for low, high in pairwise(ends):
            pieces = []
            for arg in args:
                if not isinstance(arg, tuple):
                    pieces.append(arg)
                elif width_of(arg) == 1:
                    pieces.append(arg[0])
                else:
                    pieces.append(self.columns(arg, low, high - low)[0])
            one = self.apply(op, pieces, name if len(ends) == 2 else f"{name}_{len(result)}")
            if one.width < high - low:  # it depends on numbers and row-wise values only: repeat it over the columns
                one = self.expr("spread", one, width=high - low, name=name)
            result.append(one)
        return tuple(result)

    def reduce(self, op: str, segments: Segments, name: str) -> Segments:
        """Reduce the columns by sum or maximum: within each segment, then over the segments."""
        parts = [self.expr(op, segment, width=1, name=name) for segment in segments]
        whole = parts[0]
        for part in parts[1:]:
            whole = self.apply("add" if op == "sum" else "maximum", (whole, part), name)
        return (whole,)

    def leaf(self, value: Value, array: Array, shift: int = 0) -> None:
        """Declare that a value is loaded from an array."""
        self.segments[value] = (self.load(array, shift=shift),)

    def move(self, moved: dict[Array, Place]) -> None:
        """Redirect every load of these arrays to another place."""
        for expr in self.unique.values():
            if expr.place and expr.place.array in moved:
                at = moved[expr.place.array]
                expr.place = Place(at.array, at.offset + expr.place.offset, at.shift)

    def shape_of(self, value: Value) -> tuple[int, ...]:
        """Return the shape of a value; refuse empty shapes and shapes with more than two axes."""
        if len(value.shape) > 2 or 0 in value.shape:
            sizes = ["B" if size == self.batch_size and not i else str(size) for i, size in enumerate(value.shape)]
            raise Unsupported(f"a tensor of shape [{', '.join(sizes)}]")
        return value.shape

    def get(self, value: Value) -> Segments:
        """Return the formulas of a value."""
        if value not in self.segments:
            raise Unsupported(f"an operation on the weight {value} other than a product")
        return self.segments[value]

    def columns_of(self, value: Value) -> int:
        """Return the number of columns of a value."""
        shape = self.shape_of(value)
        return 1 if not shape or (len(shape) == 1 and self.by_row.get(value)) else shape[-1]

    def node(self, node: Node, prefix: str) -> None:
        """Add the formulas of the results of a node; the names of products start with ``prefix``."""
        op, args, result = node.operation, node.arguments, node.results[0]
        if op == "t":
            return
        self.shape_of(result)
        if op == "mm":
            array = Array(f"{prefix}{len(self.multiplied)}", result.shape[1], "temporary")
            rows = self.get(args[0])
            if all(expr.place and expr.place.array.kind == "constant" for expr in rows):
                raise Unsupported("a product of two constants; compute it in prepare")
            self.multiplied[array] = (node, rows)
            self.segments[result] = (self.load(array),)
        elif op == "split":
            whole, sizes, dim = args
            self.last_axis(op, whole, dim)
            start = 0
            for piece, size in zip(node.results, sizes, strict=True):
                if size:
                    self.segments[piece] = self.columns(self.get(whole), start, size)
                start += size
        elif op == "cat":
            self.last_axis(op, args[0][0], args[1])
            if any(len(piece.shape) != len(result.shape) for piece in args[0]):
                raise Unsupported(op)
            self.segments[result] = tuple(segment for piece in args[0] for segment in self.get(piece))
        elif op in ("sum", "amax"):
            self.last_axis(op, *args)
            self.segments[result] = self.reduce(op, self.get(args[0]), result.name)
        elif op in ("squeeze", "unsqueeze"):
            self.axes(op, args[0], result, args[1])
            self.segments[result] = self.get(args[0])
        elif op in ("expand_as", "expand"):
            width = self.columns_of(result)
            segments = self.get(args[0])
            if width_of(segments) < width:
                segments = (self.expr("spread", segments[0], width=width, name=result.name),)
            self.segments[result] = segments
        elif op == "sum_to":  # the gradient of a constant is summed over the rows when it is accumulated
            segments, width = self.get(args[0]), self.columns_of(args[1])
            narrower = width < width_of(segments)
            self.segments[result] = self.reduce("sum", segments, result.name) if narrower else segments
        elif OPERATIONS[op].c is not None:
            self.same_rows(op, [a for a in args if isinstance(a, Value)], result)
            if op in ("detach", "as_number"):
                self.segments[result] = self.get(args[0])
            elif op in ("zeros_like", "ones_like"):
                number = self.expr("spread", float(op == "ones_like"), width=self.columns_of(result), name=result.name)
                self.segments[result] = (number,)
            else:
                given = (self.get(a) if isinstance(a, Value) else a for a in args)
                self.segments[result] = self.elementwise(op, given, result.name)
        else:
            raise Unsupported(op)

    def last_axis(self, op: str, value: Value, dim: int) -> None:
        """Refuse an operation along an axis other than the columns."""
        if dim % max(len(value.shape), 1) != len(value.shape) - 1 or (len(value.shape) == 1 and self.by_row.get(value)):
            raise Unsupported(f"{op} over the sequences of a batch")

    def axes(self, op: str, value: Value, result: Value, dim: int) -> None:
        """Check the axis that ``squeeze`` or ``unsqueeze`` removes or adds, and note which axis the vector has."""
        flat, full = (value, result) if op == "unsqueeze" else (result, value)
        if len(full.shape) == 1 and not self.by_row.get(full):
            return  # one element of a vector
        if len(full.shape) != 2:
            raise Unsupported(op)
        by_row = dim == 1
        if op == "unsqueeze" and by_row != bool(self.by_row.get(flat)):
            raise Unsupported(f"{op} of an axis other than the rows")
        if op == "squeeze" and not by_row and self.batch_size > 1 and full.shape[0] != 1:
            raise Unsupported(op)
        self.by_row[flat] = by_row

    def same_rows(self, op: str, values: list[Value], result: Value) -> None:
        """Refuse operations that would combine the batch axis of one value with the columns of another."""
        flat = [value for value in values if len(value.shape) == 1]
        kinds = {bool(self.by_row.get(value)) for value in flat if value.shape != (1,)}
        if len(kinds) > 1 or (True in kinds and len(result.shape) > 1):
            raise Unsupported(f"{op} of a vector along the rows and a tensor along the columns")
        self.by_row[result] = len(result.shape) == 1 and True in kinds

    def row_width(self, value: Value) -> int:
        """Return the number of columns of an input or a state."""
        shape = self.shape_of(value)
        if len(shape) == 1:
            self.by_row[value] = True
            return 1
        if not shape or shape[0] not in (1, self.batch_size):
            raise Unsupported(f"a value per step of shape {list(shape)}")
        return shape[1]


def width_of(segments: Segments) -> int:
    """Return the total number of columns of segments."""
    return sum(segment.width for segment in segments)
