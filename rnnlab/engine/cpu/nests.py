"""Group the operations of a step with heads into loop nests, and print them as C.

Operations over the same elements share one nest, where their results are C variables. A result is stored in an array if
another nest reads it, unless computing it a second time is cheaper. Sums are accumulated in the nest of their operand.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from math import isfinite, isnan, prod
from typing import Any

from rnnlab.engine.cpu.layout import Layout, Shape, View, natural
from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.ir.program import Node, Value

COMPARISONS = ("gt", "lt", "ge", "le", "eq", "ne")
ROWS = 4
"""Rows of a matrix that a nest computes at once, if their number is a multiple of it."""
MULTIPLE = 16
"""Sums over a multiple of this number of elements are accumulated in LANES parts (c/heads.h). Compilers would otherwise
add the elements of a vector register one after the other, as floating-point addition is not associative."""
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


class _Nest:
    """The code of one nest: loops over the axes with more than one element, the last one vectorised."""

    def __init__(self, body: Body, nest: list[Node], domain: Shape, sizes: list[tuple[str, int]]) -> None:
        self.body, self.axes = body, _axes(domain)
        self.loops = [axis for axis, _ in sizes]
        self.levels: list[dict[str, str]] = [{} for _ in range(len(sizes) + 1)]  # declarations: variable, expression
        self.local: dict[Value, str] = {}
        self.inside: list[str] = []
        self.stores: list[str] = []
        self.sums: list[tuple[Value, str, str, str]] = []  # result, operand, operation, index
        for node in nest:
            self._add(node)
        flat = not sizes
        outer = {name: text for name, text in self.levels[0].items() if name not in body.declared}
        lines = [f"const real {name} = {text};" for name, text in outer.items()]
        lines += [*self.inside, *self.stores] if flat else self._looped(sizes)
        whole = [value for value, _, _, index in self.sums if index == "0"]
        before = [f"real {value} = {self._start(value)};" for value in whole]
        body.variables.update(whole)
        if flat:
            body.variables.update(self.local)
            body.declared.update(outer)
        self.lines = [*before, *(lines if flat else ["{", *(f"  {line}" for line in lines), "}"])]

    def _add(self, node: Node) -> None:
        result = node.results[0]
        operands = [self._operand(operand) for operand in self.body.layout.operands[node]]
        if self.body.layout.reduces(node):
            index = self.body.layout.views[result].index(self.axes)
            self.sums.append((result, operands[0], "max" if node.operation == "amax" else "sum", index))
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
        """Return a C variable with the operand's element; it is read in the outermost loop where it is known."""
        if not isinstance(operand, View):
            return self.body.number(operand)
        if operand.base in self.local:
            return self.local[operand.base]
        if operand.base in self.body.variables:
            return str(operand.base)
        index = operand.index(self.axes)
        level = max((n + 1 for n, axis in enumerate(self.loops) if axis in index), default=0)
        name = f"{operand.base}_{re.sub(r'[^a-z0-9]+', '_', index)}"
        self.levels[level][name] = self.body.read(operand, self.axes)
        return name

    def _start(self, value: Value) -> str:
        return "-INFINITY" if any(v is value and kind == "max" for v, _, kind, _ in self.sums) else "0"

    def _update(self, target: str, text: str, kind: str) -> str:
        return f"{target} += {text};" if kind == "sum" else f"{target} = maximum_({text}, {target});"

    def _looped(self, sizes: list[tuple[str, int]]) -> list[str]:
        """Print the loops; ``sizes`` are the indices and sizes of the axes."""
        (inner, width), is_matrix = sizes[-1], len(sizes) == 2
        rows = ROWS if is_matrix and sizes[0][1] % ROWS == 0 else 1
        columns = [one for one in self.sums if is_matrix and one[3] == inner]
        each_row = [one for one in self.sums if is_matrix and one[3] not in ("0", inner)]
        whole = [one for one in self.sums if one not in columns and one not in each_row]
        only_sums = all(kind == "sum" for _, _, kind, _ in whole + each_row)
        by_lane = only_sums and width % MULTIPLE == 0
        lane = f"[{inner} - k]" if by_lane else ""
        places = {value: self.body.places[value] for value, *_ in columns}
        before = [f"for (long j = 0; j < {width}; j++) {places[v]}[j] = {self._start(v)};" for v, *_ in columns]
        lines = [f"real {value}_c = {place}[j];" for value, place in places.items()]
        start, after, end = [], [], []
        sums = [str(value) for value, *_ in whole]
        if by_lane:
            before += [f"real {value}_l[LANES] = {{0}};" for value, *_ in whole]
            end += [f"{value} = folded({value}_l);" for value, *_ in whole]
        for row in range(rows):
            block = [f"const real {name} = {text};" for name, text in self.levels[-1].items()]
            block += [*self.inside, *self.stores]
            block += [self._update(f"{value}_c", text, kind) for value, text, kind, _ in columns]
            block += [self._update(f"{value}_s{row}{lane}", text, kind) for value, text, kind, _ in each_row]
            block += [
                self._update(f"{value}_l{lane}" if by_lane else f"{value}", t, kind) for value, t, kind, _ in whole
            ]
            for value, _, _, index in each_row:
                name, place = f"{value}_s{row}", self.body.places.get(value)
                sums.append(name)
                start.append(f"real {name}[LANES] = {{0}};" if by_lane else f"real {name} = {self._start(value)};")
                if by_lane and rows == ROWS:
                    names = ", ".join(f"{value}_s{n}" for n in range(rows))
                    after += [f"folded4({names}, {place} + {index});"] if place and not row else []
                elif place:
                    after += [f"{place}[{_shift(index, row)}] = {f'folded({name})' if by_lane else name};"]
            if is_matrix:
                outer = self.levels[1]
                block = _in_row(block, outer, row)
                start += [f"const real {name}_r{row} = {_shift(text, row)};" for name, text in outer.items()]
            lines += ["{", *block, "}"] if rows > 1 else block
        lines += [f"{place}[j] = {value}_c;" for value, place in places.items()]
        loop = self._inner(inner, width, lines, sums, only_sums, by_lane and bool(sums))
        if is_matrix:
            loop = [f"for (long i = 0; i < {sizes[0][1]}; i += {rows}) {{", *start, *loop, *after, "}"]
        return [*before, *loop, *end]

    def _inner(
        self, inner: str, width: int, lines: list[str], sums: list[str], only_sums: bool, by_lane: bool
    ) -> list[str]:
        """Print the innermost loop, or two loops over blocks of LANES elements if sums are accumulated by lane."""
        lines = [f"  {line}" for line in lines]
        if by_lane:
            head = f"for (long {inner} = k; {inner} < k + LANES; {inner}++) {{"
            return [f"for (long k = 0; k < {width}; k += LANES)", "#pragma omp simd", head, *lines, "}"]
        reduction = f" reduction(+ : {', '.join(sums)})" if sums else ""
        simd = [f"#pragma omp simd{reduction}"] if only_sums else []
        return [*simd, f"for (long {inner} = 0; {inner} < {width}; {inner}++) {{", *lines, "}"]


def _is_total(pointer: str) -> bool:
    return pointer.startswith("total_")


def _shift(index: str, row: int) -> str:
    return re.sub(r"\bi\b", f"(i + {row})", index) if row else index


def _in_row(lines: list[str], names: Collection[str], row: int) -> list[str]:
    """Return lines for row ``i + row``; ``names`` are variables of a row."""
    if names:
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
        lines = [pattern.sub(rf"\1_r{row}", line) for line in lines]
    return [_shift(line, row) for line in lines]
