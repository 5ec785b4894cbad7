"""Second phase of lowering: decide which values the forward step keeps for the backward step.

The backward step recomputes values that are cheap to compute from existing arrays. Other values that it reads are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rnnlab.engine.ir.program import Value
from rnnlab.engine.loops.formulas import Array, Expr, Segments, width_of
from rnnlab.engine.loops.formulate import Formulated
from rnnlab.engine.loops.schedule import is_costly, of_product


@dataclass
class Kept:
    """The kept values, and the backward step that reads them.

    after: formulas that are part of the new state, and the formulas that load them from it.
    inputs: the arrays of the inputs that the backward step reads.
    memory: the array of each kept formula.
    joined: product rows that consist of several formulas, and the array that holds them in adjacent columns.
    rewritten: the values of the backward step as formulas of kept values.
    """

    after: dict[Expr, Expr]
    inputs: set[Array]
    memory: dict[Expr, Array]
    joined: dict[Segments, Array]
    rewritten: dict[Value, Segments]


def keep(step: Formulated) -> Kept:
    """Decide which values are kept, and rewrite the backward step to read them."""
    after: dict[Expr, Expr] = {}
    for array, segments in zip(step.states, step.new_state, strict=True):
        start = 0
        for segment in segments:
            after.setdefault(segment, step.formulas.load(array, start, segment.width, shift=1))
            start += segment.width
    inside = _forward_formulas(step)
    inputs, kept = _choose(_needed(step, inside), after)
    joined: dict[Segments, Array] = {}
    for rows in _product_rows(step):  # the gradient of a weight needs the rows of every time step
        if len(rows) > 1:
            joined.setdefault(rows, Array(f"r{len(joined)}", width_of(rows), "kept"))
        elif rows[0].place is None and rows[0] not in after:
            kept.setdefault(rows[0])
    memory = {expr: Array(f"k{i}", expr.width, "kept") for i, expr in enumerate(kept)}
    return Kept(after, inputs, memory, joined, _rewrite(step, inside, after, memory))


def operands_first(exprs: Iterable[Expr]) -> list[Expr]:
    """List formulas and all of their operands, at any depth, operands first."""
    order: dict[Expr, None] = {}

    def visit(expr: Expr) -> None:
        if expr not in order:
            for operand in expr.operands:
                visit(operand)
            order[expr] = None

    for expr in exprs:
        visit(expr)
    return list(order)


def _forward_formulas(step: Formulated) -> set[Expr]:
    """Return every formula of the forward step."""
    program, segments = step.program, step.formulas.segments
    made = [result for node in program.nodes for result in node.results]
    values = (*program.constants, *program.inputs, *program.state, *made)
    return set(operands_first(e for value in values if value in segments for e in segments[value]))


def _backward_values(step: Formulated) -> list[Value]:
    """Return the results of the backward step: gradients of leaves and products, and the rows of its own products."""
    rows = [node.arguments[0] for node in step.back.nodes if node.operation == "mm"]
    return [*step.back.gradients.values(), *(product.gradient for product in step.back.products), *rows]


def _product_rows(step: Formulated) -> list[Segments]:
    return [step.formulas.segments[product.rows] for product in step.back.products]


def _whole(step: Formulated, inside: set[Expr], expr: Expr) -> Expr | None:
    """Return the forward formula from which ``expr`` was cut; None if it is a forward formula or was not cut."""
    whole, _ = step.formulas.cut_from.get(expr, (expr, 0))
    return whole if expr not in inside and whole in inside else None


def _needed(step: Formulated, inside: set[Expr]) -> dict[Expr, None]:
    """Return the formulas of the forward step that the backward step reads, in order."""
    found: dict[Expr, None] = {}
    seen: set[Expr] = set()

    def visit(expr: Expr) -> None:
        if expr in seen:
            return
        seen.add(expr)
        expr = _whole(step, inside, expr) or expr
        if expr in inside:
            found.setdefault(expr)
            return
        for operand in expr.operands:
            visit(operand)

    for value in _backward_values(step):
        for expr in step.formulas.segments[value]:
            visit(expr)
    for rows in _product_rows(step):
        for expr in rows:
            if expr.place is None or expr.place.array.kind in ("input", "temporary"):
                found.setdefault(expr)
    return found


def _choose(needed: dict[Expr, None], after: dict[Expr, Expr]) -> tuple[set[Array], dict[Expr, None]]:
    """Choose the inputs that stay in memory, and the formulas that are kept.

    Args:
        needed: the formulas that the backward step reads.
        after: formulas that are part of the new state.
    """
    inputs = {expr.place.array for expr in needed if expr.place and expr.place.array.kind == "input"}
    kept: dict[Expr, None] = {}
    free: set[Expr] = set()  # formulas that the backward step can load, or recompute cheaply
    stored: set[Expr] = set()  # formulas in `free` that are loaded, or cheap functions of loaded values
    for expr in operands_first(needed):
        stays = expr.place and (expr.place.array.kind in ("constant", "state") or expr.place.array in inputs)
        if expr in after or (stays and not of_product(expr)):
            free.add(expr)
            stored.add(expr)
        elif expr.place or expr.reduces:
            pass
        elif stored.issuperset(expr.operands):  # one costly operation on stored values is cheaper than memory
            free.add(expr)
            if not is_costly(expr):
                stored.add(expr)
        elif not is_costly(expr):
            if all(operand in free or operand in kept for operand in expr.operands):
                free.add(expr)
            elif expr in needed and (smaller := _smaller(expr, free, kept)):
                by_row, wide = smaller
                inputs |= {operand.place.array for operand in wide}
                kept |= dict.fromkeys(by_row)
                free.update((expr, *wide))
        if expr in needed and expr not in free:
            kept.setdefault(expr)
    return inputs, kept


def _smaller(expr: Expr, free: set[Expr], kept: dict[Expr, None]) -> tuple[list[Expr], list[Expr]] | None:
    """Return values to keep instead of a formula: formulas with one number per row, and inputs; None if not enough."""
    missing = [operand for operand in expr.operands if operand not in free and operand not in kept]
    narrow = [operand for operand in missing if operand.width == 1]
    inputs = [operand for operand in missing if operand.place and operand.place.array.kind == "input"]
    if expr.width == 1 or not narrow or not {*missing} <= {*narrow, *inputs}:
        return None
    return [operand for operand in narrow if operand not in inputs], inputs


def _rewrite(
    step: Formulated, inside: set[Expr], after: dict[Expr, Expr], memory: dict[Expr, Array]
) -> dict[Value, Segments]:
    """Write the values of the backward step as formulas of kept values."""
    formulas = step.formulas
    rewritten: dict[Expr, Expr] = {}

    def rewrite(expr: Expr) -> Expr:
        if expr not in rewritten:
            if expr in memory:
                new = formulas.load(memory[expr])
            elif expr in after:
                new = after[expr]
            elif whole := _whole(step, inside, expr):
                new = formulas.cut(rewrite(whole), formulas.cut_from[expr][1], expr.width)
            elif expr.place or not expr.operands:
                new = expr
            else:
                args = tuple(rewrite(a) if isinstance(a, Expr) else a for a in expr.args)
                new = formulas.expr(expr.op, *args, width=expr.width, name=expr.name)
            rewritten[expr] = new
        return rewritten[expr]

    return {v: tuple(rewrite(e) for e in formulas.segments[v]) for v in _backward_values(step)}
