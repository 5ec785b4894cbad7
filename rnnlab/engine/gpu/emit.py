"""Print the loops of a step as Triton kernels: ``forward``, ``inference`` (which keeps nothing) or ``backward``.

``rnnlab explain cell=lstm device=cuda`` shows the result; `functions.py` holds what all kernels share. A program of a
kernel computes a tile of ``BM`` rows of the batch, in one of two ways:

- It has all columns of its rows, and runs every time step. The weights are loaded before the loop over time. They stay
  on the chip, as does the state. No program waits for another.
- It has ``columns`` columns of every piece (`rnnlab.engine.gpu.pieces`), and is launched anew for every time step. What
  it needs of the columns of other programs, which are the rows of products and sums over a row, goes through memory and
  is complete when a launch has ended. So a step has as many kernels as its programs have to wait for each other.

Without products and sums over a row no program needs the columns of another. Then it has some of the columns, and runs
every time step.
"""

from __future__ import annotations

from math import isfinite, isnan
from typing import Any

from rnnlab.engine.gpu.pieces import Pieces
from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.loops.formulas import Array, Expr, Place
from rnnlab.engine.loops.lower import Lowered
from rnnlab.engine.loops.schedule import Loop, Multiply, Position

SMALLEST = 16
"""Smallest number of rows or columns of a tile that is multiplied."""
CHUNK = 64
"""Number of rows of a weight that are read at a time, if the weight does not stay on the chip."""
INDEPENDENT = 64
"""Number of columns of a program whose columns do not depend on others."""
COMPARISONS = {"gt": ">", "lt": "<", "ge": ">=", "le": "<=", "eq": "==", "ne": "!="}
SELECTIONS = {"where": "tl.where({} != 0, {}, {})", "threshold_backward": "tl.where({1} <= {2}, 0.0, {0})"}
REDUCTIONS = {"sum": ("sum", "0.0"), "amax": ("max", 'float("-inf")')}


def block(width: int) -> int:
    """Return the width of the tile that holds ``width`` columns: a power of two."""
    return max(SMALLEST, 1 << (width - 1).bit_length())


