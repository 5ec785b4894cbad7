"""Last phase of lowering: let arrays reuse memory whose contents are no longer needed."""

from __future__ import annotations

from rnnlab.engine.loops.formulas import Array, Place
from rnnlab.engine.loops.formulate import Formulated
from rnnlab.engine.loops.keep import Kept
from rnnlab.engine.loops.schedule import Function


def under_gradients(step: Formulated, kept: Kept, backward: Function) -> dict[Array, Place]:
    """Find kept arrays that can share memory with a gradient, because their last read precedes its first write.

    Args:
        step: the two steps as formulas.
        kept: the kept values.
        backward: the backward step.

    Returns:
        for each of these arrays, its place in the array of a gradient.
    """
    last: dict[Array, tuple[int, bool]] = {}  # the last loop that reads an array, and whether it reads column by column
    for number, loop in enumerate(backward.loops):
        for expr in backward.computed(loop):
            place = backward.resolve(expr, (loop.stage, loop.level))
            place = place if isinstance(place, Place) else expr.place
            if place and place.array.kind == "kept":
                aligned = expr.width == place.array.width == loop.width
                if last.get(place.array, (-1, True))[0] == number:
                    aligned &= last[place.array][1]
                last[place.array] = (number, aligned)
    operands = {product.rows for product in step.back.products}
    rows = {kept.memory[e] for v in operands for e in step.formulas.segments[v] if e in kept.memory}
    slots = [
        (store.place, store.expr.width, number)
        for number, loop in enumerate(backward.loops)
        for store in loop.stores
        if store.place.array.kind == "gradient"
    ]
    found: dict[Array, Place] = {}
    for array in kept.memory.values():
        if array in rows:
            continue  # read once more, after the last time step
        for slot in slots:
            place, width, written = slot
            read, aligned = last.get(array, (-1, True))
            if width == array.width and (read < written or (read == written and aligned)):
                found[array] = place
                slots.remove(slot)
                break
    return found


def over_inputs(step: Formulated, kept: Kept, forward: Function, gradients: list[Array]) -> dict[Array, int]:
    """Find gradient arrays that can share memory with an input, because each column is read before it is overwritten.

    Args:
        step: the two steps as formulas.
        kept: the kept values.
        forward: the forward step, which writes kept values into the arrays of gradients.
        gradients: the arrays of gradients.

    Returns:
        for each of these arrays, the index of the input.
    """
    found: dict[Array, int] = {}
    for i, source in enumerate(step.inputs):
        if source in kept.inputs or source in found.values():
            continue
        for target in gradients:
            if target.width == source.width and target not in found and _reads_first(forward, source, target):
                found[target] = i
                break
    return found


def _reads_first(function: Function, source: Array, target: Array) -> bool:
    """Whether a function reads every column of ``source`` before it writes that column of ``target``."""
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
                overlaps = offset < high and low < offset + width
                same_columns = (offset, width) == (low, loop.width)
                if overlaps and (when < at or (when == at and not same_columns)):
                    return False
    return True
