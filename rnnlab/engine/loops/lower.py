"""Lower a step and its backward step from tensors ``[B, F]`` to loops over rows and columns.

Each phase is a function whose result the next phase reads:

1. `rnnlab.engine.loops.formulate`: both steps as formulas for the number at row b and column j.
2. `rnnlab.engine.loops.keep`: what the forward step keeps for the backward step.
3. Here: where every result is written. `rnnlab.engine.loops.schedule` puts the formulas into loops.
4. `rnnlab.engine.loops.overlay`: which arrays reuse memory whose contents are no longer needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from rnnlab.engine.ir.derive import Backward, Product
from rnnlab.engine.ir.program import Program, Unsupported, Value
from rnnlab.engine.loops import overlay
from rnnlab.engine.loops.formulas import Array, Expr, Place, Segments, width_of
from rnnlab.engine.loops.formulate import Formulated, Products, formulate
from rnnlab.engine.loops.keep import Kept, keep, operands_first
from rnnlab.engine.loops.schedule import Function, Store, positions, schedule, stages, stores_of


@dataclass(eq=False)
class Lowered:
    """A cell's step and backward step as loops.

    forward, inference: the step, with and without keeping the values that the backward step reads.
    backward: the backward step.
    constants: the names of the constants.
    constant_rows: for every constant, whether it has a row for every sequence.
    inputs, states, carries: the arrays of inputs, states, and gradients of states.
    output: the place of the output: an ``output`` array, or the array of a state.
    kept_inputs: the indices of the inputs that the backward step reads.
    input_gradients: for every input, the columns that hold its gradient; None without gradient.
    constant_gradients: for every constant, its ``sum`` array; None if it has no gradient except from ``products``.
    by_row: the sums that have a row for every sequence.
    products: for every product with a weight: weight, whether transposed, rows, gradient.
    overwrites: arrays that may reuse the memory of an input, with the index of that input.
    """

    forward: Function
    inference: Function
    backward: Function
    constants: list[str]
    constant_rows: list[bool]
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

    @cached_property
    def repeated(self) -> set[int]:
        """The indices of the inputs whose gradient shares memory with the gradient of an earlier input."""
        widths = [array.width for array in self.inputs]
        places = [(i, place, widths[i]) for i, place in enumerate(self.input_gradients) if place]
        return {
            i
            for (_, one, width), (i, other, other_width) in combinations(places, 2)
            if one.array is other.array
            and one.offset < other.offset + other_width
            and other.offset < one.offset + width
        }


def lower(program: Program, back: Backward, batch_size: int, overlays: bool = True) -> Lowered:
    """Turn a step and its backward step into loops.

    Args:
        program: the step.
        back: its backward step.
        batch_size: the number of rows that the step was traced with.
        overlays: whether arrays may reuse memory whose contents are no longer needed. Whoever runs the loops must then
            read every number before the same thread overwrites it.

    Raises:
        Unsupported: a tensor is neither ``[B, F]`` nor a vector nor a weight, or the step mixes rows.
    """
    step = formulate(program, back, batch_size)
    kept = keep(step)
    gradients = _gradients(step, kept)
    sums = _sums(step)
    backward = _backward(step, kept, gradients, sums)
    moved = overlay.under_gradients(step, kept, backward) if overlays else {}
    step.formulas.move(moved)
    memory = {expr: moved.get(array, Place(array, 0)) for expr, array in kept.memory.items()}
    output, written = _results(step)
    forward = _forward(step, kept, [*written, *(Store(place, expr) for expr, place in memory.items())], memory)
    constants = program.constants
    by_row = [len(value.shape) == 2 and value.shape[0] > 1 for value in constants]
    return Lowered(
        forward=forward,
        inference=_forward(step, kept, written, None),
        backward=backward,
        constants=[value.name for value in constants],
        constant_rows=by_row,
        inputs=step.inputs,
        states=step.states,
        carries=step.carries,
        output=output,
        kept_inputs=[i for i, array in enumerate(step.inputs) if array in kept.inputs],
        input_gradients=[gradients.places.get(value) for value in step.first_gradients(program.inputs)],
        constant_gradients=sums,
        by_row={array for array, rows in zip(sums, by_row, strict=True) if array and rows},
        products=[
            (constants.index(p.weight), p.transposed, _rows_of(step, kept, memory, p), gradients.places[p.gradient])
            for p in back.products
        ],
        overwrites=overlay.over_inputs(step, kept, forward, list(gradients.segments)) if overlays else {},
    )


@dataclass
class _Gradients:
    """Where the gradients of inputs and products are written.

    places: the columns of each gradient; gradients that are equal share them.
    segments: the formulas that are written into each array.
    """

    places: dict[Value, Place]
    segments: dict[Array, Segments]


def _gradients(step: Formulated, kept: Kept) -> _Gradients:
    """Lay out the gradients of inputs and products."""
    wanted = []
    for value in step.program.inputs:
        if value in step.back.gradients:
            if value.shape[0] != step.formulas.batch_size:
                raise Unsupported("a gradient of an input that all sequences share")
            wanted.append(step.back.gradients[value])
    wanted += [product.gradient for product in step.back.products]
    found = _Gradients({}, {})
    for value in sorted(dict.fromkeys(wanted), key=lambda v: -width_of(kept.rewritten[v])):
        segments = kept.rewritten[value]
        for array, held in found.segments.items():
            offset = _find(segments, held)
            if offset is not None:
                found.places[value] = Place(array, offset)
                break
        else:
            array = Array(f"d{len(found.segments)}", width_of(segments), "gradient")
            found.segments[array] = segments
            found.places[value] = Place(array, 0)
    return found


def _find(part: Segments, whole: Segments) -> int | None:
    """Return the first column of the segments of ``part`` in ``whole``; None if they are not adjacent there."""
    for i in range(len(whole) - len(part) + 1):
        if whole[i : i + len(part)] == part:
            return width_of(whole[:i])
    return None


def _sums(step: Formulated) -> list[Array | None]:
    """Return, for every constant, the array that accumulates its gradient; None if it has no gradient."""
    constants = step.program.constants
    pairs = zip(constants, step.first_gradients(constants), strict=True)
    columns = step.formulas.columns_of
    return [None if gradient is None else Array(f"d{value.name}", columns(value), "sum") for value, gradient in pairs]


def _backward(step: Formulated, kept: Kept, gradients: _Gradients, sums: list[Array | None]) -> Function:
    """Return the backward step as loops and products."""
    stores = [store for array, segments in gradients.segments.items() for store in stores_of(array, segments)]
    for array, gradient in zip(sums, step.first_gradients(step.program.constants), strict=True):
        if array is not None:
            stores += stores_of(array, kept.rewritten[gradient], accumulate=True)
    products = step.backward_products
    stage = stages({array: kept.rewritten[node.arguments[0]] for array, (node, _) in products.items()})
    carried, results = _carry(step, kept, stage, stores)
    multiplies = []
    for array, (node, _) in products.items():
        result, adds = results.get(array, (Place(array, 0), False))
        multiplies.append(step.multiply(node, gradients.places[node.arguments[0]], result, stage[array], adds))
    return schedule([*stores, *carried], multiplies, stage)


def _carry(
    step: Formulated, kept: Kept, stage: dict[Array, int], stores: list[Store]
) -> tuple[list[Store], dict[Array, tuple[Place, bool]]]:
    """Decide how the gradients of the states are written: by stores, or directly by products.

    Returns:
        the stores; and, for each product that writes a gradient directly, its place and whether it is added there.
    """
    carried: dict[Array, Segments] = {}
    for value, array in zip(step.program.state, step.carries, strict=True):
        gradient = step.back.gradients.get(value)
        zero = (step.formulas.expr("spread", 0.0, width=array.width, name=array.name),)
        carried[array] = zero if gradient is None else kept.rewritten[gradient]
    roots = [store.expr for store in stores] + [expr for segments in carried.values() for expr in segments]
    uses = Counter(roots) + Counter(o for expr in operands_first(roots) for o in expr.operands)
    products = _Products(step.backward_products, stage, uses, positions(stage))
    extra: list[Store] = []
    results: dict[Array, tuple[Place, bool]] = {}
    for array, segments in carried.items():
        if len(segments) > 1:
            extra += stores_of(array, segments)
            continue
        rest = segments[0]
        while taken := products.added_last(rest, array.width):
            product, rest = taken
            results[product] = (Place(array, 0), True)
        direct = products.whole(rest, array.width)
        if direct:
            results[direct] = (Place(array, 0), False)
        else:
            extra += stores_of(array, (rest,))
    return extra, results


@dataclass
class _Products:
    """The products of the backward step, and the order in which results and formulas become available.

    products: the products, by result.
    stage: the stage of each product.
    uses: the number of reads of each formula.
    position: returns the first stage and level in which a formula can be computed.
    """

    products: Products
    stage: dict[Array, int]
    uses: Counter[Expr]
    position: Callable[[Expr], tuple[int, int]]

    def whole(self, expr: Any, width: int) -> Array | None:
        """Return the product whose entire result is ``expr``; None if there is none, or if something else reads it."""
        if not isinstance(expr, Expr) or not expr.place or expr.place.array not in self.products:
            return None
        return expr.place.array if expr.width == width == expr.place.array.width and self.uses[expr] == 1 else None

    def added_last(self, expr: Expr, width: int) -> tuple[Array, Expr] | None:
        """Split a sum into a product that can be added to memory, and the rest, which is available before the product.

        Return None if the sum has no such product.
        """
        if expr.op != "add" or self.uses[expr] != 1:
            return None
        order = {array: (self.stage[array], i) for i, array in enumerate(self.products)}
        for one, other in (expr.args, expr.args[::-1]):
            product = self.whole(one, width)
            if product is None or not isinstance(other, Expr) or other.width != width:
                continue
            first = self.whole(other, width)
            if (order[first] if first else (self.position(other)[0], -1)) < order[product]:
                return product, other
        return None


def _results(step: Formulated) -> tuple[Place, list[Store]]:
    """Return the place of the output, and the stores of states and output."""
    pairs = zip(step.states, step.new_state, strict=True)
    stores = [store for array, segments in pairs for store in stores_of(array, segments, shift=1)]
    if step.output in step.new_state:
        return Place(step.states[step.new_state.index(step.output)], 0, 1), stores
    array = Array("y", width_of(step.output), "output")
    return Place(array, 0), [*stores, *stores_of(array, step.output)]


def _forward(step: Formulated, kept: Kept, stores: list[Store], memory: dict[Expr, Place] | None) -> Function:
    """Return the forward step as loops and products.

    Args:
        step: the two steps as formulas.
        kept: the values that the backward step reads.
        stores: all stores except those of the rows of products.
        memory: the place of each kept formula; None if nothing is kept.
    """
    products, stores = step.forward_products, list(stores)
    stage = stages({array: rows for array, (_, rows) in products.items()})
    multiplies = []
    for array, (node, rows) in products.items():
        place, written = _operand(array, rows, kept, memory)
        stores += written
        multiplies.append(step.multiply(node, place, Place(array, 0), stage[array]))
    return schedule(stores, multiplies, stage)


def _operand(array: Array, rows: Segments, kept: Kept, memory: dict[Expr, Place] | None) -> tuple[Place, list[Store]]:
    """Return the place from which a product reads its rows, and the stores that write them there."""
    if len(rows) == 1:
        (expr,) = rows
        if expr.place and expr.place.array.kind in ("state", "input", "temporary"):
            return expr.place, []
        if memory is not None and expr in memory:
            return memory[expr], []
        if expr in kept.after:
            return kept.after[expr].place, []
    joined = kept.joined.get(rows) if memory is not None else None
    target = joined or Array(f"r{array.name}", width_of(rows), "temporary")
    return Place(target, 0), stores_of(target, rows)


def _rows_of(step: Formulated, kept: Kept, memory: dict[Expr, Place], product: Product) -> Place:
    """Return the place of the rows of a product for all time steps."""
    rows = step.formulas.segments[product.rows]
    if rows in kept.joined:
        return Place(kept.joined[rows], 0)
    if rows[0] in memory:
        return memory[rows[0]]
    return kept.after[rows[0]].place if rows[0] in kept.after else rows[0].place
