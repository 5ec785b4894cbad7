"""Order formulas into loops.

A matrix product needs its rows in memory, so it divides a step into *stages*. Within a stage, a sum over the columns of
a row divides the work on that row into *levels*. All formulas of one stage, level and width form one `Loop`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.loops.formulas import Array, Expr, Place, Segments

Position = tuple[int, int]  # stage, level


@dataclass(eq=False)
class Store:
    """Write a formula to memory, or add it to memory if ``accumulate``."""

    place: Place
    expr: Expr
    accumulate: bool = False


@dataclass(eq=False)
class Multiply:
    """``result = rows @ weight`` for the rows of one time step.

    rows, result: their places.
    weight: the index of the weight among the constants.
    transposed: whether the weight is transposed.
    inner, outer: the widths of rows and result.
    stage: the stage after which the product is computed.
    accumulate: whether the product is added to the result.
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
    """The work of one stage, level and width on a row."""

    stage: int
    level: int
    width: int
    stores: list[Store] = field(default_factory=list)
    reductions: list[Expr] = field(default_factory=list)


@dataclass
class Function:
    """One time step as stages; each is a loop over the rows, followed by products.

    known: the formulas that are written to memory, with the place, and the stage and level that write it.
    position: returns the first stage and level in which a formula can be computed.
    """

    loops: list[Loop]
    products: list[Multiply]
    known: dict[Expr, tuple[Place, Position]]
    position: Callable[[Expr], Position]

    @property
    def stages(self) -> int:
        """The number of stages."""
        return 1 + max([loop.stage for loop in self.loops] + [product.stage for product in self.products], default=0)

    def arrays(self) -> list[Array]:
        """List the arrays that are read or written, in order of first use."""
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
        """Return the place from which to load ``expr`` at a stage and level; ``expr`` itself if it must be computed."""
        place, since = self.known.get(expr, (None, at))
        return place if place and since < at else expr

    def computed(self, loop: Loop) -> list[Expr]:
        """List the formulas that a loop computes or loads, operands first."""
        order: dict[Expr, None] = {}
        at = (loop.stage, loop.level)

        def visit(expr: Expr) -> None:
            if expr in order:
                return
            if not isinstance(self.resolve(expr, at), Place) and not (expr.reduces and self.position(expr) <= at):
                for operand in expr.operands:
                    visit(operand)
            order[expr] = None

        for store in loop.stores:
            visit(store.expr)
        for reduction in loop.reductions:
            for operand in reduction.operands:
                visit(operand)
        return list(order)


def stages(multiplied: dict[Array, Segments]) -> dict[Array, int]:
    """Return the stage of each product: the first in which its rows are available."""
    stage: dict[Array, int] = {}
    for array, rows in multiplied.items():
        position = positions(stage)
        stage[array] = max(position(expr)[0] for expr in rows)
    return stage


def positions(stage: dict[Array, int]) -> Callable[[Expr], Position]:
    """Return a function that gives the first stage and level in which a formula can be computed."""
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


def schedule(stores: list[Store], products: list[Multiply], stage: dict[Array, int]) -> Function:
    """Put every store into the first possible loop.

    Args:
        stores: the formulas to write.
        products: the products, in order.
        stage: the stage of each product, by its result, from `stages`.
    """
    position = positions(stage)
    function = Function([], products, {}, position)
    loops: dict[tuple[int, int, int], Loop] = {}

    def loop_at(at: Position, width: int) -> Loop:
        return loops.setdefault((*at, width), Loop(*at, width))

    for store in stores:
        loop_at(position(store.expr), store.expr.width).stores.append(store)
        if not store.accumulate:
            function.known.setdefault(store.expr, (store.place, position(store.expr)))
    done: set[tuple[int, int, int]] = set()  # dependencies are added to earlier loops only
    while pending := [key for key in loops if key not in done]:
        key = max(pending)
        done.add(key)
        _fill(loops[key], function, loop_at)
    function.loops = [loops[key] for key in sorted(loops)]
    return function


def _fill(loop: Loop, function: Function, loop_at: Callable[[Position, int], Loop]) -> None:
    """Add the dependencies of a loop to earlier loops: reductions, and costly formulas, which are written to memory."""
    at = (loop.stage, loop.level)
    seen: set[Expr] = set()

    def visit(expr: Expr) -> None:
        if expr in seen or expr.place:
            return
        seen.add(expr)
        place = function.resolve(expr, at)
        if isinstance(place, Place):
            return
        here = function.position(expr)
        if expr.reduces:
            before = function.position(expr.operands[0])
            earlier = loop_at(before, expr.operands[0].width)
            if expr not in earlier.reductions:
                earlier.reductions.append(expr)
        later = here[0] < loop.stage if expr.width == 1 else here < at
        if later and _is_heavy(expr, function, at, {}):
            _spill(expr, function, loop_at, here)
            return
        for operand in expr.operands:
            if not expr.reduces:
                visit(operand)

    for store in loop.stores:
        visit(store.expr)
    for reduction in list(loop.reductions):
        visit(reduction.operands[0])


def _is_heavy(expr: Expr, function: Function, at: Position, known: dict[Expr, bool]) -> bool:
    """Whether computing a formula at ``at`` needs a costly operation."""
    if expr not in known:
        if expr.place or isinstance(function.resolve(expr, at), Place):
            known[expr] = False
        else:
            known[expr] = is_costly(expr) or any(_is_heavy(o, function, at, known) for o in expr.operands)
    return known[expr]


def is_costly(expr: Expr) -> bool:
    """Whether keeping a formula costs less than computing it twice: an expensive function, a reduction or a product."""
    return expr.reduces or of_product(expr) or (expr.op in OPERATIONS and OPERATIONS[expr.op].costly)


def of_product(expr: Expr) -> bool:
    """Whether a formula is loaded from the result of a product."""
    return expr.place is not None and expr.place.array.kind == "temporary"


def _spill(expr: Expr, function: Function, loop_at: Callable[[Position, int], Loop], here: Position) -> None:
    """Write a formula to memory at the first position where it is available, for later loops."""
    spilt = sum(place.array.name.startswith("m") for place, _ in function.known.values())
    place = Place(Array(f"m{spilt}", expr.width, "temporary"), 0)
    loop_at(here, expr.width).stores.append(Store(place, expr))
    function.known[expr] = (place, here)


def stores_of(array: Array, segments: Segments, shift: int = 0, accumulate: bool = False) -> list[Store]:
    """Return the stores that write a tensor to an array, one for each segment."""
    stores, start = [], 0
    for segment in segments:
        stores.append(Store(Place(array, start, shift), segment, accumulate))
        start += segment.width
    return stores
