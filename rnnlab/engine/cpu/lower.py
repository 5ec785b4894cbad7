"""From programs to loops: what is computed where, what is kept for the backward step, and in which memory.

A program speaks of tensors ``[B, F]``; a processor wants loops over rows and columns. `rnnlab.engine.cpu.formulas` says
what stands at row b and column j, `rnnlab.engine.cpu.schedule` in which loop it is computed. Here it is decided

* what the backward step reads of the forward step: what is cheap is done again, the rest is *kept*;
* where everything lies: the gradient of a product is written over what was kept, once that has been read, and both may
  lie in the memory of an input that nobody else needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rnnlab.engine.cpu.formulas import Array, Expr, Formulas, Place, Segments, width_of
from rnnlab.engine.cpu.schedule import (
    Function,
    Multiply,
    Store,
    is_costly,
    of_product,
    positions,
    schedule,
    stages,
    stores_of,
)
from rnnlab.engine.ir.derive import Backward, Product
from rnnlab.engine.ir.program import Node, Program, Unsupported, Value


@dataclass
class Lowered:
    """A cell's step and backward step as loops.

    forward, inference: the step, with and without keeping what the backward step needs.
    backward: the backward step.
    constants: the names of the constants.
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
    constants: list[str]
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


class _Lowering(Formulas):
    def __init__(self, program: Program, back: Backward, batch_size: int) -> None:
        super().__init__(batch_size)
        self.program, self.back = program, back
        self.weights = {value: i for i, value in reversed(list(enumerate(program.constants)))}
        self.transposed = {n.results[0]: n.arguments[0] for n in (*program.nodes, *back.nodes) if n.operation == "t"}

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
            if width_of(segments) != array.width:
                raise Unsupported(f"a state that goes from {array.width} to {width_of(segments)} columns")
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

    # What is kept

    def choose_kept(self, new_state: list[Segments]) -> None:
        """Decide which formulas of the forward step are kept, and rewrite those of the backward step to read them."""
        self.after: dict[Expr, Expr] = {}
        for array, segments in zip(self.states, new_state, strict=True):
            start = 0
            for segment in segments:
                self.after.setdefault(segment, self.load(array, start, segment.width, shift=1))
                start += segment.width
        needed = self.needed()
        self.kept_inputs = {e.place.array for e in needed if e.place and e.place.array.kind == "input"}
        self.kept: dict[Expr, None] = {}
        free: set[Expr] = set()  # what the backward step has, or can do again cheaply
        history: set[Expr] = set()  # those of them that take nothing that is kept
        for expr in _operands_first(needed):
            everything = expr.operands
            if expr in self.after or (expr.place and not of_product(expr) and self.stays(expr.place.array)):
                free.add(expr)
                history.add(expr)
            elif expr.place or expr.reduces:
                pass
            elif history.issuperset(everything):  # one costly operation on what is in memory anyway is worth less
                free.add(expr)
                if not is_costly(expr):
                    history.add(expr)
            elif not is_costly(expr) and (
                all(o in free or o in self.kept for o in everything) or (expr in needed and self.keep_less(expr, free))
            ):
                free.add(expr)
            if expr in needed and expr not in free:
                self.kept.setdefault(expr)
        self.joined: dict[Segments, Array] = {}
        for rows in self.product_rows():  # the weight's gradient wants the rows of every step in memory
            if len(rows) > 1:
                self.joined.setdefault(rows, Array(f"r{len(self.joined)}", width_of(rows), "kept"))
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
                elif whole := self.known_whole(expr):
                    new = self.cut(rewrite(whole), self.cut_from[expr][1], expr.width)
                elif expr.place or not expr.operands:
                    new = expr
                else:
                    args = tuple(rewrite(a) if isinstance(a, Expr) else a for a in expr.args)
                    new = self.expr(expr.op, *args, width=expr.width, name=expr.name)
                rewritten[expr] = new
            return rewritten[expr]

        self.rewritten = {v: tuple(rewrite(e) for e in self.segments[v]) for v in self.backward_values()}

    def keep_less(self, expr: Expr, free: set[Expr]) -> bool:
        """Keep, instead of a formula, a number for each row and the inputs that it is made of; False if it is not."""
        missing = [operand for operand in expr.operands if operand not in free and operand not in self.kept]
        narrow = [operand for operand in missing if operand.width == 1]
        inputs = [operand for operand in missing if operand.place and operand.place.array.kind == "input"]
        if expr.width == 1 or not narrow or not {*missing} <= {*narrow, *inputs}:
            return False
        self.kept_inputs |= {operand.place.array for operand in inputs}
        self.kept |= dict.fromkeys(operand for operand in narrow if operand not in inputs)
        free.update(inputs)
        return True

    def needed(self) -> dict[Expr, None]:
        """The formulas of the forward step that the backward step reads."""
        self.inside = set(_operands_first(e for value in self.forward_values() for e in self.segments[value]))
        found: dict[Expr, None] = {}
        seen: set[Expr] = set()

        def visit(expr: Expr) -> None:
            if expr in seen:
                return
            seen.add(expr)
            expr = self.known_whole(expr) or expr
            if expr in self.inside:
                found.setdefault(expr)
                return
            for operand in expr.operands:
                visit(operand)

        for value in self.backward_values():
            for expr in self.segments[value]:
                visit(expr)
        for rows in self.product_rows():
            for expr in rows:
                if expr.place is None or expr.place.array.kind in ("input", "temporary"):
                    found.setdefault(expr)
        return found

    def known_whole(self, expr: Expr) -> Expr | None:
        """The formula of the forward step that these are columns of; None where the forward step has them themselves,
        or not at all.
        """
        whole, _ = self.cut_from.get(expr, (expr, 0))
        return whole if expr not in self.inside and whole in self.inside else None

    def stays(self, array: Array) -> bool:
        """Whether an array is still as it was when the backward step comes."""
        return array.kind in ("constant", "state") or array in self.kept_inputs

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
            for store in stores_of(array, segments, shift=1)
        ]
        if output in new_state:
            out, visible = Place(self.states[new_state.index(output)], 0, 1), []
        else:
            array = Array("y", width_of(output), "output")
            out, visible = Place(array, 0), stores_of(array, output)
        gradients = self.gradient_arrays()
        backward = self.backward(backward_products, gradients)
        self.share(backward)
        forward = self.forward(forward_products, [*states, *visible], keep=True)
        inference = self.forward(forward_products, [*states, *visible], keep=False)
        products = [
            (self.weights[p.weight], p.transposed, self.rows_of(p), gradients[p.gradient]) for p in self.back.products
        ]
        left = dict(self.back.gradients)  # a tensor that a cell hands over twice gets its gradient once
        inputs = [gradients.get(left.pop(value, None)) for value in self.program.inputs]
        return Lowered(
            forward,
            inference,
            backward,
            [value.name for value in self.program.constants],
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
            self.overwrites(forward),
        )

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
        for value in sorted(dict.fromkeys(wanted), key=lambda v: -width_of(self.rewritten[v])):
            segments = self.rewritten[value]
            for array, held in self.gradient_segments.items():
                offset = _find(segments, held)
                if offset is not None:
                    found[value] = Place(array, offset)
                    break
            else:
                array = Array(f"d{len(self.gradient_segments)}", width_of(segments), "gradient")
                self.gradient_segments[array] = segments
                found[value] = Place(array, 0)
        return found

    def backward(self, products: dict[Array, tuple[Node, Segments]], gradients: dict[Value, Place]) -> Function:
        stores = [s for array, segments in self.gradient_segments.items() for s in stores_of(array, segments)]
        self.sums: list[Array | None] = []
        left = dict(self.back.gradients)
        for value in self.program.constants:
            gradient = left.pop(value, None)
            self.sums.append(None if gradient is None else Array(f"d{value.name}", self.columns_of(value), "sum"))
            if gradient is not None:
                stores += stores_of(self.sums[-1], self.rewritten[gradient], accumulate=True)
        stage = stages({array: self.rewritten[node.arguments[0]] for array, (node, _) in products.items()})
        carried, results = self.carry(products, stage, stores)
        multiplies = []
        for array, (node, _) in products.items():
            result, adds = results.get(array, (Place(array, 0), False))
            multiplies.append(self.multiply(node, gradients[node.arguments[0]], result, stage[array], adds))
        return schedule([*stores, *carried], multiplies, stage)

    def carry(
        self, products: dict[Array, Any], stage: dict[Array, int], stores: list[Store]
    ) -> tuple[list[Store], dict[Array, tuple[Place, bool]]]:
        """How the gradient of the state is written: by stores, and by products, which can write or add to it."""
        carried: dict[Array, Segments] = {}
        for value, array in zip(self.program.state, self.carries, strict=True):
            gradient = self.back.gradients.get(value)
            zero = (self.expr("spread", 0.0, width=array.width, name=array.name),)
            carried[array] = zero if gradient is None else self.rewritten[gradient]
        roots = [store.expr for store in stores] + [expr for segments in carried.values() for expr in segments]
        uses = Counter(roots) + Counter(o for expr in _operands_first(roots) for o in expr.operands)
        order = {array: (stage[array], i) for i, array in enumerate(products)}
        position = positions(stage)

        def product_of(expr: Expr, width: int) -> Array | None:
            """The product that a formula is the whole result of, if nothing else reads that."""
            whole = expr.place and expr.place.array in products and expr.width == width == expr.place.array.width
            return expr.place.array if whole and uses[expr] == 1 else None

        extra: list[Store] = []
        results: dict[Array, tuple[Place, bool]] = {}
        for array, segments in carried.items():
            rest = segments[0]
            while len(segments) == 1 and rest.op == "add" and uses[rest] == 1:
                for one, other in (rest.args, rest.args[::-1]):
                    product = product_of(one, array.width) if isinstance(one, Expr) else None
                    if product is None or not isinstance(other, Expr) or other.width != array.width:
                        continue
                    first = product_of(other, array.width)
                    ready = order[first] if first else (position(other)[0], -1)
                    if ready < order[product]:
                        results[product] = (Place(array, 0), True)
                        rest = other
                        break
                else:
                    break
            direct = product_of(rest, array.width) if len(segments) == 1 else None
            if direct:
                results[direct] = (Place(array, 0), False)
            else:
                extra += stores_of(array, (rest,) if len(segments) == 1 else segments)
        return extra, results

    def multiply(self, node: Node, rows: Place, result: Place, stage: int, accumulate: bool = False) -> Multiply:
        """The product of a node."""
        matrix, inner = node.arguments[1], node.arguments[0].shape[1]
        weight = self.transposed.get(matrix, matrix)
        if weight not in self.weights:
            raise Unsupported("mm with a matrix that is not constant over the sequence")
        outer = node.results[0].shape[1]
        return Multiply(rows, self.weights[weight], matrix in self.transposed, result, inner, outer, stage, accumulate)

    def forward(self, products: dict[Array, tuple[Node, Segments]], stores: list[Store], keep: bool) -> Function:
        """The forward step, which keeps what the backward step reads, or nothing."""
        stage = stages({array: rows for array, (_, rows) in products.items()})
        stores = [*stores, *(Store(self.where_kept(expr), expr) for expr in self.kept if keep)]
        multiplies = []
        for array, (node, rows) in products.items():
            place, written = self.operand(array, rows, keep)
            stores += written
            multiplies.append(self.multiply(node, place, Place(array, 0), stage[array]))
        return schedule(stores, multiplies, stage)

    def operand(self, array: Array, rows: Segments, keep: bool) -> tuple[Place, list[Store]]:
        """Where the rows of a product lie when it is done, and what is to be written for that."""
        if len(rows) == 1:
            (expr,) = rows
            if expr.place and expr.place.array.kind in ("state", "input", "temporary"):
                return expr.place, []
            if keep and expr in self.kept:
                return self.where_kept(expr), []
            if expr in self.after:
                return self.after[expr].place, []
        memory = self.joined.get(rows) if keep else None
        memory = memory or Array(f"r{array.name}", width_of(rows), "temporary")
        return Place(memory, 0), stores_of(memory, rows)

    # Memory that is used twice

    def share(self, backward: Function) -> None:
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

    def overwrites(self, forward: Function) -> dict[Array, int]:
        """Gradient arrays that may lie in an input's memory, as each column of it is read before it is written."""
        found: dict[Array, int] = {}
        for i, source in enumerate(self.inputs):
            if source in self.kept_inputs or source in found.values():
                continue
            for target in self.gradient_segments:
                if target.width != source.width or target in found:
                    continue
                if self.reads_first(forward, source, target):
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


def _operands_first(exprs: Iterable[Expr]) -> list[Expr]:
    """These formulas and all that they are made of, operands first."""
    order: dict[Expr, None] = {}

    def visit(expr: Expr) -> None:
        if expr not in order:
            for operand in expr.operands:
                visit(operand)
            order[expr] = None

    for expr in exprs:
        visit(expr)
    return list(order)


def _find(part: Segments, whole: Segments) -> int | None:
    """The column at which the segments of ``part`` stand, in a row, among those of ``whole``."""
    for i in range(len(whole) - len(part) + 1):
        if whole[i : i + len(part)] == part:
            return width_of(whole[:i])
    return None
