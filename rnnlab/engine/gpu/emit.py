"""Print the loops of a step as Triton kernels: ``forward``, ``inference`` (which keeps nothing) and ``backward``.

``rnnlab explain cell=lstm device=cuda`` shows the result. A program of a kernel computes a tile of ``BM`` rows of the
batch, in one of two ways:

whole: the program has all columns of its rows, and runs every time step. The weights are loaded once, before the loop
    over time, and stay on the chip, as does the state. No program waits for another.
split: the program has only ``columns`` columns of every piece (`rnnlab.engine.gpu.pieces`), and the kernel is launched
    anew for every time step. What a program needs of the columns of others (the rows of a product, sums over a row)
    goes through memory, and is complete only after a launch has ended. So a step has as many kernels as it needs.

A function without products and sums over rows needs no columns of others. Its kernel has columns of its own and runs
every time step.
"""

from __future__ import annotations

from math import isfinite, isnan
from pathlib import Path
from typing import Any

from rnnlab.engine.gpu.pieces import Pieces
from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.loops.formulas import Array, Expr, Place
from rnnlab.engine.loops.lower import Lowered
from rnnlab.engine.loops.schedule import Function, Loop, Multiply

FUNCTIONS = Path(__file__).with_name("functions.py")
SMALLEST = 16
"""Smallest number of rows or columns of a tile that is multiplied."""
CHUNK = 64
"""Number of rows of a weight that are read from memory at a time, where they do not stay on the chip."""
ALONE = 64
"""Number of columns of a program whose columns do not depend on others."""
COMPARISONS = {"gt": ">", "lt": "<", "ge": ">=", "le": "<=", "eq": "==", "ne": "!="}
REDUCTIONS = {"sum": ("sum", "0.0"), "amax": ("max", 'float("-inf")')}
SELECTIONS = {"where": "tl.where({} != 0, {}, {})", "threshold_backward": "tl.where({1} <= {2}, 0.0, {0})"}


def block(width: int) -> int:
    """Return the width of the tile that holds ``width`` columns: a power of two."""
    return max(SMALLEST, 1 << (width - 1).bit_length())


class Source:
    """The Triton code of a cell.

    Args:
        lowered: the cell's step as loops.
        names: the functions to print, from ``forward``, ``inference`` and ``backward``.
        columns: the number of columns of a program; None for all columns.

    Attributes:
        text: the code, without the functions that all kernels share.
        functions: the printed functions, by name.
        arrays: for each function, its arrays in memory.
        late: sums that are sums over all steps of a stored gradient, with the first column and the width of each part,
            and the place of the gradient. They are computed after the kernels.
    """

    def __init__(self, lowered: Lowered, names: tuple[str, ...], columns: int | None = None) -> None:
        self.functions = {name: Printed(lowered, name, columns) for name in names}
        self.arrays = {name: one.arrays for name, one in self.functions.items()}
        texts = [text for one in self.functions.values() for text in (*one.texts.values(), *one.table)]
        self.text = "\n\n\n".join(texts) + "\n"
        self.late = self.functions["backward"].late if "backward" in names else {}


