"""Print the loops of a step as C: functions ``forward``, ``inference`` (which keeps nothing) and ``backward``.

``rnnlab explain cell=lstm`` shows the result; code that all cells share is in ``c/step.h``. The numbers of steps, rows
and columns are arguments, so one library works for every size.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite, isnan
from typing import Any

from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.ir.program import Extent
from rnnlab.engine.loops.formulas import Array, Expr, Place
from rnnlab.engine.loops.lower import Lowered
from rnnlab.engine.loops.schedule import Function, Loop, Multiply


class Source:
    """The C code of a cell, and the meaning of its arguments.

    Args:
        lowered: the cell's step as loops.
        single: whether the precision is single; otherwise it is double.
        names: the functions to print, from ``forward``, ``inference`` and ``backward``.

    Attributes:
        text: the C code.
        arrays: for each function, its arrays in the order of its arguments.
        sizes: the values of n0, n1, ...
    """

    def __init__(self, lowered: Lowered, single: bool, names: tuple[str, ...]) -> None:
        self.single = single
        self.symbols: dict[int, str] = {}
        functions = {name: getattr(lowered, name) for name in names}
        self.arrays = {}
        for name, function in functions.items():
            carried = lowered.carries if name == "backward" else lowered.states
            self.arrays[name] = list(dict.fromkeys([*carried, *function.arrays()]))
        bodies = [self.function(name, function) for name, function in functions.items()]
        self.text = "\n".join(['#include "step.h"', "", *bodies])
        self.sizes = list(self.symbols)

    def size(self, number: int) -> str:
        """Return the name of a width or an offset."""
        return self.symbols.setdefault(number, f"n{len(self.symbols)}") if number else "0"

    def function(self, name: str, function: Function) -> str:
        """Print one of the three functions."""
        backward = name == "backward"
        phases = self.phases(name, function)
        part = "part" if function.products else "0"
        sums = [
            f"add_up(call, {part}, &{self.struct(name, array)}, {self.size(array.width)});"
            for array in self.arrays[name]
            if array.kind == "sum"
        ]
        if sums and function.products and function.products[-1].stage == function.stages - 1:
            phases[-1] += sums  # loops, not products, compute the terms
        elif sums:
            phases.append(sums)
        carried = [a for a in self.arrays[name] if a.kind == ("carry" if backward else "state")]
        source, target = ("t + 1", "t") if backward else ("t", "t + 1")
        copies = [
            f"copy_rows(call, &{self.struct(name, a)}, {source}, {target}, t, {self.size(a.width)});" for a in carried
        ]
        body = [line for phase in phases for line in self.shared(phase, function)]
        body += [
            "if (call->lengths) {",
            *_indent(self.shared(_once(copies) if function.products else copies, function)),
            "}",
        ]
        text = "\n".join(body)
        used = [(number, symbol) for number, symbol in self.symbols.items() if f"{symbol}" in text]
        sizes = [f"const long {symbol} = call->sizes[{list(self.symbols).index(n)}];" for n, symbol in used]
        names = ", ".join(f"{i} {array.name}" for i, array in enumerate(self.arrays[name]))
        start = f"inlined void {name}_step(const struct call *call, const struct array *a, long t, long *phases) {{"
        loop = f"{'BACKWARD' if backward else 'FORWARD'}({name})"
        return "\n".join([f"/* arrays: {names} */", start, *_indent([*sizes, *body]), "}", "", loop, ""])

    def phases(self, name: str, function: Function) -> list[list[str]]:
        """Print loops and products as phases: threads that share the columns finish one before they begin the next."""
        phases = []
        for stage in range(function.stages):
            loops = [loop for loop in function.loops if loop.stage == stage]
            if loops:
                phases.append(self.rows(name, function, loops))
            results: set[Array] | None = None
            for number, product in enumerate(function.products):
                if product.stage == stage:
                    if results is None or product.result.array in results:  # perhaps in other columns
                        results = set()
                        phases.append([])
                    results.add(product.result.array)
                    phases[-1].append(self.product(name, product, number))
        return phases

    def struct(self, name: str, array: Array) -> str:
        """Return the C expression of the ``struct array`` of an array."""
        return f"a[{self.arrays[name].index(array)}]"

    def product(self, name: str, product: Multiply, number: int) -> str:
        """Print the product of the rows of a time step and a weight."""
        rows, result = (self.pointer(name, place) for place in (product.rows, product.result))
        rows_array, result_array = (self.struct(name, p.array) for p in (product.rows, product.result))
        sizes = f"{self.size(product.inner)}, {self.size(product.outer)}, {int(product.accumulate)}"
        return f"multiply(call, t, part, &{rows_array}, {rows}, {number}, &{result_array}, {result}, {sizes});"

    def pointer(self, name: str, place: Place) -> str:
        """Return the C expression of the address of a place in row 0."""
        offset = f" + {self.size(place.offset)}" if place.offset else ""
        return f"at(&{self.struct(name, place.array)}, {_time(place)}){offset}"

    def rows(self, name: str, function: Function, loops: list[Loop]) -> list[str]:
        """Print the loop over the rows of one stage."""
        emitted = _Row(self, function, loops)
        starts, rows, dead = [], [], []
        for (array, shift), variable in emitted.pointers.items():
            struct = self.struct(name, array)
            starts.append(f"real *const {variable}_t = at(&{struct}, {_time(Place(array, 0, shift))});")
            rows.append(f"real *const {variable} = {variable}_t + b * {struct}.row;")
        for loop in loops:
            for store in loop.stores:
                if not store.accumulate:
                    where = emitted.address(store.place)
                    dead.append(f"memset({where}, 0, {self.size(store.expr.width)} * sizeof(real));")
        ended = ["if (call->lengths && t >= call->lengths[b]) {", *_indent([*dead, "continue;"]), "}"]
        over_rows = [
            "for (long b = call->first; b < call->last; b++) {",
            *_indent([*rows, *ended, *emitted.lines]),
            "}",
        ]
        if emitted.shared:
            width = self.size(loops[0].width)
            for bound, part in (("low", "part"), ("high", "part + 1")):
                starts.append(f"const long {bound} = first_column(call, {part}, {width});")
        lines = [*starts, *over_rows]
        return ["{", *_indent(_once(lines) if function.products and not emitted.shared else lines), "}"]

    def shared(self, phase: list[str], function: Function) -> list[str]:
        """Print a phase, which threads that share the columns divide; they do so only if there are products."""
        return ["PARTS {", *_indent(phase), "}"] if function.products else phase

    def number(self, value: Any) -> str:
        """Print a number."""
        if isinstance(value, Extent):
            return f"(real){self.size(int(value))}"
        value = float(value)
        if isnan(value):
            return "NAN"
        if not isfinite(value):
            return "INFINITY" if value > 0 else "-INFINITY"
        text = f"{value!r}f" if self.single else repr(value)
        return f"({text})" if value < 0 else text


class _Row:
    """The code for one row: loops over columns, and between them the scalars that all columns share."""

    def __init__(self, source: Source, function: Function, loops: list[Loop]) -> None:
        self.source, self.function = source, function
        self.pointers: dict[tuple[Array, int], str] = {}
        self.names: dict[Expr, str] = {}
        self.taken = {array.name + later for array in function.arrays() for later in ("", "_next", "_now")}
        self.scalars: dict[Expr, str] = {}
        self.lines: list[str] = []
        # Columns are independent in a single loop only: other loops read what it writes, or its sums.
        self.shared = bool(function.products) and len(loops) == 1 and not loops[0].reductions and loops[0].width > 1
        for loop in loops:
            self.loop(loop)

    def loop(self, loop: Loop) -> None:
        at = (loop.stage, loop.level)
        local: dict[Expr, str] = {}
        inside: list[str] = []
        for expr in self.function.computed(loop):
            if expr.width == 1 and expr in self.scalars:
                continue
            place = self.function.resolve(expr, at)
            if not isinstance(place, Place):
                place = expr.place
            wide = expr.width > 1
            if place:
                text = f"{self.address(place, 'j' if wide else '')}"
                text = text if wide else f"*({text})"
                if wide:
                    local[expr] = text
                else:
                    self.declare(self.lines, self.scalars, expr, text)
                continue
            text = self.formula(expr, local)
            self.declare(inside if wide else self.lines, local if wide else self.scalars, expr, text)
        kinds = {reduction: self.variable(reduction) for reduction in loop.reductions}
        taken = {kinds[r]: self.operand(r.operands[0], local) for r in loop.reductions}
        for reduction, variable in kinds.items():
            self.lines.append(f"real {variable} = {'0' if reduction.op == 'sum' else '-INFINITY'};")
        only_sums = all(reduction.op == "sum" for reduction in kinds)  # a maximum that propagates NaN cannot be split
        if kinds and only_sums and not loop.stores:
            self.sums(inside, taken, self.source.size(loop.width))
        else:
            for reduction, variable in kinds.items():
                text = taken[variable]
                inside.append(
                    f"{variable} += {text};" if reduction.op == "sum" else f"{variable} = maximum_({text}, {variable});"
                )
            for store in loop.stores:
                sign = "+=" if store.accumulate else "="
                inside.append(f"{self.address(store.place, 'j')} {sign} {self.operand(store.expr, local)};")
            if only_sums:
                self.lines.append(_simd(kinds.values()))
            low, high = ("low", "high") if self.shared else ("0", self.source.size(loop.width))
            self.lines += [f"for (long j = {low}; j < {high}; j++) {{", *_indent(inside), "}"]
        self.scalars |= kinds

    def sums(self, inside: list[str], taken: dict[str, str], width: str) -> None:
        """Print sums over four quarters of the columns at once, so that their additions are independent."""
        parts = {variable: [f"{variable}_{part}" for part in "abcd"] for variable in taken}
        self.lines += [f"real {', '.join(f'{name} = 0' for name in names)};" for names in parts.values()]
        self.lines += [_simd(name for names in parts.values() for name in names)]
        self.lines.append(f"for (long i = 0; i < {width} / 4; i++) {{")
        for part in range(4):
            lines = [*inside, *(f"{parts[variable][part]} += {text};" for variable, text in taken.items())]
            self.lines += _indent(["{", *_indent([f"const long j = i + {width} / 4 * {part};", *lines]), "}"])
        lines = [*inside, *(f"{variable} += {text};" for variable, text in taken.items())]
        self.lines += ["}", f"for (long j = {width} / 4 * 4; j < {width}; j++) {{", *_indent(lines), "}"]
        self.lines += [f"{name} += ({a} + {b}) + ({c} + {d});" for name, (a, b, c, d) in parts.items()]

    def declare(self, lines: list[str], names: dict[Expr, str], expr: Expr, text: str) -> None:
        names[expr] = self.variable(expr)
        kind = "int" if expr.op in ("gt", "lt", "ge", "le", "eq", "ne") else "real"
        lines.append(f"const {kind} {names[expr]} = {text};")

    def variable(self, expr: Expr) -> str:
        """Return an unused name, similar to the one in the program."""
        name, number = expr.name or "e", 0
        while name in self.taken:
            number += 1
            name = f"{expr.name or 'e'}_{number}"
        self.taken.add(name)
        return name

    def formula(self, expr: Expr, local: dict[Expr, str]) -> str:
        args = [self.operand(a, local) if isinstance(a, Expr) else self.source.number(a) for a in expr.args]
        return args[0] if expr.op == "spread" else OPERATIONS[expr.op].c.format(*args)

    def operand(self, expr: Expr, local: dict[Expr, str]) -> str:
        return local[expr] if expr in local else self.scalars[expr]

    def address(self, place: Place, index: str = "") -> str:
        """Return the C expression of an element of a row, or of its address if there is no index."""
        key = (place.array, place.shift)
        if key not in self.pointers:
            later = "_next" if place.shift and place.array.kind == "state" else ""
            later = "_now" if place.array.kind == "carry" and not place.shift else later
            self.pointers[key] = place.array.name + later
        pointer = self.pointers[key]
        offset = self.source.size(place.offset) if place.offset else ""
        if not index:
            return f"{pointer} + {offset}" if offset else pointer
        return f"{pointer}[{offset} + {index}]" if offset else f"{pointer}[{index}]"


def _once(lines: list[str]) -> list[str]:
    """Print a phase that cannot be divided: the thread that takes the first part runs it."""
    return ["if (!part) {", *_indent(lines), "}"]


def _simd(sums: Iterable[str]) -> str:
    sums = ", ".join(sums)
    return "#pragma omp simd" + (f" reduction(+ : {sums})" if sums else "")


def _time(place: Place) -> str:
    return "t + 1" if place.shift else "t"


def _indent(lines: list[str]) -> list[str]:
    return [line if line.startswith("#") else f"  {line}" for line in lines]
