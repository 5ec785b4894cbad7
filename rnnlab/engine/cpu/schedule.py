"""In which order formulas are computed: stages, levels and loops.

A product with a weight needs its rows in memory, so it cuts a step into *stages*. Within a stage, a sum over the
columns of a row cuts the work on that row into *levels*. All formulas of one stage, level and width are one `Loop`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rnnlab.engine.cpu.formulas import Array, Expr, Place, Segments
from rnnlab.engine.ir.operations import OPERATIONS

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
    position: a function that says from which stage and level on a formula can be computed.
    """

    loops: list[Loop]
    products: list[Multiply]
    known: dict[Expr, tuple[Place, Position]]
    position: Callable[[Expr], Position]

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
    """The stage after which each product is done: the first in which its rows are known."""
    stage: dict[Array, int] = {}
    for array, rows in multiplied.items():
        position = positions(stage)
        stage[array] = max(position(expr)[0] for expr in rows)
    return stage


def positions(stage: dict[Array, int]) -> Callable[[Expr], Position]:
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


def schedule(stores: list[Store], products: list[Multiply], stage: dict[Array, int]) -> Function:
    """Put every store into the first loop in which it can be done.

    Args:
        stores: what is to be written.
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
    done: set[tuple[int, int, int]] = set()  # what a loop needs is only ever added to earlier ones
    while pending := [key for key in loops if key not in done]:
        key = max(pending)
        done.add(key)
        _fill(loops[key], function, loop_at)
    function.loops = [loops[key] for key in sorted(loops)]
    return function


def _fill(loop: Loop, function: Function, loop_at: Callable[[Position, int], Loop]) -> None:
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
    """Whether computing it at ``at`` takes a costly operation."""
    if expr not in known:
        if expr.place or isinstance(function.resolve(expr, at), Place):
            known[expr] = False
        else:
            known[expr] = is_costly(expr) or any(_is_heavy(o, function, at, known) for o in expr.operands)
    return known[expr]


def is_costly(expr: Expr) -> bool:
    """Whether a formula is better kept than computed twice: it takes an expensive function, a row or a product."""
    return expr.reduces or of_product(expr) or (expr.op in OPERATIONS and OPERATIONS[expr.op].costly)


def of_product(expr: Expr) -> bool:
    """Whether it is loaded from the result of a product."""
    return expr.place is not None and expr.place.array.kind == "temporary"


def _spill(expr: Expr, function: Function, loop_at: Callable[[Position, int], Loop], here: Position) -> None:
    """Put a formula into memory where it is first known, for those who need it later."""
    spilt = sum(place.array.name.startswith("m") for place, _ in function.known.values())
    place = Place(Array(f"m{spilt}", expr.width, "temporary"), 0)
    loop_at(here, expr.width).stores.append(Store(place, expr))
    function.known[expr] = (place, here)


def stores_of(array: Array, segments: Segments, shift: int = 0, accumulate: bool = False) -> list[Store]:
    """Writing a tensor to an array, segment by segment."""
    stores, start = [], 0
    for segment in segments:
        stores.append(Store(Place(array, start, shift), segment, accumulate))
        start += segment.width
    return stores
