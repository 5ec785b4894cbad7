"""Group the operations of a step with heads into loop nests, and print them as C.

Operations over the same elements share one nest, where their results are C variables. A result is stored in an array if
another nest reads it, unless computing it a second time is cheaper. Sums are accumulated in the nest of their operand.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import isfinite, isnan, prod
from typing import Any

from rnnlab.engine.cpu.layout import Layout, Shape, View, natural
from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.ir.program import Node, Value

COMPARISONS = ("gt", "lt", "ge", "le", "eq", "ne")
FEW, MANY = 4, 8
"""Rows of a matrix that a nest computes at once, if their number is a multiple. ROWS (c/heads.h) is one of them."""
ROW = "(i + r)"
"""Index of one of these rows."""
AHEAD = "AHEAD"
"""Mark of the place for code that fetches the arrays of the next step, in each loop over blocks of rows. The number of
rows of a block and of the matrix follow it. `HeadSource` replaces the first such line, and removes the others."""
ALIGNED = 16
"""Arrays start at multiples of this number of elements, so that vectors do not cross cache lines."""


def needed(layout: Layout, nodes: list[Node], wanted: Iterable[Value], leaves: Collection[Value]) -> list[Node]:
    """Return the nodes that compute ``wanted`` from ``leaves``, without views."""
    missing = {layout.views[value].base for value in wanted}
    kept = []
    for node in reversed(nodes):
        if node in layout.operands and node.results[0] in missing - set(leaves):
            kept.append(node)
            missing.update(operand.base for operand in layout.operands[node] if isinstance(operand, View))
    return kept[::-1]


def scheduled(layout: Layout, nodes: list[Node]) -> list[list[Node]]:
    """Divide nodes among nests: small domains first, and all nodes of a domain that are ready in one nest."""
    waiting, nests = list(nodes), []
    while waiting:
        unknown = {node.results[0] for node in waiting}
        ready = [node for node in waiting if not unknown.intersection(_bases(layout, node))]
        domain = min((layout.domains[node] for node in ready), key=prod)
        nest: list[Node] = []
        inside: set[Value] = set()
        for node in waiting:
            if layout.domains[node] != domain:
                continue
            views = [view for view in layout.operands[node] if isinstance(view, View) and view.base in unknown]
            if all(view.base in inside and _is_same(layout, view, domain) for view in views):
                nest.append(node)
                if not layout.reduces(node):
                    inside.add(node.results[0])
        waiting = [node for node in waiting if node not in nest]
        nests.append(nest)
    return nests


def _bases(layout: Layout, node: Node) -> list[Value]:
    return [operand.base for operand in layout.operands[node] if isinstance(operand, View)]


def _lanes(width: int) -> str:
    """Return the number of parts, as C, in which a sum over ``width`` elements is accumulated; nothing for one.

    Otherwise compilers would add the elements of a vector register one after the other, as floating-point addition is
    not associative. LANES (c/heads.h) is 8 or 16.
    """
    return "LANES" if width % 16 == 0 else next((str(n) for n in (8, 4) if width % n == 0), "")


def _axes(domain: Shape) -> list[str]:
    return ["i", "j"][2 - len(domain) :]


def _is_same(layout: Layout, view: View, domain: Shape) -> bool:
    """Whether element (i, j) of a view is element (i, j) of the value that it is a view of."""
    axes, base = _axes(domain), layout.views[view.base]
    return view.shape == base.shape == domain and view.index(axes) == base.index(axes)


class Body:
    """The C code of one time step of one head.

    Args:
        layout: the step.
        phases: nodes to compute; ``between`` separates the code of the phases.
        leaves: the C pointers of the values that are arrays.
        targets: values to store, and the C pointers of their arrays; a pointer to double is added to.
        single: whether the precision is single.
        between: a line of C between the phases.

    Attributes:
        lines: the code.
        scratch: the number of elements of its arrays, which start at ``scratch``.
    """

    def __init__(
        self,
        layout: Layout,
        phases: list[list[Node]],
        leaves: dict[Value, str],
        targets: list[tuple[Value, str]],
        single: bool,
        between: str = "",
    ) -> None:
        self.layout, self.leaves, self.targets, self.single = layout, leaves, targets, single
        self.places = dict(leaves)
        self.variables: set[Value] = set()
        self.made = {node.results[0]: node for phase in phases for node in phase}
        divided = [scheduled(layout, phase) for phase in phases]
        self.nests = [nest for nests in divided for nest in nests]
        self.written = {
            layout.views[value].base: pointer
            for value, pointer in targets
            if self._is_computed(value) and not _is_total(pointer)
        }
        # A sum whose target is an array of its own shape is accumulated there.
        self.places.update(
            (value, pointer)
            for value, pointer in targets
            if value in self.made and layout.reduces(self.made[value]) and not _is_total(pointer)
        )
        self.declared: set[str] = set()
        self.scratch = 0
        self.lines: list[str] = []
        self._share()
        nests: list[str] = []
        for number, phase in enumerate(divided):
            nests += [between] if number and between else []
            for _ in phase:
                nests += self._nest(self.nests[len(self.printed)])
        self.lines += nests
        for value, pointer in targets:
            is_there = self.places.get(value) == pointer and prod(layout.views[value].shape) > 1
            if not is_there and self.written.get(layout.views[value].base) != pointer:
                self.lines += self._copy(value, pointer)

    # Which values other nests read

    def _is_computed(self, value: Value) -> bool:
        """Whether a nest computes a value element by element, so that it can store it as well."""
        view = self.layout.views[value]
        base, node = self.layout.views[view.base], self.made.get(view.base)
        is_whole = [(n, s) for n, s in zip(view.shape, view.strides, strict=True) if n > 1] == [
            (n, s) for n, s in zip(base.shape, base.strides, strict=True) if n > 1
        ]
        return node is not None and not self.layout.reduces(node) and is_whole

    def _share(self) -> None:
        """Add to each nest the nodes that it computes a second time, and give the other shared values an array."""
        self.printed: list[list[Node]] = []
        stored: dict[Value, None] = {}
        for number, nest in enumerate(self.nests):
            domain = self.layout.domains[nest[0]]
            inside = {node.results[0] for node in nest if not self.layout.reduces(node)}
            full: list[Node] = []

            def include(node: Node, domain: Shape = domain, inside: set = inside, full: list = full) -> None:
                for view in self.layout.operands[node]:
                    if not isinstance(view, View) or view.base not in self.made or view.base in inside:
                        continue
                    if self._is_cheap(view, domain):
                        inside.add(view.base)
                        include(self.made[view.base])
                    else:
                        stored[view.base] = None
                full.append(node)

            for node in nest:
                include(node)
            self.nests[number] = full
        for value, pointer in self.targets:
            base = self.layout.views[value].base
            if base in self.made and pointer not in (self.written.get(base), self.places.get(value)):
                stored[base] = None
        for value in stored:
            shape = self.layout.views[value].shape
            if prod(shape) > 1 and value not in self.places:
                self.lines.append(f"real *const {value}_at = scratch + {self.scratch};")
                self.scratch += -(-prod(shape) // ALIGNED) * ALIGNED
                self.places[value] = f"{value}_at"

    def _is_cheap(self, view: View, domain: Shape) -> bool:
        """Whether a matrix that another nest computes is better computed again than stored."""
        node = self.made[view.base]
        large = len([size for size in domain if size > 1]) == 2
        simple = node.operation not in COMPARISONS and not OPERATIONS[node.operation].costly
        return large and simple and not self.layout.reduces(node) and _is_same(self.layout, view, domain)

    # Printing

    def _nest(self, nest: list[Node]) -> list[str]:
        self.printed.append(nest)
        domain = self.layout.domains[nest[0]]
        sizes = [(axis, size) for axis, size in zip(_axes(domain), domain, strict=True) if size > 1]
        return _Nest(self, nest, domain, sizes).lines

    def _copy(self, value: Value, pointer: str) -> list[str]:
        """Store a value that no nest stores."""
        view = self.layout.views[value]
        axes = _axes(view.shape)
        sign = "+=" if _is_total(pointer) else "="
        target = View(view.base, view.shape, natural(view.shape))
        line = f"{pointer}[{target.index(axes)}] {sign} {self.read(view, axes)};"
        for axis, size in reversed(list(zip(axes, view.shape, strict=True))):
            line = f"for (long {axis} = 0; {axis} < {size}; {axis}++) {line}" if size > 1 else line
        return [line]

    def read(self, view: View, axes: list[str]) -> str:
        """Return the C expression of an element."""
        if view.base in self.variables:
            return str(view.base)
        return f"{self.places[view.base]}[{view.index(axes)}]"

    def number(self, value: Any) -> str:
        """Print a number."""
        value = float(value)
        if isnan(value):
            return "NAN"
        if not isfinite(value):
            return "INFINITY" if value > 0 else "-INFINITY"
        text = f"{value!r}f" if self.single else repr(value)
        return f"({text})" if value < 0 else text

    def is_in_place(self, before: Value, after: Value, pointer: str) -> bool:
        """Whether ``after`` may be stored where ``before`` is: no nest reads an element that is already overwritten."""
        views = [(n, view, self.layout.domains[node]) for n, nest in enumerate(self.nests)
                 for node in nest for view in self.layout.operands[node] if isinstance(view, View)]  # fmt: skip
        pairs = [(self.layout.views[value].base, place) for value, place in self.targets]
        copied = [base for base, place in pairs if self.written.get(base) != place]
        base = self.layout.views[after].base
        if self.written.get(base) != pointer or before in copied:
            return False
        last = next(n for n, nest in enumerate(self.nests) if self.made[base] in nest)
        reads = [(n, view, domain) for n, view, domain in views if view.base is before]
        return all(n < last or (n == last and _is_same(self.layout, view, domain)) for n, view, domain in reads)


@dataclass(frozen=True)
class _Sum:
    """A sum or a maximum over elements of a vector or a matrix.

    Attributes:
        value: the result.
        over: what it is over: "all" elements, those of a "row" or those of a "column".
        is_sum: whether it is a sum.
        element: what is added up, as C.
    """

    value: Value
    over: str
    is_sum: bool
    element: str

    @property
    def start(self) -> str:
        """The result for no elements."""
        return "0" if self.is_sum else "-INFINITY"

    def update(self, target: str) -> str:
        """Return the code that includes an element."""
        return f"{target} += {self.element};" if self.is_sum else f"{target} = maximum_({self.element}, {target});"


class _Nest:
    """The code of one nest: loops over the axes with more than one element, the last one vectorised.

    A matrix is computed in blocks of rows. What all its rows share is read once for a block, and what belongs to a row
    once for the row. A compiler cannot see that it need not be read again, as every store might change it.

    Attributes:
        lines: the code.
    """

    def __init__(self, body: Body, nest: list[Node], domain: Shape, sizes: list[tuple[str, int]]) -> None:
        self.body, self.sizes = body, sizes
        reduced = {node: self._over(node, domain) for node in nest if body.layout.reduces(node)}
        carried = [node for node, over in reduced.items() if over != "column"]
        self.only_sums = all(node.operation != "amax" for node in carried)
        self.lanes = _lanes(sizes[-1][1]) if self.only_sums and carried else ""
        self.rows = self._rows(list(reduced.values()).count("row")) if len(sizes) == 2 else ""
        self.axes = [ROW if axis == "i" and self.rows else axis for axis in _axes(domain)]
        self.reads: dict[tuple[str, ...], dict[str, str]] = {}  # variables and expressions, by the axes of their index
        self.local: dict[Value, str] = {}
        self.inside: list[str] = []
        self.stores: list[str] = []
        self.sums: list[_Sum] = []
        for node in nest:
            self._add(node, reduced.get(node))
        self.whole, self.each_row, self.columns = (
            [one for one in self.sums if one.over == over] for over in ("all", "row", "column")
        )
        outer = {name: text for name, text in self.reads.get((), {}).items() if name not in body.declared}
        lines = [*_constants(outer), *(self._looped() if sizes else [*self.inside, *self.stores])]
        body.variables.update(one.value for one in self.whole)
        if not sizes:
            body.variables.update(self.local)
            body.declared.update(outer)
        self.lines = [f"real {one.value} = {one.start};" for one in self.whole]
        self.lines += ["{", *_indented(lines), "}"] if sizes else lines

    def _over(self, node: Node, domain: Shape) -> str:
        """Return what a node reduces; see `_Sum`."""
        index = self.body.layout.views[node.results[0]].index(_axes(domain))
        return "all" if index == "0" else "column" if index == self.sizes[-1][0] else "row"

    def _rows(self, sums: int) -> str:
        """Return the number of rows of a block, as C, or nothing for one; every row has ``sums`` sums."""
        (_, count), (_, width) = self.sizes
        if count % FEW or (sums and not self.lanes):
            return ""
        are_many = count % MANY == 0 and count >= 4 * MANY and width % 16 == 0 and sums <= 1
        return "ROWS" if are_many else str(FEW)

    def _add(self, node: Node, over: str | None) -> None:
        result = node.results[0]
        operands = [self._operand(operand) for operand in self.body.layout.operands[node]]
        if over:
            self.sums.append(_Sum(result, over, node.operation != "amax", operands[0]))
            return
        kind = "int" if node.operation in COMPARISONS else "real"
        self.inside.append(f"const {kind} {result} = {self.body.layout.formula(node).format(*operands)};")
        self.local[result] = str(result)
        if any(node in nest for nest in self.body.printed[:-1]):
            return  # computed a second time, and stored the first time
        places = [self.body.places.get(result), self.body.written.get(result)]
        index = self.body.layout.views[result].index(self.axes)
        self.stores += [f"{place}[{index}] = {result};" for place in dict.fromkeys(places) if place]

    def _operand(self, operand: Any) -> str:
        """Return a C variable with the operand's element."""
        if not isinstance(operand, View):
            return self.body.number(operand)
        if operand.base in self.local:
            return self.local[operand.base]
        if operand.base in self.body.variables:
            return str(operand.base)
        index = operand.index(self.axes)
        axes = tuple(axis for axis in self.axes if axis in index)
        name = re.sub(r"[^a-z0-9]+", "_", f"{operand.base} {index}").strip("_")
        self.reads.setdefault(axes, {})[name] = self.body.read(operand, self.axes)
        return f"{name}[r]" if axes == (ROW,) else name

    def _looped(self) -> list[str]:
        """Print the loops."""
        inner, width = self.sizes[-1]
        before = [f"for (long j = 0; j < {width}; j++) {self._place(one)}[j] = {one.start};" for one in self.columns]
        end = []
        if self.lanes:
            before += [f"real {one.value}_l[{self.lanes}] = {{0}};" for one in self.whole]
            end += [f"{one.value} = folded({one.value}_l, {self.lanes});" for one in self.whole]
        if len(self.sizes) == 1:
            return [*before, *self._inner(self._element((inner,))), *end]
        lines = self._element((self.axes[0], inner))
        if self.rows:
            lines = [f"#pragma GCC unroll {MANY}", f"for (long r = 0; r < {self.rows}; r++) {{", *_indented(lines), "}"]
        shared = _constants(self.reads.get((inner,), {}))
        shared += [f"real {one.value}_c = {self._place(one)}[j];" for one in self.columns]
        stored = [f"{self._place(one)}[j] = {one.value}_c;" for one in self.columns]
        block = [
            f"{AHEAD} {self.rows or 1} {self.sizes[0][1]}",
            *self._row_start(),
            *self._inner([*shared, *lines, *stored]),
            *self._row_end(),
        ]
        step = f"i += {self.rows}" if self.rows else "i++"
        return [*before, f"for (long i = 0; i < {self.sizes[0][1]}; {step}) {{", *_indented(block), "}", *end]

    def _place(self, one: _Sum) -> str:
        return self.body.places[one.value]

    def _element(self, axes: tuple[str, ...]) -> list[str]:
        """Print what is computed for one element; ``axes`` are the indices of the loops."""
        lane = f"[{self.sizes[-1][0]} - k]" if self.lanes else ""
        row = "[r]" if self.rows else ""
        lines = [*_constants(self.reads.get(axes, {})), *self.inside, *self.stores]
        lines += [one.update(f"{one.value}_c") for one in self.columns]
        lines += [one.update(f"{one.value}_s{row}{lane}") for one in self.each_row]
        return lines + [one.update(f"{one.value}_l{lane}" if lane else str(one.value)) for one in self.whole]

    def _inner(self, lines: list[str]) -> list[str]:
        """Print the innermost loop, or two loops over blocks of elements if sums are accumulated by lane."""
        (inner, width), lanes = self.sizes[-1], self.lanes
        if lanes:
            head = f"for (long {inner} = k; {inner} < k + {lanes}; {inner}++) {{"
            return [f"for (long k = 0; k < {width}; k += {lanes})", "#pragma omp simd", head, *_indented(lines), "}"]
        sums = [str(one.value) for one in self.whole] + [f"{one.value}_s" for one in self.each_row]
        reduction = f" reduction(+ : {', '.join(sums)})" if sums else ""
        simd = [f"#pragma omp simd{reduction}"] if self.only_sums else []
        return [*simd, f"for (long {inner} = 0; {inner} < {width}; {inner}++) {{", *_indented(lines), "}"]

    def _row_start(self) -> list[str]:
        """Print what is done before the elements of a block of rows: read what belongs to a row, and start its sums."""
        read = self.reads.get((self.axes[0],), {})
        if not self.rows:
            starts = {one: f"[{self.lanes}] = {{0}}" if self.lanes else f" = {one.start}" for one in self.each_row}
            return [*_constants(read), *(f"real {one.value}_s{start};" for one, start in starts.items())]
        lines = [f"real {name}[{self.rows}];" for name in read]
        if read:
            copies = " ".join(f"{name}[r] = {text};" for name, text in read.items())
            lines.append(f"for (long r = 0; r < {self.rows}; r++) {{ {copies} }}")
        return lines + [f"real {one.value}_s[{self.rows}][{self.lanes}] = {{{{0}}}};" for one in self.each_row]

    def _row_end(self) -> list[str]:
        """Print what is done after the elements of a block of rows: store its sums."""
        stored = [one for one in self.each_row if one.value in self.body.places]
        if self.rows:
            size = f"{self.rows}, {self.lanes}"
            return [f"folded_rows(*{one.value}_s, {size}, {self._place(one)} + i);" for one in stored]
        sums = {one: f"folded({one.value}_s, {self.lanes})" if self.lanes else f"{one.value}_s" for one in stored}
        return [f"{self._place(one)}[i] = {text};" for one, text in sums.items()]


def _is_total(pointer: str) -> bool:
    return pointer.startswith("total_")


def _constants(read: dict[str, str]) -> list[str]:
    """Declare variables, given what they are."""
    return [f"const real {name} = {text};" for name, text in read.items()]


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