class Source:
    """A function of a cell as kernels.

    Args:
        lowered: the cell's step as loops, without overlays.
        name: ``forward``, ``inference`` or ``backward``.
        columns: the number of columns of a program; None for all columns.

    Attributes:
        kernels, text: the text of every kernel, by name, in the order of their launches within a step; all of it.
        per_step: whether the kernels are launched for every time step.
        columns, tiles: the number of columns of a program, None for all; the number of programs that share the rows.
        arrays: the arrays in memory, in the order of the kernels' arguments; weights follow them.
        partials: the number of sums over a row of which programs tell each other their parts.
        late: sums that are sums over all steps of a stored gradient: first column and width of each part, and the place
            of the gradient. They are computed after the kernels.
    """

    def __init__(self, lowered: Lowered, name: str, columns: int | None = None) -> None:
        self.lowered, self.name, self.function = lowered, name, getattr(lowered, name)
        self.backward = name == "backward"
        self.pieces = Pieces(self.function)
        meets = bool(self.function.products) or any(loop.reductions for loop in self.function.loops)
        self.columns = columns if meets else min(INDEPENDENT, block(self.pieces.widest))
        self.per_step = meets and columns is not None
        self.tiles = 1 if self.columns is None else -(-self.pieces.widest // self.columns)
        self.late = self._late() if self.backward else {}
        self.carried = lowered.carries if self.backward else lowered.states
        self.slots: dict[Expr, int] = {}
        self.met: set[Array] = set()  # temporary arrays that one kernel writes and another reads
        kernels = self._kernels()
        found = dict.fromkeys([*self.carried, *self.function.arrays()])
        self.arrays = [a for a in found if a not in self.late and (a.kind != "temporary" or a in self.met)]
        self.partials = len(self.slots)
        names = [name] if len(kernels) == 1 else [f"{name}_{i}" for i in range(len(kernels))]
        self.kernels = {one: kernel.text(one) for one, kernel in zip(names, kernels, strict=True)}
        self.text = "\n\n\n".join(self.kernels.values())

    def _late(self) -> dict[Array, list[tuple[int, int, Place]]]:
        """Find the sums over formulas that are stored as gradients anyway."""
        stores = [store for loop in self.function.loops for store in loop.stores]
        gradients = {store.expr: store.place for store in stores if store.place.array.kind == "gradient"}
        found = {}
        for array in dict.fromkeys(store.place.array for store in stores if store.accumulate):
            mine = [store for store in stores if store.place.array is array]
            if array not in self.lowered.by_row and all(store.expr in gradients for store in mine):
                found[array] = [(store.place.offset, store.expr.width, gradients[store.expr]) for store in mine]
        return found

    def _kernels(self) -> list[_Kernel]:
        """Distribute loops and products over kernels: one that reads the columns of others begins a new kernel."""
        kernels = [_Kernel(self)]
        for stage in range(self.function.stages):
            for loop in self.function.loops:
                if loop.stage == stage:
                    if self.per_step and any(expr in kernels[-1].told for expr in self.function.computed(loop)):
                        kernels.append(_Kernel(self))
                    kernels[-1].loop(loop)
            for number, product in enumerate(self.function.products):
                if product.stage == stage:
                    if self.per_step and product.rows.array in kernels[-1].stored:
                        kernels.append(_Kernel(self))
                    kernels[-1].product(number, product)
        return kernels


class _Kernel:
    """One kernel in the making.

    Attributes:
        stored: the arrays that it has written.
        told: the sums over a row of which it has written the parts.
    """

    def __init__(self, source: Source) -> None:
        self.source, self.lowered = source, source.lowered
        self.stored: set[Array] = set()
        self.told: set[Expr] = set()
        self.head: list[str] = []  # before the loop over time
        self.body: list[str] = []
        self.tail: list[str] = []  # after the loop over time
        self.names: dict[Expr, list[str]] = {}  # the pieces of formulas
        self.held: dict[tuple[Array, int, int], str] = {}  # array, shift, first column -> a piece in registers
        self.carries: dict[tuple[Array, int], tuple[str, int]] = {}  # array, first column -> name and width of a piece
        self.once: set[str] = set()  # names that are defined before the loop
        self.pointers: dict[tuple[Array, int], str] = {}
        self.ranges: dict[str, str] = {}
        self.used: set[Array] = set()
        self.optional: dict[str, Array] = {}  # stores that are needed only if another kernel reads the array
        for array in [] if source.per_step else source.carried:
            for column, width in source.pieces.array(Place(array, 0), array.width):
                self.carries[array, column] = (f"{array.name}_at{column}", width)

    # Tiles and addresses

    def assign(self, hint: str, text: str) -> str:
        name = f"{hint or 'e'}_{len(self.body)}"
        self.body.append(f"{name} = {text}")
        return name

    def span(self, size: int) -> str:
        """Return the name of the numbers from 0 to ``size`` - 1."""
        return self.ranges.setdefault(f"tl.arange(0, {size})", f"i{size}")

    def columns(self, width: int) -> str:
        """Return the name of the program's columns of a piece, a vector."""
        if width == 1 or self.source.columns is None:
            return self.span(block(width))
        size = self.source.columns
        return self.ranges.setdefault(f"tile * {size} + tl.arange(0, {size})", "own")

    def size(self, width: int) -> int:
        """Return the width of the tile that holds the program's columns of a piece."""
        return 1 if width == 1 else self.source.columns or block(width)

    def limit(self, width: int, rows: bool = True, once: bool = False) -> str:
        """Return the condition that a number of a tile exists; with ``once`` also that no other program has it."""
        parts = ["inside"] if rows else []
        if width > 1 and self.size(width) * self.source.tiles != width:
            parts.append(f"({self.columns(width)} < {width})[None, :]")
        if width == 1 and self.source.tiles > 1 and once:
            parts.append("(tile == 0)")
        return " & ".join(parts) or "None"

    def full(self, value: str, width: int) -> str:
        """Return a value, such as a number or a row, as a tile."""
        return f"tl.zeros([BM, {self.size(width)}], tl.float32) + {value}"

    def load(self, address: str, limit: str) -> str:
        return f"tl.load({address})" if limit == "None" else f"tl.load({address}, mask={limit}, other=0.0)"

    def alternates(self, array: Array) -> bool:
        """Whether only the last two steps of an array are in memory."""
        inference = self.source.name == "inference" and self.lowered.output.array is not array
        return array.kind == "carry" or (array.kind == "state" and inference)

    def start(self, array: Array, time: str) -> str:
        """Return the address of the first number of an array at a time step."""
        self.used.add(array)
        time = f"({time}) % 2" if self.alternates(array) and " " in time else time + " % 2" * self.alternates(array)
        return f"{array.name} + tl.cast({time}, tl.int64) * (B * {array.width})"

    def pointer(self, array: Array, shift: int) -> str:
        """Return the name of the address of an array at this time step, or at the next if ``shift`` is 1."""
        if array.kind == "temporary":
            self.used.add(array)
            return array.name
        if (array, shift) not in self.pointers:
            self.pointers[array, shift] = self.assign(array.name, self.start(array, f"t + {shift}" if shift else "t"))
        return self.pointers[array, shift]

    def offsets(self, array: Array, column: int, width: int, rows: str = "rows") -> str:
        """Return the places of a piece among the numbers of a time step."""
        at = str(column) if width == 1 else f"{_plus(column, self.columns(width))}[None, :]"
        return f"{rows} * {array.width} + {at}" if rows else at

    def address(self, array: Array, shift: int, column: int, width: int) -> str:
        return f"{self.pointer(array, shift)} + {self.offsets(array, column, width)}"

    # Values

    def value(self, expr: Expr, at: Position) -> list[str]:
        """Return the names of the pieces of a formula that is needed at a stage and level."""
        if expr not in self.names:
            self.names[expr] = self.compute(expr, at)
        return self.names[expr]

    def compute(self, expr: Expr, at: Position) -> list[str]:
        place = self.source.function.resolve(expr, at) if self.source.per_step else expr
        place = place if isinstance(place, Place) else expr.place
        if place:
            pieces = self.source.pieces.array(place, expr.width)
            return [self.read(place.array, place.shift, column, width) for column, width in pieces]
        if expr.reduces:
            return [self.assign(expr.name, self.told_parts(expr) if self.source.per_step else self.part(expr, at))]
        result = []
        for i, width in enumerate(self.source.pieces.formula(expr)):
            args = [
                self.value(a, at)[i if a.width > 1 else 0] if isinstance(a, Expr) else _number(a) for a in expr.args
            ]
            if expr.op == "spread":
                text = self.full(args[0], width)
            elif expr.op in COMPARISONS:
                text = f"({args[0]} {COMPARISONS[expr.op]} {args[1]}).to(tl.float32)"
            else:
                text = SELECTIONS.get(expr.op, OPERATIONS[expr.op].c).format(*args)
            result.append(self.assign(expr.name, text))
        return result

    def read(self, array: Array, shift: int, column: int, width: int) -> str:
        """Return the name of a piece of an array; load it if it is not in registers."""
        key = (array, shift, column)
        if array.kind == "constant":
            return self.constant(array, column, width)
        if (array, column) in self.carries and shift == self.source.backward and key not in self.held:
            return self.carries[array, column][0]
        if key not in self.held:
            if array.kind == "temporary":
                self.source.met.add(array)
            self.held[key] = self.assign(
                array.name, self.load(self.address(array, shift, column, width), self.limit(width))
            )
        return self.held[key]

    def define(self, name: str, text: str) -> str:
        """Define a name before the loop over time."""
        if name not in self.once:
            self.once.add(name)
            self.head.append(f"{name} = {text}")
        return name

    def constant(self, array: Array, column: int, width: int) -> str:
        self.used.add(array)
        by_row = self.lowered.constant_rows[self.lowered.constants.index(array.name)]
        address = f"{array.name} + {self.offsets(array, column, width, 'rows' if by_row else '')}"
        return self.define(f"{array.name}_at{column}_{width}", self.load(address, self.limit(width, by_row)))

    def part(self, expr: Expr, at: Position) -> str:
        """Return the sum, or the maximum, over the program's columns of a row."""
        (operand,), (how, neutral), total = expr.operands, REDUCTIONS[expr.op], ""
        for name, width in zip(self.value(operand, at), self.source.pieces.formula(operand), strict=True):
            tile, limit = self.full(name, width), self.limit(width, rows=False, once=True)
            tile = tile if limit == "None" else f"tl.where({limit}, {tile}, {neutral})"
            one = f"tl.{how}({tile}, 1, keep_dims=True)"
            total = one if not total else f"{total} + {one}" if how == "sum" else f"tl.maximum({total}, {one})"
        return total

    def told_parts(self, expr: Expr) -> str:
        """Return the sum, or the maximum, over the parts of all programs."""
        (how, neutral), numbers = REDUCTIONS[expr.op], self.span(block(self.source.tiles))
        limit = f"inside & ({numbers} < {self.source.tiles})[None, :]"
        load = f"tl.load({self.parts(expr)} + {numbers}[None, :], mask={limit}, other={neutral})"
        return f"tl.{how}({load}, 1, keep_dims=True)"

    def parts(self, expr: Expr) -> str:
        """Return the address where the parts of a sum over a row are."""
        slot = self.source.slots.setdefault(expr, len(self.source.slots))
        return f"partials + ({slot} * B + rows) * {self.source.tiles}"

    # Stores and products

    def loop(self, loop: Loop) -> None:
        """Print the stores of a loop, and the parts of sums over a row that others need."""
        at = (loop.stage, loop.level)
        for store in loop.stores:
            if store.place.array in self.source.late:
                continue
            write = self.add if store.accumulate else self.store
            pieces = self.source.pieces.array(store.place, store.expr.width)
            for name, (column, width) in zip(self.value(store.expr, at), pieces, strict=True):
                write(store.place.array, store.place.shift, column, width, name)
        for expr in loop.reductions if self.source.per_step else ():
            self.body.append(f"tl.store({self.parts(expr)} + tile, {self.part(expr, at)}, mask=inside)")
            self.told.add(expr)

    def store(self, array: Array, shift: int, column: int, width: int, name: str) -> None:
        """Write a piece of an array; the rows of sequences that have ended keep their state, or get zeros."""
        key, limit = (array, shift, column), self.limit(width, once=True)
        self.stored.add(array)
        moves = array.kind in ("state", "carry")
        old = self.read(array, int(array.kind == "carry"), column, width) if moves else "0.0"
        self.held[key] = self.assign(array.name, self.full(name, width))
        if array.kind == "temporary":
            if self.source.per_step:
                line = f"tl.store({self.address(*key, width)}, {self.held[key]}, mask={limit})"
                self.optional[line] = array
                self.body.append(line)
        elif not (moves and self.carries and self.alternates(array)):  # otherwise it stays in registers
            value = f"picked(live, {self.held[key]}, {old}, LENGTHS)"
            self.body.append(f"tl.store({self.address(*key, width)}, {value}, mask={limit})")

    def add(self, array: Array, shift: int, column: int, width: int, name: str) -> None:
        """Add a piece to the gradient of a constant: for every row, or summed over the rows of the program."""
        by_row, limit = array in self.lowered.by_row, self.limit(width, array in self.lowered.by_row, once=True)
        self.used.add(array)
        value = f"tl.where(live, {self.full(name, width)}, 0.0)"
        value = value if by_row else f"tl.sum({value}, 0, keep_dims=True)"
        address = f"{array.name} + {self.offsets(array, column, width, 'rows' if by_row else 'tl.program_id(0)')}"
        address += " + tl.zeros([1, 1], tl.int32)" * (width == 1 and not by_row)
        if self.source.per_step:
            self.body.append(f"tl.store({address}, {self.load(address, limit)} + {value}, mask={limit})")
            return
        total = f"{array.name}_at{column}"
        if total not in self.once:
            self.define(total, f"tl.zeros([{'BM' if by_row else 1}, {self.size(width)}], tl.float32)")
            self.tail.append(f"tl.store({address}, {total}, mask={limit})")
        self.body.append(f"{total} += {value}")

    def product(self, number: int, product: Multiply) -> None:
        """Print the product of the rows of a time step and a weight."""
        (array, shift), offset = (product.result.array, product.result.shift), product.result.offset
        pieces = self.source.pieces.array(product.result, product.outer)
        before = [self.read(array, shift, *piece) if product.accumulate else "" for piece in pieces]
        multiply = self.streamed if self.source.per_step else self.resident
        results = multiply(number, product, [(column - offset, width) for column, width in pieces], before)
        for name, (column, width) in zip(results, pieces, strict=True):
            if width == 1:  # the other columns of its tile are zero
                name = self.assign(array.name, f"tl.sum({name}, 1, keep_dims=True)")
            self.store(array, shift, column, width, name)

    def resident(self, number: int, product: Multiply, columns: list[tuple[int, int]], before: list[str]) -> list[str]:
        """Multiply by weights that stay on the chip."""
        rows = []
        for column, width in self.source.pieces.array(product.rows, product.inner):
            name = self.read(product.rows.array, product.rows.shift, column, width)
            if block(width) != width:
                name = self.assign("rows", f"tl.where(({self.span(block(width))} < {width})[None, :], {name}, 0.0)")
            rows.append((name, column - product.rows.offset, width))
        found = []
        for (column, width), start in zip(columns, before, strict=True):
            terms = [start] if start else []
            for name, first, inner in rows:
                size = block(inner)
                weight = self.weight(number, product, first, self.span(size), inner % size, column, width)
                terms.append(f"times({name}, {self.define(f'w{number}_{first}_{column}', weight)}, PRODUCTS)")
            found.append(self.assign(product.result.array.name, " + ".join(terms)))
        return found

    def streamed(self, number: int, product: Multiply, columns: list[tuple[int, int]], before: list[str]) -> list[str]:
        """Multiply by weights that are read a chunk at a time, as are the rows."""
        array, inner = product.rows.array, product.inner
        self.source.met |= {array} if array.kind == "temporary" else set()
        totals = []
        for (_, width), start in zip(columns, before, strict=True):
            zeros = f"tl.zeros([BM, {block(1) if width == 1 else self.size(width)}], tl.float32)"
            totals.append(self.assign(product.result.array.name, f"{zeros} + {start}" if start else zeros))
        chunk = min(CHUNK, block(inner))
        span, base = self.span(chunk), self.pointer(array, product.rows.shift)
        bound = inner if inner % chunk else 0
        limit = f"inside & (k + {span} < {bound})[None, :]" if bound else "inside"
        load = self.load(f"{base} + rows * {array.width} + ({product.rows.offset} + k + {span})[None, :]", limit)
        self.body += [f"for k in range(0, {inner}, {chunk}):", f"    part = {load}"]
        for name, (column, width) in zip(totals, columns, strict=True):
            weight = self.weight(number, product, 0, f"(k + {span})", bound, column, width)
            self.body.append(f"    {name} += times(part, {weight}, PRODUCTS)")
        return totals

    def weight(self, number: int, product: Multiply, first: int, span: str, bound: int, column: int, width: int) -> str:
        """Return the load of a tile of a weight; ``bound`` is the first number of ``span`` without a row, or 0."""
        columns = self.columns(width)
        k, n = _plus(first, span), _plus(column, columns)
        row, step = ("", f" * {product.inner}") if product.transposed else (f" * {product.outer}", "")
        limits = [f"({span} < {bound})[:, None]"] if bound else []
        if width == 1 or self.size(width) * self.source.tiles != width:
            limits.append(f"({columns} < {width})[None, :]")
        self.once.add(f"w{number}")
        return self.load(f"w{number} + {k}[:, None]{row} + {n}[None, :]{step}", " & ".join(limits) or "None")

    # The whole kernel

    def text(self, name: str) -> str:
        """Return the text of the kernel."""
        source, arrays = self.source, self.source.arrays
        weights = [f"w{number}" for number, _ in enumerate(source.function.products)]
        before, after = self.moves()
        body = [line for line in self.body if self.optional.get(line) in (None, *source.met)]
        body = ["if LENGTHS:", "    live = inside & (t < end)", "else:", "    live = inside", *body]
        top = ["rows = (tl.program_id(0) * BM + tl.arange(0, BM))[:, None]", "inside = rows < B"]
        top += ["tile = tl.program_id(1)"] if source.columns else []
        top += [f"{name} = {text}" for text, name in self.ranges.items()]
        ends = ["if LENGTHS:", "    end = tl.load(ends + rows, mask=inside, other=0)"]
        if source.per_step:
            arguments, varying = ["table", "step"], "step"
            places = [*(array.name for array in arrays), *weights, "partials", "ends"]
            used = {*(array.name for array in self.used), *self.once, "partials", "ends"}
            how = {"ends": "array_at(table, {}, tl.int64)"} | dict.fromkeys(weights, "weight_at(table, {}, PRODUCTS)")
            for place, one in enumerate(places):
                if one in used:
                    top.append(f"{one} = {how.get(one, 'array_at(table, {}, tl.float32)').format(place)}")
            top.append(f"t = time_at(table, {len(places)}) {'-' if source.backward else '+'} step")
            lines = [*top, *ends, *self.head, *body]
        else:
            arguments, varying = [*(array.name for array in arrays), *weights, "ends", "T"], "T"
            turn = "t = T - 1 - i" if source.backward else "t = i"
            loop = ["for i in range(T):", *_indent([turn, *body, *after])]
            lines = [*top, *ends, *self.head, *before, *loop, *self.tail]
        arguments += ["B", "LENGTHS: tl.constexpr", "BM: tl.constexpr", "PRODUCTS: tl.constexpr"]
        # Sizes that change from call to call are not compiled in, not even a 1.
        decorator = f'@triton.jit(do_not_specialize=["{varying}", "B"])'
        return "\n".join([decorator, f"def {name}({', '.join(arguments)}):", *_indent(lines)])

    def moves(self) -> tuple[list[str], list[str]]:
        """Return the lines that load the carried pieces before the loop over time, and the last lines of a step."""
        before, after = [], []
        for (array, column), (name, width) in self.carries.items():
            carry, at = array.kind == "carry", self.offsets(array, column, width)
            first, last = (self.start(array, "T"), array.name) if carry else (array.name, self.start(array, "T"))
            before.append(f"{name} = {self.load(f'{first} + {at}', self.limit(width))}")
            after.append(f"{name} = picked(live, {self.held[array, int(not carry), column]}, {name}, LENGTHS)")
            if self.alternates(array):
                self.tail.append(f"tl.store({last} + {at}, {name}, mask={self.limit(width, once=True)})")
        return before, after


def _indent(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _plus(number: int, name: str) -> str:
    return f"({number} + {name})" if number else name


def _number(value: Any) -> str:
    value = float(value)
    if isnan(value):
        return 'float("nan")'
    return repr(value) if isfinite(value) else f'float("{"-" * (value < 0)}inf")'
