"""From programs to loops: what is computed where, what is kept for the backward step, and in which memory.

A program speaks of tensors ``[B, F]``; a processor wants loops over rows and columns. Four ideas:

* A tensor is a row of segments, each an `Expr`: a formula for one number at row b and column j. Splitting and joining
  columns only rearranges segments, so that a chunk of a sum of two tensors is the sum of two chunks.
* A product with a weight needs its rows in memory, so it cuts the step into *stages*. Within a stage, a sum over the
  columns of a row cuts the work on that row into *levels*. All formulas of one stage, level and width are one `Loop`.
* What the backward step reads of the forward step is either done again, where that is cheap, or *kept*.
* The gradient of a product is written over what was kept, once that has been read: both have the same size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rnnlab.engine.derive import Backward, Product
from rnnlab.engine.operations import OPERATIONS
from rnnlab.engine.program import Node, Program, Unsupported, Value


@dataclass(eq=False)
class Array:
    """Memory: ``width`` numbers a row. It has the rows of every step, of one step, or is the same for all rows.

    kind: ``input``, ``constant``, ``state``, ``output``, ``kept``, ``temporary``, ``upstream`` (the gradient of the
        output), ``carry`` (the gradients of the state), ``gradient`` (of a product or an input), ``sum`` (the gradient
        of a constant).
    """

    name: str
    width: int
    kind: str


@dataclass(frozen=True)
class Place:
    """Columns of an array, at this step (``shift`` 0) or the next (1)."""

    array: Array
    offset: int
    shift: int = 0


class Expr:
    """A formula for one number at row b and column j: a load, a number, or an operation on other formulas.

    Of every formula there is only one, so that what is the same is computed once. ``width`` 1: it is the same for all
    columns.
    """

    __slots__ = ("args", "name", "op", "place", "width")

    def __init__(self, op: str, args: tuple, width: int, place: Place | None, name: str) -> None:
        self.op, self.args, self.width, self.place, self.name = op, args, width, place, name

    @property
    def operands(self) -> list[Expr]:
        """The formulas that this one is made of."""
        return [arg for arg in self.args if isinstance(arg, Expr)]

    @property
    def reduces(self) -> bool:
        """Whether it is taken over all columns of a row."""
        return self.op in ("sum", "amax")


Segments = tuple[Expr, ...]
Position = tuple[int, int]  # stage, level


@dataclass(eq=False)
class Store:
    """Write a formula to memory, or, ``accumulate``, add it there."""

    place: Place
    expr: Expr
    accumulate: bool = False


@dataclass(eq=False)
class Multiply:
    """``result = rows @ weight`` for the rows of a step; ``accumulate`` adds it to what is there.

    weight: place among the constants. transposed: with the weight's transpose. outer, inner: widths of result and rows.
    """

    rows: Place
    weight: int
    transposed: bool
    result: Place
    inner: int
    outer: int
    stage: int
    accumulate: bool = False


@dataclass(eq=False)
class Loop:
    """All work of one stage, level and width on a row."""

    stage: int
    level: int
    width: int
    stores: list[Store] = field(default_factory=list)
    reductions: list[Expr] = field(default_factory=list)


@dataclass
class Function:
    """One time step as stages: loops over rows, each followed by its products.

    known: formulas that lie in memory once they are computed: where, and from which stage and level on.
    position: the stage and level at which each formula can first be computed.
    """

    loops: list[Loop]
    products: list[Multiply]
    known: dict[Expr, tuple[Place, Position]]
    position: dict[Expr, Position]

    @property
    def stages(self) -> int:
        """How many stages there are."""
        return 1 + max([loop.stage for loop in self.loops] + [product.stage for product in self.products], default=0)

    def arrays(self) -> list[Array]:
        """Every array that is touched, in order of first touch."""
        found: dict[Array, None] = {}
        for loop in self.loops:
            for expr in self.computed(loop):
                if expr.place:
                    found.setdefault(expr.place.array)
            for store in loop.stores:
                found.setdefault(store.place.array)
        for product in self.products:
            found.setdefault(product.rows.array)
            found.setdefault(product.result.array)
        return list(found)

    def resolve(self, expr: Expr, at: Position) -> Expr | Place:
        """``expr``, or where to load it from at a stage and level."""
        place, since = self.known.get(expr, (None, at))
        return place if place and since < at else expr

    def computed(self, loop: Loop) -> list[Expr]:
        """All formulas that a loop evaluates or loads, operands first."""
        order: dict[Expr, None] = {}
        at = (loop.stage, loop.level)

        def visit(expr: Expr) -> None:
            if expr in order:
                return
            if not isinstance(self.resolve(expr, at), Place) and not (expr.reduces and self.position[expr] <= at):
                for operand in expr.operands:
                    visit(operand)
            order[expr] = None

        for store in loop.stores:
            visit(store.expr)
        for reduction in loop.reductions:
            for operand in reduction.operands:
                visit(operand)
        return list(order)


@dataclass
class Lowered:
    """A cell's step and backward step as loops.

    forward, inference: the step, with and without keeping what the backward step needs.
    backward: the backward step.
    inputs, states, carries: the arrays of inputs, states, and gradients of states.
    output: where the output is: an ``output`` array, or a state's.
    kept_inputs: places of the inputs that the backward step reads.
    input_gradients: for every input, the columns that hold its gradient; None where it gets none.
    constant_gradients: for every constant, its ``sum`` array; None where it gets none from single steps.
    by_row: those of them that have a row for every sequence.
    products: for every product with a weight: weight, whether transposed, rows, gradient.
    overwrites: arrays that may lie in the memory of an input: what the step writes there it has read before.
    """

    forward: Function
    inference: Function
    backward: Function
    inputs: list[Array]
    states: list[Array]
    carries: list[Array]
    output: Place
    kept_inputs: list[int]
    input_gradients: list[Place | None]
    constant_gradients: list[Array | None]
    by_row: set[Array]
    products: list[tuple[int, bool, Place, Place]]
    overwrites: dict[Array, int]


def lower(program: Program, back: Backward, batch_size: int) -> Lowered:
    """Turn a step and its backward step, traced with ``batch_size`` rows, into loops.

    Raises:
        Unsupported: there is a tensor that is not ``[B, F]``, nor a vector, nor a weight; or a mix of rows.
    """
    return _Lowering(program, back, batch_size).run()


class _Lowering:
    def __init__(self, program: Program, back: Backward, batch_size: int) -> None:
        self.program, self.back, self.batch_size = program, back, batch_size
        self.unique: dict[Any, Expr] = {}
        self.segments: dict[Value, Segments] = {}
        self.by_row: dict[Value, bool] = {}  # whether a value of one axis has it over the rows
        self.multiplied: dict[Array, tuple[Node, Segments]] = {}  # a product's result: its node, its rows
        self.weights = {value: i for i, value in reversed(list(enumerate(program.constants)))}
        self.transposed = {n.results[0]: n.arguments[0] for n in (*program.nodes, *back.nodes) if n.operation == "t"}

    # Formulas

    def expr(self, op: str, *args: Any, width: int = 1, place: Place | None = None, name: str = "") -> Expr:
        key = (op, args, place, width)
        if key not in self.unique:
            self.unique[key] = Expr(op, args, width, place, name)
        return self.unique[key]

    def load(self, array: Array, offset: int = 0, width: int | None = None, shift: int = 0) -> Expr:
        width = array.width if width is None else width
        return self.expr("load", width=width, place=Place(array, offset, shift), name=array.name)

    def apply(self, op: str, args: Iterable[Any], name: str = "") -> Expr:
        args = tuple(args)
        width = max((arg.width for arg in args if isinstance(arg, Expr)), default=1)
        return self.expr(op, *args, width=width, name=name)

    def cut(self, expr: Expr, offset: int, width: int) -> Expr:
        """Columns ``offset`` to ``offset + width`` of a formula."""
        if expr.width == width or expr.width == 1:
            return expr
        if expr.place:
            return self.load(expr.place.array, expr.place.offset + offset, width, expr.place.shift)
        if expr.op == "spread":
            return self.expr("spread", *expr.args, width=width, name=expr.name)
        args = (self.cut(a, offset, width) if isinstance(a, Expr) else a for a in expr.args)
        return self.apply(expr.op, args, expr.name)

    def columns(self, segments: Segments, offset: int, width: int) -> Segments:
        """Columns ``offset`` to ``offset + width`` of a tensor."""
        found, start = [], 0
        for segment in segments:
            low, high = max(offset, start), min(offset + width, start + segment.width)
            if low < high:
                found.append(self.cut(segment, low - start, high - low))
            start += segment.width
        return tuple(found)

    def elementwise(self, op: str, args: Iterable[Any], name: str) -> Segments:
        """An operation on tensors and numbers, segment by segment."""
        args = tuple(args)
        tensors = [arg for arg in args if isinstance(arg, tuple)]
        total = max((_width(tensor) for tensor in tensors), default=1)
        ends = {0, total}
        for tensor in tensors:
            if _width(tensor) == total:
                ends |= {sum(s.width for s in tensor[: i + 1]) for i in range(len(tensor))}
        ends = sorted(ends)
        result = []
        for low, high in pairwise(ends):
            pieces = []
            for arg in args:
                if not isinstance(arg, tuple):
                    pieces.append(arg)
                elif _width(arg) == 1:
                    pieces.append(arg[0])
                else:
                    pieces.append(self.columns(arg, low, high - low)[0])
            one = self.apply(op, pieces, name if len(ends) == 2 else f"{name}_{len(result)}")
            if one.width < high - low:  # numbers and row-wise values alone, repeated over the columns
                one = self.expr("spread", one, width=high - low, name=name)
            result.append(one)
        return tuple(result)

    def reduce(self, op: str, segments: Segments, name: str) -> Segments:
        """A sum or largest over the columns: over each segment, then over these."""
        parts = [self.expr(op, segment, width=1, name=name) for segment in segments]
        whole = parts[0]
        for part in parts[1:]:
            whole = self.apply("add" if op == "sum" else "maximum", (whole, part), name)
        return (whole,)

    # From nodes to formulas

    def leaf(self, value: Value, array: Array, shift: int = 0) -> None:
        self.segments[value] = (self.load(array, shift=shift),)

    def shape_of(self, value: Value) -> tuple[int, ...]:
        if len(value.shape) > 2 or 0 in value.shape:
            raise Unsupported(f"work on a tensor of shape {list(value.shape)}")
        return value.shape

    def get(self, value: Value) -> Segments:
        if value not in self.segments:
            raise Unsupported(f"an operation on the weight {value} other than a product")
        return self.segments[value]

    def columns_of(self, value: Value) -> int:
        """The width of a value's rows."""
        shape = self.shape_of(value)
        return 1 if not shape or (len(shape) == 1 and self.by_row.get(value)) else shape[-1]

    def node(self, node: Node, prefix: str) -> None:
        """Formulas for the results of a node."""
        op, args, result = node.operation, node.arguments, node.results[0]
        if op == "t":
            return
        self.shape_of(result)
        if op == "mm":
            array = Array(f"{prefix}{len(self.multiplied)}", result.shape[1], "temporary")
            rows = self.get(args[0])
            if all(expr.place and expr.place.array.kind == "constant" for expr in rows):
                raise Unsupported("a product of two constants; it belongs into prepare")
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
            if _width(segments) < width:
                segments = (self.expr("spread", segments[0], width=width, name=result.name),)
            self.segments[result] = segments
        elif op == "sum_to":  # over the rows later, where the gradient of a constant is summed up
            segments, width = self.get(args[0]), self.columns_of(args[1])
            narrower = width < _width(segments)
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
        if dim % max(len(value.shape), 1) != len(value.shape) - 1 or (len(value.shape) == 1 and self.by_row.get(value)):
            raise Unsupported(f"{op} over the sequences of a batch")

    def axes(self, op: str, value: Value, result: Value, dim: int) -> None:
        """Adding or taking away the axis of the columns, or of the rows of what has none."""
        flat, full = (value, result) if op == "unsqueeze" else (result, value)
        if len(full.shape) == 1 and not self.by_row.get(full):
            return  # one element of a vector
        if len(full.shape) != 2:
            raise Unsupported(op)
        by_row = dim == 1
        if op == "unsqueeze" and by_row != bool(self.by_row.get(flat)):
            raise Unsupported(f"{op} of an axis that is not the rows'")
        if op == "squeeze" and not by_row and self.batch_size > 1 and full.shape[0] != 1:
            raise Unsupported(op)
        self.by_row[flat] = by_row

    def same_rows(self, op: str, values: list[Value], result: Value) -> None:
        """No value over the rows may meet one over the columns as if they were the same axis."""
        flat = [value for value in values if len(value.shape) == 1]
        kinds = {bool(self.by_row.get(value)) for value in flat if value.shape != (1,)}
        if len(kinds) > 1 or (True in kinds and len(result.shape) > 1):
            raise Unsupported(f"{op} of a tensor over the rows and one over the columns")
        self.by_row[result] = len(result.shape) == 1 and True in kinds

    # The whole

    def run(self) -> Lowered:
        program, back = self.program, self.back
        self.inputs = [Array(v.name, self.row_width(v), "input") for v in program.inputs]
        self.states = [Array(v.name, self.row_width(v), "state") for v in program.state]
        for value, array in zip(program.inputs, self.inputs, strict=True):
            self.leaf(value, array)
        for value, array in zip(program.state, self.states, strict=True):
            if value.shape[0] != self.batch_size:
                raise Unsupported(f"a state of shape {list(value.shape)}")
            self.leaf(value, array)
        for value in program.constants:
            if len(value.shape) < 2 or (len(value.shape) == 2 and value.shape[0] in (1, self.batch_size)):
                width = value.shape[-1] if value.shape else 1
                self.leaf(value, Array(value.name, width, "constant"))
        for node in program.nodes:
            self.node(node, "u")
        count = len(self.multiplied)
        forward_products = dict(list(self.multiplied.items()))
        new_state = [self.get(value) for value in program.new_state]
        for array, segments in zip(self.states, new_state, strict=True):
            if _width(segments) != array.width:
                raise Unsupported(f"a state that goes from {array.width} to {_width(segments)} columns")
        output = self.get(program.output)

        self.upstream = Array("dy", self.columns_of(program.output), "upstream")
        self.leaf(back.output_gradient, self.upstream)
        self.carries = [Array(f"d{array.name}", array.width, "carry") for array in self.states]
        for value, array in zip(back.state_gradients, self.carries, strict=True):
            self.leaf(value, array, shift=1)
        for value, like in zip(
            (back.output_gradient, *back.state_gradients), (program.output, *program.new_state), strict=True
        ):
            self.by_row[value] = self.by_row.get(like, False)
        for node in back.nodes:
            self.node(node, "du")
        backward_products = dict(list(self.multiplied.items())[count:])

        self.choose_kept(new_state)
        return self.finish(forward_products, backward_products, new_state, output)

    def row_width(self, value: Value) -> int:
        shape = self.shape_of(value)
        if len(shape) == 1:
            self.by_row[value] = True
            return 1
        if not shape or shape[0] not in (1, self.batch_size):
            raise Unsupported(f"a value per step of shape {list(shape)}")
        return shape[1]

    # What is kept

    def choose_kept(self, new_state: list[Segments]) -> None:
        """Decide which formulas of the forward step are kept, and rewrite those of the backward step to read them."""
        self.after: dict[Expr, Expr] = {}
        for array, segments in zip(self.states, new_state, strict=True):
            start = 0
            for segment in segments:
                self.after.setdefault(segment, self.load(array, start, segment.width, shift=1))
                start += segment.width
        forward = {expr for value in self.forward_values() for expr in self.segments[value]}
        roots = [self.segments[value] for value in self.backward_values()]
        seen: set[Expr] = set()
        needed: dict[Expr, None] = {}
        inside: set[Expr] = set()
        stack = list(forward)
        while stack:  # everything the forward step computes
            expr = stack.pop()
            if expr not in inside:
                inside.add(expr)
                stack += expr.operands

        def visit(expr: Expr) -> None:
            if expr in seen:
                return
            seen.add(expr)
            if expr in inside:
                needed.setdefault(expr)
                return
            for operand in expr.operands:
                visit(operand)

        for segments in roots:
            for expr in segments:
                visit(expr)
        for rows in self.product_rows():
            for expr in rows:
                if expr.place is None or expr.place.array.kind in ("input", "temporary"):
                    needed.setdefault(expr)
        self.kept: dict[Expr, None] = {}
        self.kept_inputs = {e.place.array for e in needed if e.place and e.place.array.kind == "input"}
        costly = [e for e in needed if self.is_costly(e) and e not in self.after]
        for expr in costly:
            if not self.from_history(expr):
                self.kept.setdefault(expr)
        for expr in _operands_first(needed):  # so that what follows cheaply from what is kept is not kept, too
            if not self.is_free(expr):
                self.kept.setdefault(expr)
        self.joined: dict[Segments, Array] = {}
        for rows in self.product_rows():  # the weight's gradient wants the rows of every step in memory
            if len(rows) > 1:
                self.joined.setdefault(rows, Array(f"r{len(self.joined)}", _width(rows), "kept"))
            elif rows[0].place is None and rows[0] not in self.after:
                self.kept.setdefault(rows[0])

        self.memory = {expr: Array(f"k{i}", expr.width, "kept") for i, expr in enumerate(self.kept)}
        rewritten: dict[Expr, Expr] = {}

        def rewrite(expr: Expr) -> Expr:
            if expr not in rewritten:
                if expr in self.memory:
                    new = self.load(self.memory[expr])
                elif expr in self.after:
                    new = self.after[expr]
                elif expr.place or not expr.operands:
                    new = expr
                else:
                    args = tuple(rewrite(a) if isinstance(a, Expr) else a for a in expr.args)
                    new = self.expr(expr.op, *args, width=expr.width, name=expr.name)
                rewritten[expr] = new
            return rewritten[expr]

        self.rewritten = {v: tuple(rewrite(e) for e in self.segments[v]) for v in self.backward_values()}
        self.rewrite = rewrite

    def product_rows(self) -> list[Segments]:
        return [self.segments[product.rows] for product in self.back.products]

    def forward_values(self) -> list[Value]:
        made = [result for node in self.program.nodes for result in node.results]
        leaves = [*self.program.constants, *self.program.inputs, *self.program.state]
        return [value for value in (*leaves, *made) if value in self.segments]

    def backward_values(self) -> list[Value]:
        """The values that the backward step is there for."""
        rows = [n.arguments[0] for n in self.back.nodes if n.operation == "mm"]
        return [*self.back.gradients.values(), *(p.gradient for p in self.back.products), *rows]

    def is_costly(self, expr: Expr) -> bool:
        return expr.reduces or self.of_product(expr) or (expr.op in OPERATIONS and OPERATIONS[expr.op].costly)

    def of_product(self, expr: Expr) -> bool:
        return expr.place is not None and expr.place.array.kind == "temporary"

    def from_history(self, expr: Expr) -> bool:
        """Whether doing it again takes one costly operation on what is in memory anyway."""
        if expr.reduces or self.of_product(expr):
            return False
        return all(self.is_free(operand) and operand not in self.kept for operand in expr.operands)

    def is_free(self, expr: Expr) -> bool:
        """Whether the backward step has it, or can do it again cheaply."""
        if expr in self.kept or expr in self.after:
            return True
        if expr.place:
            array = expr.place.array
            return array.kind in ("constant", "state") or array in self.kept_inputs
        if self.is_costly(expr) and not self.from_history(expr):
            return False
        return all(self.is_free(operand) for operand in expr.operands)

    # Memory and order

    def finish(
        self,
        forward_products: dict[Array, tuple[Node, Segments]],
        backward_products: dict[Array, tuple[Node, Segments]],
        new_state: list[Segments],
        output: Segments,
    ) -> Lowered:
        states = [
            store
            for array, segments in zip(self.states, new_state, strict=True)
            for store in _stores(array, segments, shift=1)
        ]
        if output in new_state:
            out, visible = Place(self.states[new_state.index(output)], 0, 1), []
        else:
            array = Array("y", _width(output), "output")
            out, visible = Place(array, 0), _stores(array, output)
        gradients = self.gradient_arrays()
        backward = self.backward(backward_products, gradients)
        self.share(backward, gradients)
        keep = [Store(self.where_kept(expr), expr) for expr in self.kept]
        forward = self.schedule([*states, *visible, *keep], self.forward_multiplies(forward_products))
        inference = self.schedule([*states, *visible], self.forward_multiplies(forward_products, keep=False))
        products = [
            (self.weights[p.weight], p.transposed, self.rows_of(p), gradients[p.gradient]) for p in self.back.products
        ]
        left = dict(self.back.gradients)  # a tensor that a cell hands over twice gets its gradient once
        inputs = [gradients.get(left.pop(value, None)) for value in self.program.inputs]
        lowered = Lowered(
            forward,
            inference,
            backward,
            self.inputs,
            self.states,
            self.carries,
            out,
            [i for i, array in enumerate(self.inputs) if array in self.kept_inputs],
            inputs,
            self.sums,
            {
                a
                for a, v in zip(self.sums, self.program.constants, strict=True)
                if a and len(v.shape) == 2 and v.shape[0] > 1
            },
            products,
            {},
        )
        lowered.overwrites = self.overwrites(lowered, gradients)
        return lowered

    def where_kept(self, expr: Expr) -> Place:
        array = self.memory[expr]
        return self.shared.get(array, Place(array, 0))

    def rows_of(self, product: Product) -> Place:
        """Where the rows of a product lie, for all steps."""
        rows = self.segments[product.rows]
        if rows in self.joined:
            return Place(self.joined[rows], 0)
        if rows[0] in self.kept:
            return self.where_kept(rows[0])
        return self.after[rows[0]].place if rows[0] in self.after else rows[0].place

    def gradient_arrays(self) -> dict[Value, Place]:
        """Where the gradients of inputs and products are written; one memory for what is the same."""
        wanted = []
        for value in self.program.inputs:
            if value in self.back.gradients:
                if value.shape[0] != self.batch_size:
                    raise Unsupported("a gradient for what all sequences share at a step")
                wanted.append(self.back.gradients[value])
        wanted += [product.gradient for product in self.back.products]
        found: dict[Value, Place] = {}
        self.gradient_segments: dict[Array, Segments] = {}
        for value in sorted(dict.fromkeys(wanted), key=lambda v: -_width(self.rewritten[v])):
            segments = self.rewritten[value]
            for array, held in self.gradient_segments.items():
                offset = _find(segments, held)
                if offset is not None:
                    found[value] = Place(array, offset)
                    break
            else:
                array = Array(f"d{len(self.gradient_segments)}", _width(segments), "gradient")
                self.gradient_segments[array] = segments
                found[value] = Place(array, 0)
        return found

    def backward(self, products: dict[Array, tuple[Node, Segments]], gradients: dict[Value, Place]) -> Function:
        back = self.back
        stores = [s for array, segments in self.gradient_segments.items() for s in _stores(array, segments)]
        self.sums: list[Array | None] = []
        left = dict(back.gradients)
        for value in self.program.constants:
            gradient = left.pop(value, None)
            if gradient is None:
                self.sums.append(None)
                continue
            array = Array(f"d{value.name}", self.columns_of(value), "sum")
            self.sums.append(array)
            stores += _stores(array, self.rewritten[gradient], accumulate=True)
        into: dict[Array, Place] = {}
        adds: set[Array] = set()
        uses = self.uses([store.expr for store in stores], products)
        order = {array: i for i, array in enumerate(products)}
        multiplied = {array: self.rewritten[node.arguments[0]] for array, (node, _) in products.items()}
        stage = self.stages(multiplied)
        position = self.positions(stage)
        carried: dict[Array, Segments] = {}
        for value, array in zip(self.program.state, self.carries, strict=True):
            gradient = back.gradients.get(value)
            zero = (self.expr("spread", 0.0, width=array.width, name=array.name),)
            carried[array] = zero if gradient is None else self.rewritten[gradient]
        counts = dict(uses)
        for segments in carried.values():
            for expr in segments:
                counts[expr] = counts.get(expr, 0) + 1
        for array, segments in carried.items():
            if len(segments) != 1:
                stores += _stores(array, segments)
                continue
            # A product that is only ever added to the state's gradient is added by the product itself.
            (rest,) = segments
            peeled: list[Array] = []
            while rest.op == "add" and counts.get(rest) == 1:
                for expr, other in (rest.args, rest.args[::-1]):
                    at = expr.place.array if isinstance(expr, Expr) and expr.place else None
                    if (
                        at in products
                        and isinstance(other, Expr)
                        and counts.get(expr) == 1
                        and expr.width == array.width == at.width
                        and other.width == array.width
                        and at not in peeled
                        and self.before(other, products, position, stage, order, at)
                    ):
                        peeled.append(at)
                        rest = other
                        break
                else:
                    break
            for at in peeled:
                into[at] = Place(array, 0)
                adds.add(at)
            direct = rest.place.array if rest.place else None
            if direct in products and counts.get(rest) == 1 and rest.width == array.width == direct.width:
                into[direct] = Place(array, 0)
            else:
                stores.append(Store(Place(array, 0), rest))
        multiplies = []
        for array, (node, _) in products.items():
            weight = self.transposed.get(node.arguments[1], node.arguments[1])
            multiplies.append(
                Multiply(
                    gradients[node.arguments[0]],
                    self.weights[weight],
                    node.arguments[1] in self.transposed,
                    into.get(array, Place(array, 0)),
                    node.arguments[0].shape[1],
                    array.width,
                    stage[array],
                    array in adds,
                )
            )
        return self.schedule(stores, multiplies, stage)

    def before(
        self,
        rest: Expr,
        products: dict[Array, Any],
        position: Any,
        stage: dict[Array, int],
        order: dict[Array, int],
        product: Array,
    ) -> bool:
        """Whether ``rest`` is in memory before ``product`` is added to it."""
        if rest.place and rest.place.array in products:
            first = rest.place.array
            return (stage[first], order[first]) < (stage[product], order[product])
        return position(rest)[0] <= stage[product]

    def uses(self, exprs: list[Expr], products: dict[Array, Any]) -> dict[Expr, int]:
        """How often each formula is an operand or a result, over the whole backward step."""
        counts: dict[Expr, int] = {}
        gradients = [e for v in self.back.gradients.values() for e in self.rewritten[v]]
        seen: set[Expr] = set()
        stack = [*exprs, *gradients]
        for expr in exprs:
            counts[expr] = counts.get(expr, 0) + 1
        while stack:
            expr = stack.pop()
            if expr in seen:
                continue
            seen.add(expr)
            for operand in expr.operands:
                counts[operand] = counts.get(operand, 0) + 1
                stack.append(operand)
        return counts

    def forward_multiplies(self, products: dict[Array, tuple[Node, Segments]], keep: bool = True) -> list[Any]:
        multiplied = {array: rows for array, (_, rows) in products.items()}
        stage = self.stages(multiplied)
        self.forward_stage = stage
        self.extra: list[Store] = []
        found = []
        for array, (node, rows) in products.items():
            weight = self.transposed.get(node.arguments[1], node.arguments[1])
            place = self.operand(array, rows, keep)
            transposed = node.arguments[1] in self.transposed
            inner = node.arguments[0].shape[1]
            if weight not in self.weights:
                raise Unsupported("mm with a matrix that is not constant over the sequence")
            found.append(
                Multiply(place, self.weights[weight], transposed, Place(array, 0), inner, array.width, stage[array])
            )
        return found

    def operand(self, array: Array, rows: Segments, keep: bool) -> Place:
        """Where the rows of a product lie when it is done."""
        if len(rows) == 1:
            (expr,) = rows
            if expr.place and expr.place.array.kind in ("state", "input", "temporary"):
                return expr.place
            if keep and expr in self.kept:
                return self.where_kept(expr)
            if expr in self.after:
                return self.after[expr].place
        memory = self.joined.get(rows) if keep else None
        memory = memory or Array(f"r{array.name}", _width(rows), "temporary")
        self.extra += _stores(memory, rows)
        return Place(memory, 0)

    def stages(self, multiplied: dict[Array, Segments]) -> dict[Array, int]:
        """The stage after which each product is done: the first in which its rows are known."""
        stage: dict[Array, int] = {}
        for array, rows in multiplied.items():
            position = self.positions(stage)
            stage[array] = max(position(expr)[0] for expr in rows)
        return stage

    def positions(self, stage: dict[Array, int]) -> Any:
        """A function that says from which stage and level on a formula can be computed."""
        memo: dict[Expr, Position] = {}

        def position(expr: Expr) -> Position:
            if expr not in memo:
                if expr.place:
                    array = expr.place.array
                    memo[expr] = (stage[array] + 1, 0) if array in stage else (0, 0)
                else:
                    at = max((position(operand) for operand in expr.operands), default=(0, 0))
                    memo[expr] = (at[0], at[1] + 1) if expr.reduces else at
            return memo[expr]

        return position

    def schedule(
        self, stores: list[Store], products: list[Multiply], stage: dict[Array, int] | None = None
    ) -> Function:
        """Put every store into the first loop in which it can be done."""
        if stage is None:
            stage, stores = self.forward_stage, [*stores, *self.extra]
        position = self.positions(stage)
        function = Function([], products, {}, _Positions(position))
        loops: dict[tuple[int, int, int], Loop] = {}

        def loop_at(at: Position, width: int) -> Loop:
            return loops.setdefault((*at, width), Loop(*at, width))

        for store in stores:
            loop_at(position(store.expr), store.expr.width).stores.append(store)
            if not store.accumulate:
                function.known.setdefault(store.expr, (store.place, position(store.expr)))
        done: set[tuple[int, int, int]] = set()  # what a loop needs is only ever added to earlier ones
        while pending := [key for key in loops if key not in done]:
            key = max(pending)
            done.add(key)
            self.fill(loops[key], function, loop_at, position)
        function.loops = [loops[key] for key in sorted(loops)]
        return function

    def fill(self, loop: Loop, function: Function, loop_at: Any, position: Any) -> None:
        """Find what a loop needs from earlier ones: reductions, and costly formulas, which go into memory there."""
        at = (loop.stage, loop.level)
        seen: set[Expr] = set()

        def visit(expr: Expr) -> None:
            if expr in seen or expr.place:
                return
            seen.add(expr)
            place = function.resolve(expr, at)
            if isinstance(place, Place):
                return
            here = position(expr)
            if expr.reduces:
                before = position(expr.operands[0])
                earlier = loop_at(before, expr.operands[0].width)
                if expr not in earlier.reductions:
                    earlier.reductions.append(expr)
            later = here[0] < loop.stage if expr.width == 1 else here < at
            if later and self.is_heavy(expr, function, at):
                self.spill(expr, function, loop_at, here)
                return
            for operand in expr.operands:
                if not expr.reduces:
                    visit(operand)

        for store in loop.stores:
            visit(store.expr)
        for reduction in list(loop.reductions):
            visit(reduction.operands[0])

    def is_heavy(self, expr: Expr, function: Function, at: Position) -> bool:
        if expr.place or isinstance(function.resolve(expr, at), Place):
            return False
        return self.is_costly(expr) or any(self.is_heavy(operand, function, at) for operand in expr.operands)

    def spill(self, expr: Expr, function: Function, loop_at: Any, here: Position) -> None:
        """Put a formula into memory where it is first known, for those who need it later."""
        place = Place(Array(f"m{len(self.unique)}", expr.width, "temporary"), 0)
        self.unique[place] = expr
        loop_at(here, expr.width).stores.append(Store(place, expr))
        function.known[expr] = (place, here)

    # Memory that is used twice

    def share(self, backward: Function, gradients: dict[Value, Place]) -> None:
        """Let what is kept lie where a gradient is written over it once it has been read."""
        self.shared: dict[Array, Place] = {}
        last: dict[Array, tuple[int, bool]] = {}  # the last loop that reads it, and whether column for column
        for number, loop in enumerate(backward.loops):
            for expr in backward.computed(loop):
                place = backward.resolve(expr, (loop.stage, loop.level))
                place = place if isinstance(place, Place) else expr.place
                if place and place.array.kind == "kept":
                    aligned = expr.width == place.array.width == loop.width
                    if last.get(place.array, (-1, True))[0] == number:
                        aligned &= last[place.array][1]
                    last[place.array] = (number, aligned)
        operands = {product.rows for product in self.back.products}
        rows = {self.memory[e] for v in operands for e in self.segments[v] if e in self.memory}
        slots = [
            (store.place, store.expr.width, number)
            for number, loop in enumerate(backward.loops)
            for store in loop.stores
            if store.place.array.kind == "gradient"
        ]
        for array in self.memory.values():
            if array in rows:
                continue  # read once more, after the last step
            for slot in slots:
                place, width, written = slot
                read, aligned = last.get(array, (-1, True))
                if width == array.width and (read < written or (read == written and aligned)):
                    self.shared[array] = place
                    slots.remove(slot)
                    break
        for expr in self.unique.values():
            if expr.place and expr.place.array in self.shared:
                at = self.shared[expr.place.array]
                expr.place = Place(at.array, at.offset + expr.place.offset, at.shift)

    def overwrites(self, lowered: Lowered, gradients: dict[Value, Place]) -> dict[Array, int]:
        """Gradient arrays that may lie in an input's memory, as each column of it is read before it is written."""
        found: dict[Array, int] = {}
        for i, source in enumerate(self.inputs):
            if source in self.kept_inputs or source in found.values():
                continue
            for target in self.gradient_segments:
                if target.width != source.width or target in found:
                    continue
                if self.reads_first(lowered.forward, source, target):
                    found[target] = i
                    break
        return found

    @staticmethod
    def reads_first(function: Function, source: Array, target: Array) -> bool:
        writes = [
            ((loop.stage, loop.level), loop.width, store.place.offset)
            for loop in function.loops
            for store in loop.stores
            if store.place.array is target
        ]
        if any(product.rows.array is source for product in function.products):
            return False
        for loop in function.loops:
            at = (loop.stage, loop.level)
            for expr in function.computed(loop):
                if not expr.place or expr.place.array is not source:
                    continue
                low, high = expr.place.offset, expr.place.offset + expr.width
                for when, width, offset in writes:
                    if (
                        offset < high
                        and low < offset + width
                        and (when < at or (when == at and (offset, width) != (low, loop.width)))
                    ):
                        return False
        return True


class _Positions(dict):
    """A dict that computes what it lacks."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def __missing__(self, expr: Expr) -> Position:
        self[expr] = self.function(expr)
        return self[expr]


def _width(segments: Segments) -> int:
    return sum(segment.width for segment in segments)


def _stores(array: Array, segments: Segments, shift: int = 0, accumulate: bool = False) -> list[Store]:
    stores, start = [], 0
    for segment in segments:
        stores.append(Store(Place(array, start, shift), segment, accumulate))
        start += segment.width
    return stores


def _operands_first(exprs: Iterable[Expr]) -> list[Expr]:
    """The same formulas, each after those that it is made of."""
    order: dict[Expr, None] = {}

    def visit(expr: Expr) -> None:
        if expr not in order:
            for operand in expr.operands:
                visit(operand)
            order[expr] = None

    wanted = set(exprs)
    for expr in exprs:
        visit(expr)
    return [expr for expr in order if expr in wanted]


def _find(part: Segments, whole: Segments) -> int | None:
    """The column at which the segments of ``part`` stand, in a row, among those of ``whole``."""
    for i in range(len(whole) - len(part) + 1):
        if whole[i : i + len(part)] == part:
            return _width(whole[:i])
    return None
