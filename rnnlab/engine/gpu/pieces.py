"""Divide arrays and formulas into pieces of columns that a kernel only ever uses whole.

A tile in registers cannot be sliced. If any formula, store or product uses columns 8 to 16 of an array of 24, every
kernel holds that array in three pieces of 8, and everything that is computed from it as well.
"""

from __future__ import annotations

from itertools import pairwise

from rnnlab.engine.loops.formulas import Array, Expr, Place
from rnnlab.engine.loops.keep import operands_first
from rnnlab.engine.loops.schedule import Function


class Pieces:
    """The pieces of all arrays and formulas of a function.

    Attributes:
        widest: the width of the widest piece.
    """

    def __init__(self, function: Function) -> None:
        stores = [store for loop in function.loops for store in loop.stores]
        reductions = [reduction for loop in function.loops for reduction in loop.reductions]
        self.exprs = operands_first([*(store.expr for store in stores), *reductions])
        self.places = [(expr.place, expr.width) for expr in self.exprs if expr.place]
        self.places += [(store.place, store.expr.width) for store in stores]
        self.places += [(place, expr.width) for expr, (place, _) in function.known.items()]
        for product in function.products:
            self.places += [(product.rows, product.inner), (product.result, product.outer)]
        self.of_arrays: dict[Array, set[int]] = {}  # the columns at which a piece ends
        self.of_formulas: dict[Expr, set[int]] = {}
        for place, width in self.places:
            ends = self.of_arrays.setdefault(place.array, set())
            ends |= {n for n in (place.offset, place.offset + width) if 0 < n < place.array.width}
        links = [(expr, expr.place) for expr in self.exprs if expr.place]
        links += [(store.expr, store.place) for store in stores]
        links += [(expr, place) for expr, (place, _) in function.known.items()]
        links = [(expr, place) for expr, place in links if expr.width > 1]
        while any([self._link(expr, place) for expr, place in links] + [self._equal(expr) for expr in self.exprs]):
            pass
        self.widest = max(piece for place, width in self.places for _, piece in self.array(place, width))

    def _link(self, expr: Expr, place: Place) -> bool:
        """Cut a formula and the columns where it is stored at the same columns; return whether that is new."""
        ends, inside = self.of_arrays[place.array], self.of_formulas.setdefault(expr, set())
        before = len(ends) + len(inside)
        inside |= {n - place.offset for n in ends if place.offset < n < place.offset + expr.width}
        ends |= {n + place.offset for n in inside}
        return len(ends) + len(inside) > before

    def _equal(self, expr: Expr) -> bool:
        """Cut a formula and its operands at the same columns; return whether that is new."""
        if expr.width == 1 or expr.place or expr.reduces:
            return False
        alike = [self.of_formulas.setdefault(one, set()) for one in (expr, *expr.operands) if one.width == expr.width]
        ends = set().union(*alike)
        changed = any(one != ends for one in alike)
        for one in alike:
            one |= ends
        return changed

    def array(self, place: Place, width: int) -> list[tuple[int, int]]:
        """Return the first column and the width of each piece of some columns of an array."""
        last = place.offset + width
        ends = [n for n in sorted(self.of_arrays.get(place.array, ())) if place.offset < n < last]
        return [(low, high - low) for low, high in pairwise([place.offset, *ends, last])]

    def formula(self, expr: Expr) -> list[int]:
        """Return the widths of the pieces of a formula."""
        edges = [0, *sorted(self.of_formulas.get(expr, ())), expr.width]
        return [high - low for low, high in pairwise(edges)]