class Printed:
    """A function of a cell as kernels.

    Attributes:
        table: the text of the kernel that fills the table of addresses; empty if the kernels run every time step.
        texts: the text of every kernel, by name, in the order of their launches within a step.
        per_step: whether the kernels are launched for every time step.
        columns: the number of columns of a program; None for all columns.
        tiles: the number of programs that share the rows.
        arrays: the arrays in memory, in the order of the kernels' arguments. ``constants`` and weights follow them.
        partials: the number of sums over a row that programs tell each other.
    """

    def __init__(self, lowered: Lowered, name: str, columns: int | None) -> None:
        self.lowered, self.name, self.function = lowered, name, getattr(lowered, name)
        self.backward = name == "backward"
        self.pieces = Pieces(self.function)
        meets = bool(self.function.products) or any(loop.reductions for loop in self.function.loops)
        self.columns = columns if meets else min(ALONE, block(self.pieces.widest()))
        self.per_step = meets and columns is not None
        self.tiles = 1 if self.columns is None else -(-self.pieces.widest() // self.columns)
        self.late = self._late() if self.backward else {}
        self.carried = lowered.carries if self.backward else lowered.states
        self.slots: dict[Expr, int] = {}
        self.met: set[Array] = set()  # temporary arrays that one launch writes and another reads
        kernels = self._kernels()
        everything = dict.fromkeys([*self.carried, *self.function.arrays()])
        temporary = [array for array in everything if array.kind == "temporary" and array not in self.met]
        self.arrays = [array for array in everything if array not in {*temporary, *self.late}]
        self.partials = len(self.slots)
        names = [name] if len(kernels) == 1 else [f"{name}_{i}" for i in range(len(kernels))]
        self.texts = {one: kernel.text(one) for one, kernel in zip(names, kernels, strict=True)}
        self.table = [self._table()] if self.per_step else []

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

    def _table(self) -> str:
        """Print the kernel that writes the addresses of arrays and weights, and the first time step, into the table."""
        names = [*(array.name for array in self.arrays), *(f"w{i}" for i, _ in enumerate(self.function.products))]
        names += ["partials", "ends"]
        lines = [f"    tl.store(table + {i}, {name}.to(tl.int64))" for i, name in enumerate(names)]
        lines.append(f"    tl.store(table + {len(names)}, first)")
        head = f"def {self.name}_table(table, first, {', '.join(names)}):"
        return "\n".join(["@triton.jit(do_not_specialize=['first'])", head, *lines])

    def _kernels(self) -> list[Kernel]:
        """Distribute loops and products over kernels: one that reads the columns of others begins a new kernel."""
        kernels = [Kernel(self)]
        for stage in range(self.function.stages):
            for loop in self.function.loops:
                if loop.stage == stage:
                    if self.per_step and any(expr in kernels[-1].told for expr in self.function.computed(loop)):
                        kernels.append(Kernel(self))
                    kernels[-1].loop(loop)
            for number, product in enumerate(self.function.products):
                if product.stage == stage:
                    if self.per_step and product.rows.array in kernels[-1].stored:
                        kernels.append(Kernel(self))
                    kernels[-1].product(number, product)
        return kernels


class Kernel:
    """One kernel in the making.

    Attributes:
        stored: the arrays that it has written.
        told: the sums over a row of which it has written the parts.
    """

    def __init__(self, printed: Printed) -> None:
        self.of, self.lowered = printed, printed.lowered
        self.stored: set[Array] = set()
        self.told: set[Expr] = set()
        self.head: list[str] = []  # before the loop over time
        self.body: list[tuple[str, Array | None]] = []  # lines, with the temporary array that a line stores
        self.tail: list[str] = []  # after the loop over time
        self.names: dict[Expr, list[str]] = {}
        self.held: dict[tuple[Array, int, int], str] = {}  # array, shift, first column of a piece -> its name
        self.carries: dict[tuple[Array, int], tuple[str, int]] = {}  # state or its gradient, column -> name, width
        self.once: dict[Any, str] = {}  # what is loaded or computed before the loop
        self.pointers: dict[tuple[Array, int], str] = {}
        self.ranges: dict[str, str] = {}
        self.used: dict[Array, None] = {}
        self.count = 0
        if not printed.per_step:
            for array in printed.carried:
                for column, width in printed.pieces.array(Place(array, 0), array.width):
                    self.carries[array, column] = (f"{array.name}_at{column}", width)

    # Names and addresses

    def assign(self, hint: str, text: str) -> str:
        self.count += 1
        name = f"{hint or 'e'}_{self.count}"
        self.body.append((f"{name} = {text}", None))
        return name

    def span(self, size: int) -> str:
        """Return the name of the numbers from 0 to ``size``, excluded."""
        self.ranges.setdefault(f"i{size}", f"tl.arange(0, {size})")
        return f"i{size}"

    def columns(self, width: int) -> str:
        """Return the name of the columns of a piece that a program has, as a vector."""
        if width == 1 or self.of.columns is None:
            return self.span(block(width))
        self.ranges.setdefault("own", f"tile * {self.of.columns} + tl.arange(0, {self.of.columns})")
        return "own"

    def size(self, width: int) -> int:
        """Return the number of columns of a tile that holds the program's columns of a piece."""
        return 1 if width == 1 else self.of.columns or block(width)

    def exact(self, width: int) -> bool:
        """Whether every column of a tile exists."""
        return width == 1 or self.size(width) * self.of.tiles == width

    def mask(self, width: int, rows: bool = True) -> str:
        """Return the condition for the numbers of a tile that exist."""
        parts = ["inside"] if rows else []
        if not self.exact(width):
            parts.append(f"({self.columns(width)} < {width})[None, :]")
        return " & ".join(parts) or "None"

    def mine(self, width: int, rows: bool = True) -> str:
        """Return the condition for the numbers that a program stores: one number per row is stored by the first one."""
        mask = self.mask(width, rows)
        if width > 1 or self.of.tiles == 1:
            return mask
        return f"{mask} & (tile == 0)" if rows else "tile == 0"

    def start(self, array: Array, shift: int, time: str = "t") -> str:
        """Return the address of the first number of an array at a time step."""
        self.used.setdefault(array)
        at = f"{time} + {shift}" if shift else time
        if array.kind == "carry" or self.alternates(array):
            at = f"({at}) % 2"
        return f"{array.name} + tl.cast({at}, tl.int64) * (B * {array.width})"

    def alternates(self, array: Array) -> bool:
        """Whether only the last two steps of a state are in memory."""
        return array.kind == "state" and self.of.name == "inference" and self.lowered.output.array is not array

    def address(self, array: Array, shift: int, column: int, width: int) -> str:
        """Return the addresses of the numbers of a piece at this time step, or the next if ``shift`` is 1."""
        return f"{self.pointer(array, shift)} + rows * {array.width} + {self.offset(column, width)}"

    def pointer(self, array: Array, shift: int) -> str:
        """Return the name of the address of the first number of an array at this time step, or the next."""
        if array.kind == "temporary":
            self.used.setdefault(array)
            return array.name
        if (array, shift) not in self.pointers:
            self.pointers[array, shift] = self.assign(array.name, self.start(array, shift))
        return self.pointers[array, shift]

    def offset(self, column: int, width: int) -> str:
        return str(column) if width == 1 else f"{_plus(column, self.columns(width))}[None, :]"

    def full(self, value: str, width: int) -> str:
        """Return a value, such as a number or a row, as a tile."""
        return f"tl.zeros([BM, {self.size(width)}], tl.float32) + {value}"

    # Values

    def value(self, expr: Expr, at: tuple[int, int]) -> list[str]:
        """Return the names of the pieces of a formula, which is needed at a stage and level."""
        if expr not in self.names:
            self.names[expr] = self.compute(expr, at)
        return self.names[expr]

    def compute(self, expr: Expr, at: tuple[int, int]) -> list[str]:
        place = self.of.function.resolve(expr, at) if self.of.per_step else expr
        place = place if isinstance(place, Place) else expr.place
        if place:
            pieces = self.of.pieces.array(place, expr.width)
            return [self.read(place.array, place.shift, column, width) for column, width in pieces]
        if expr.reduces:
            return [self.reduced(expr, at)]
        result = []
        for i, width in enumerate(self.of.pieces.formula(expr)):
            args = []
            for arg in expr.args:
                if isinstance(arg, Expr):
                    given = self.value(arg, at)
                    args.append(given[i] if arg.width > 1 else given[0])
                else:
                    args.append(_number(arg))
            result.append(self.assign(expr.name, self.formula(expr.op, args, width)))
        return result

    def formula(self, op: str, args: list[str], width: int) -> str:
        if op == "spread":
            return self.full(args[0], width)
        if op in COMPARISONS:
            return f"({args[0]} {COMPARISONS[op]} {args[1]}).to(tl.float32)"
        return SELECTIONS.get(op, OPERATIONS[op].c).format(*args)

    def read(self, array: Array, shift: int, column: int, width: int) -> str:
        """Return the name of a piece of an array, and load it if it is not in registers."""
        key = (array, shift, column)
        carried = self.carries.get((array, column))
        if key in self.held:
            return self.held[key]
        if array.kind == "constant":
            return self.constant(array, column, width)
        if carried and shift == self.of.backward:
            return carried[0]
        if array.kind == "temporary":
            self.of.met.add(array)
        text = f"tl.load({self.address(array, shift, column, width)}, mask={self.mask(width)}, other=0.0)"
        self.held[key] = self.assign(array.name, text)
        return self.held[key]

    def constant(self, array: Array, column: int, width: int) -> str:
        key = (array, column, width)
        if key not in self.once:
            self.used.setdefault(array)
            name = self.once[key] = f"{array.name}_at{column}"
            by_row = self.lowered.constant_rows[self.lowered.constants.index(array.name)]
            at = f"{array.name} + rows * {array.width} + " if by_row else f"{array.name} + "
            mask = self.mask(width, by_row)
            masked = "" if mask == "None" else f", mask={mask}, other=0.0"
            self.head.append(f"{name} = tl.load({at}{self.offset(column, width)}{masked})")
        return self.once[key]

    def part(self, expr: Expr, at: tuple[int, int]) -> str:
        """Return the sum, or the largest, of the program's own columns of a row."""
        (operand,) = expr.operands
        (how, neutral), total = REDUCTIONS[expr.op], ""
        for name, width in zip(self.value(operand, at), self.of.pieces.formula(operand), strict=True):
            tile, mask = self.full(name, width), self.mask(width, False)
            if width == 1 and self.of.tiles > 1:
                mask = "tile == 0"
            one = f"tl.{how}({tile if mask == 'None' else f'tl.where({mask}, {tile}, {neutral})'}, 1, keep_dims=True)"
            total = one if not total else f"{total} + {one}" if how == "sum" else f"tl.maximum({total}, {one})"
        return total

    def reduced(self, expr: Expr, at: tuple[int, int]) -> str:
        """Return the name of a sum over a row, or of its largest number."""
        if not self.of.per_step:
            return self.assign(expr.name, self.part(expr, at))
        name, (how, neutral) = self.span(block(self.of.tiles)), REDUCTIONS[expr.op]
        mask = f"inside & ({name} < {self.of.tiles})[None, :]"
        parts = self.assign("parts", f"tl.load({self.partial(expr)} + {name}[None, :], mask={mask}, other={neutral})")
        return self.assign(expr.name, f"tl.{how}({parts}, 1, keep_dims=True)")

    def partial(self, expr: Expr) -> str:
        """Return the addresses of the parts of a sum over a row."""
        slot = self.of.slots.setdefault(expr, len(self.of.slots))
        return f"partials + ({slot} * B + rows) * {self.of.tiles}"

    # Stores and products

    def loop(self, loop: Loop) -> None:
        """Print the stores of a loop, and its parts of sums over a row."""
        at = (loop.stage, loop.level)
        for store in loop.stores:
            if store.accumulate:
                if store.place.array not in self.of.late:
                    self.add(store.place, store.expr, at)
                continue
            pieces = self.of.pieces.array(store.place, store.expr.width)
            for name, (column, width) in zip(self.value(store.expr, at), pieces, strict=True):
                self.store(store.place.array, store.place.shift, column, width, name)
        if self.of.per_step:
            for expr in loop.reductions:
                address = f"{self.partial(expr)} + tile"
                self.body.append((f"tl.store({address}, {self.part(expr, at)}, mask=inside)", None))
                self.told.add(expr)

    def store(self, array: Array, shift: int, column: int, width: int, name: str) -> None:
        """Write a piece of an array; the rows of sequences that have ended keep their state, or get zeros."""
        key = (array, shift, column)
        if array.kind == "temporary":
            self.held[key] = name
            self.stored.add(array)
            if self.of.per_step:
                text = f"tl.store({self.address(array, 0, column, width)}, {self.full(name, width)}, mask={self.mine(width)})"
                self.body.append((text, array))
            return
        moves = array.kind in ("state", "carry")
        old = self.read(array, int(array.kind == "carry"), column, width) if moves else "0.0"
        self.held[key] = self.assign(array.name, self.full(name, width))
        if moves and (array, column) in self.carries and (array.kind == "carry" or self.alternates(array)):
            return  # stays in registers
        text = f"picked(live, {self.held[key]}, {old}, LENGTHS)"
        address = self.address(array, shift, column, width)
        self.body.append((f"tl.store({address}, {text}, mask={self.mine(width)})", None))
        self.stored.add(array)

    def add(self, place: Place, expr: Expr, at: tuple[int, int]) -> None:
        """Add a formula to the gradient of a constant: a sum over the rows of the tile, or one for every row."""
        array, by_row = place.array, place.array in self.lowered.by_row
        self.used.setdefault(array)
        row = "rows" if by_row else "tl.program_id(0)"
        for name, (column, width) in zip(self.value(expr, at), self.of.pieces.array(place, expr.width), strict=True):
            text = f"tl.where(live, {self.full(name, width)}, 0.0)"
            text = text if by_row else f"tl.sum({text}, 0, keep_dims=True)"
            total = f"{array.name}_at{column}"
            address = f"{array.name} + {row} * {array.width} + {self.offset(column, width)}"
            address = address if width > 1 or by_row else f"{address} + tl.zeros([1, 1], tl.int32)"
            mask = self.mine(width, by_row)
            if self.of.per_step:
                before = f"tl.load({address}, mask={mask}, other=0.0)"
                self.body.append((f"tl.store({address}, {before} + {text}, mask={mask})", None))
                continue
            if (total, "sum") not in self.once:
                self.once[total, "sum"] = total
                self.head.append(f"{total} = tl.zeros([{'BM' if by_row else 1}, {self.size(width)}], tl.float32)")
                self.tail.append(f"tl.store({address}, {total}, mask={mask})")
            self.body.append((f"{total} += {text}", None))

    def product(self, number: int, product: Multiply) -> None:
        """Print the product of the rows of a time step and a weight."""
        array, shift = product.result.array, product.result.shift
        pieces = self.of.pieces.array(product.result, product.outer)
        before = [
            self.full(self.read(array, shift, column, width), width) if product.accumulate else "" for column, width in pieces
        ]
        columns = [(column - product.result.offset, width) for column, width in pieces]
        results = (self.streamed if self.of.per_step else self.kept)(number, product, columns, before)
        for name, (column, width) in zip(results, pieces, strict=True):
            if width == 1:  # the other columns of its tile are zero
                name = self.assign(array.name, f"tl.sum({name}, 1, keep_dims=True)")
            self.held.pop((array, shift, column), None)
            self.store(array, shift, column, width, name)

    def kept(self, number: int, product: Multiply, columns: list[tuple[int, int]], before: list[str]) -> list[str]:
        """Multiply by weights that stay on the chip."""
        rows = []
        for column, width in self.of.pieces.array(product.rows, product.inner):
            name = self.read(product.rows.array, product.rows.shift, column, width)
            if not self.exact(width) or width == 1:
                name = self.assign("rows", f"tl.where(({self.columns(width)} < {width})[None, :], {name}, 0.0)")
            rows.append((name, column - product.rows.offset, width))
        found = []
        for (column, width), start in zip(columns, before, strict=True):
            terms = [start] if start else []
            for name, first, inner in rows:
                key = (number, first, column)
                if key not in self.once:
                    self.once[key] = f"w{number}_{first}_{column}"
                    load = self.weight(number, product, first, block(inner), inner, column, width)
                    self.head.append(f"{self.once[key]} = {load}")
                terms.append(f"times({name}, {self.once[key]}, PRODUCTS)")
            found.append(self.assign(product.result.array.name, " + ".join(terms)))
        return found

    def streamed(self, number: int, product: Multiply, columns: list[tuple[int, int]], before: list[str]) -> list[str]:
        """Multiply by weights that are read from memory, as are the rows, a chunk at a time."""
        array, inner = product.rows.array, product.inner
        if array.kind == "temporary":
            self.of.met.add(array)
        names = []
        for (_, width), start in zip(columns, before, strict=True):
            size = block(width) if width == 1 else self.size(width)
            names.append(self.assign(product.result.array.name, start or f"tl.zeros([BM, {size}], tl.float32)"))
        chunk = min(CHUNK, block(inner))
        base, span = self.pointer(array, product.rows.shift), self.span(chunk)
        mask = "inside" if inner % chunk == 0 else f"inside & (k + {span} < {inner})[None, :]"
        at = f"{base} + rows * {array.width} + ({product.rows.offset} + k + {span})[None, :]"
        lines = [f"for k in range(0, {inner}, {chunk}):", f"    part = tl.load({at}, mask={mask}, other=0.0)"]
        for name, (column, width) in zip(names, columns, strict=True):
            load = self.weight(number, product, "k", chunk, inner, column, width)
            lines.append(f"    {name} += times(part, {load}, PRODUCTS)")
        self.body += [(line, None) for line in lines]
        return names

    def weight(self, number: int, product: Multiply, k: Any, size: int, inner: int, column: int, width: int) -> str:
        """Return the load of a tile of a weight, whose memory is contiguous."""
        span, columns = self.span(size), self.columns(width)
        row, step = ("", f" * {inner}") if product.transposed else (f" * {product.outer}", "")
        whole = inner % size == 0
        masks = [] if whole else [f"({'k + ' * (k == 'k')}{span} < {inner})[:, None]"]
        masks += [] if self.exact(width) and width > 1 else [f"({columns} < {width})[None, :]"]
        mask = f", mask={' & '.join(masks)}, other=0.0" if masks else ""
        self.once.setdefault(("weight", number), f"w{number}")
        return f"tl.load(w{number} + {_plus(k, span)}[:, None]{row} + {_plus(column, columns)}[None, :]{step}{mask})"

    # The whole kernel

    def text(self, name: str) -> str:
        """Return the text of the kernel."""
        arrays, products, whole = self.of.arrays, len(self.of.function.products), not self.of.per_step
        weights = [f"w{number}" for number in range(products)]
        before, after = self.moves()
        body = [text for text, array in self.body if array is None or array in self.of.met]
        body = ["if LENGTHS:", "    live = inside & (t < end)", "else:", "    live = inside", *body]
        if whole:
            arguments = [*(array.name for array in arrays), *weights, "ends", "T"]
            turn = "t = T - 1 - i" if self.of.backward else "t = i"
            lines = [*self.head, *before, "for i in range(T):", *_indent([turn, *body, *after]), *self.tail]
        else:
            arguments = ["table", "step"]
            number = len(arrays) + products
            lines = [f"{a.name} = array_at(table, {arrays.index(a)}, tl.float32)" for a in self.used if a in arrays]
            for i in sorted(key[1] for key in self.once if key[0] == "weight"):
                lines.append(f"w{i} = weight_at(table, {len(arrays) + i}, PRODUCTS)")
            lines.append(f"partials = array_at(table, {number}, tl.float32)")
            lines.append(f"ends = array_at(table, {number + 1}, tl.int64)")
            turn = f"t = (tl.load(table + {number + 2}) {'-' if self.of.backward else '+'} step).to(tl.int32)"
            lines += [turn, *self.head, *body]
        tops = ["rows = (tl.program_id(0) * BM + tl.arange(0, BM))[:, None]", "inside = rows < B"]
        tops += ["tile = tl.program_id(1)"] if self.of.columns else []
        tops += [f"{one} = {text}" for one, text in self.ranges.items()]
        ends = ["if LENGTHS:", "    end = tl.load(ends + rows, mask=inside, other=0)"]
        lines = [*tops, *ends, *lines] if whole else [*tops, *lines[: lines.index(turn)], *ends, *lines[lines.index(turn) :]]
        arguments += ["B", "LENGTHS: tl.constexpr", "BM: tl.constexpr", "PRODUCTS: tl.constexpr"]
        # Sizes that change from call to call are not compiled in, not even a 1.
        jit = f"@triton.jit(do_not_specialize={['T' if whole else 'step', 'B']})"
        return "\n".join([jit, f"def {name}({', '.join(arguments)}):", *_indent(lines)])

    def moves(self) -> tuple[list[str], list[str]]:
        """Return the lines that load the carried tiles before the loop over time, and those that end a time step."""
        before, after = [], []
        for (array, column), (name, width) in self.carries.items():
            at, mask = f"rows * {array.width} + {self.offset(column, width)}", self.mask(width)
            carry = array.kind == "carry"
            first, last = array.name, self.start(array, 0, "T")
            if carry:
                first, last = last, first
            before.append(f"{name} = tl.load({first} + {at}, mask={mask}, other=0.0)")
            new = self.held[array, int(not carry), column]
            after.append(f"{name} = picked(live, {new}, {name}, LENGTHS)")
            if carry or self.alternates(array):
                self.tail.append(f"tl.store({last} + {at}, {name}, mask={self.mine(width)})")
        return before, after


def _indent(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _plus(number: Any, name: str) -> str:
    return f"({number} + {name})" if number else name


def _number(value: Any) -> str:
    value = float(value)
    if isnan(value):
        return 'float("nan")'
    return repr(value) if isfinite(value) else f'float("{"-" * (value < 0)}inf")'
