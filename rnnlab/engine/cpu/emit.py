"""Loops as C: one function for the whole sequence forward, one without keeping anything, one backward.

The C is meant to be read: ``rnnlab explain cell=lstm`` prints it. Numbers of steps, rows and columns are arguments, so
one library serves every size.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite, isnan
from typing import Any

from rnnlab.engine.cpu.formulas import Array, Expr, Place
from rnnlab.engine.cpu.lower import Lowered
from rnnlab.engine.cpu.schedule import Function, Loop, Multiply
from rnnlab.engine.cpu.threads import TEAM
from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.ir.program import Extent

HEADER = """\
#include <math.h>
#include <string.h>

typedef {real} real;

/* Memory over the sequence: row b of step t begins at at[(t & mask) * step + b * row]. The mask is -1 where every step
   has memory of its own, 0 where all share theirs, and 1 where two take turns. total: see add_up. */
struct array {{ real *at; long step, row, mask; double *total; }};

/* The weight of a product: [inner, outer], or [outer, inner] where transposed; ld from row to row. Or panels of it. */
struct weight {{ const real *at; long ld, transposed; }};

typedef void (*gemm)(const char *, const char *, const int *, const int *, const int *, const real *, const real *,
                     const int *, const real *, const int *, const real *, real *, const int *);
typedef void (*panels)(long, long, long, const real *, long, long, const real *, real *, long, int);

/* Rows first to last of a batch, over T steps; row b has lengths[b] of them, or all where lengths is null. */
struct call {{
  long T, first, last;
  const long *lengths, *sizes;
  const struct array *arrays;
  const struct weight *weights;
  gemm product;               /* sgemm or dgemm of the BLAS that torch uses */
  panels multiply;            /* ours; null where the BLAS is as fast */
  int (*set_threads)(int);    /* of that BLAS, for this thread; null where it has no such function */
}};

"""

BASICS = """\
/* On the way back, numbers too small to have all their digits are zero: gradients over many steps become such numbers,
   and each operation on one takes a hundred times as long. */
#if defined(__SSE__)
static inline unsigned long flush(void) {{
  const unsigned before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(before | 0x8040);
  return before;
}}
static inline void restore(unsigned long before) {{ __builtin_ia32_ldmxcsr(before); }}
#elif defined(__aarch64__)
static inline unsigned long flush(void) {{
  unsigned long before;
  __asm__ volatile("mrs %0, fpcr" : "=r"(before));
  __asm__ volatile("msr fpcr, %0" : : "r"(before | 1ul << 24));
  return before;
}}
static inline void restore(unsigned long before) {{ __asm__ volatile("msr fpcr, %0" : : "r"(before)); }}
#else
static inline unsigned long flush(void) {{ return 0; }}
static inline void restore(unsigned long before) {{ (void)before; }}
#endif

static inline real *at(const struct array *a, long t) {{ return a->at + (t & a->mask) * a->step; }}

/* result [rows, outer] = rows [rows, inner] times weight, added to what is there if add is 1; BLAS thinks in columns */
static void multiply(const struct call *call, const struct array *a, const real *rows, int weight,
                     const struct array *c, real *result, long inner, long outer, real add) {{
  const struct weight *w = &call->weights[weight];
  const int m = outer, n = call->last - call->first, k = inner, ld = w->ld, lda = a->row, ldc = c->row;
  const real one = 1;
  rows += call->first * lda, result += call->first * ldc;
  if (call->multiply) return call->multiply(n, k, m, rows, lda, 1, w->at, result, ldc, add != 0);
  call->product(w->transposed ? "T" : "N", "N", &m, &n, &k, &one, w->at, &ld, rows, &lda, &add, result, &ldc);
}}

static void copy_rows(const struct call *call, const struct array *a, long from, long to, long t, long width) {{
  for (long b = call->first; b < call->last; b++)
    if (t >= call->lengths[b])
      memcpy(at(a, to) + b * a->row, at(a, from) + b * a->row, width * sizeof(real));
}}

/* The gradient of what is constant: the rows of a step are summed up in single precision, the steps in double. */
static void add_up(const struct call *call, const struct array *a, long width) {{
  const long rows = a->row ? call->last : call->first + 1;
  for (long b = call->first; b < rows; b++)
    for (long j = 0; j < width; j++) {{
      real *sum = a->at + b * a->row + j;
      a->total[b * a->row + j] += *sum;
      *sum = 0;
    }}
}}

static inline real abs_(real x) {{ return x < 0 ? -x : x + 0; }}
static inline real sgn_(real x) {{ return x > 0 ? 1 : x < 0 ? -1 : 0; }}
static inline real relu_(real x) {{ return x < 0 ? 0 : x; }}
static inline real maximum_(real x, real y) {{ return x > y || x != x ? x : y; }}
static inline real minimum_(real x, real y) {{ return x < y || x != x ? x : y; }}
"""

SINGLE = """\
/* Always, as a loop that calls a function is not made of vectors. */
#define inlined static inline __attribute__((always_inline))

/* Cody-Waite reduction to |r| <= log(2)/2, then a polynomial (Moshier's Cephes); two factors, as 2^128 is no float. */
inlined real exp_(real x) {
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int whole = (int)n, half = whole >> 1;
  union { int i; float f; } low = {(half + 127) << 23}, high = {(whole - half + 127) << 23};
  return p * low.f * high.f;
}

/* Rational minimax of degrees 13 and 6, within 3e-7 (the one of Eigen and XLA). Far out, where it ends depends on how
   a compiler rounds its products: it is 1 there, as 1 - tanh(x) may be multiplied with something large. */
inlined real tanh_(real x) {
  float y = x > 7.9f ? 7.9f : x;
  y = y < -7.9f ? -7.9f : y;
  const float s = y * y;
  float p = -2.76076847742355e-16f;
  p = p * s + 2.00018790482477e-13f;
  p = p * s - 8.60467152213735e-11f;
  p = p * s + 5.12229709037114e-08f;
  p = p * s + 1.48572235717979e-05f;
  p = p * s + 6.37261928875436e-04f;
  p = p * s + 4.89352455891786e-03f;
  float q = 1.19825839466702e-06f;
  q = q * s + 1.18534705686654e-04f;
  q = q * s + 2.26843463243900e-03f;
  q = q * s + 4.89352518554385e-03f;
  y = y * p / q;
  y = x > 7.9f ? 1.0f : y;
  return x < -7.9f ? -1.0f : y;
}

inlined real sigmoid_(real x) { return 1.0f / (1.0f + exp_(-x)); }

/* 2^n (q + 1) - 1, q = exp(r) - 1 the polynomial of exp_ without its 1, which would round q away. */
inlined real expm1_(real x) {
  const float low = x < -30.0f ? -30.0f : x;
  const float n = (low * 1.44269504f + 12582912.0f) - 12582912.0f;
  const float r = (low - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float q = p * r * r + r;
  const union { int i; float f; } two = {((int)(n > 126.0f ? 126.0f : n) + 127) << 23};
  return x > 80.0f ? exp_(x) : two.f * q + (two.f - 1.0f);
}

/* e log(2) + log(m), m in [sqrt(1/2), sqrt(2)), with a polynomial in m - 1 (Moshier's Cephes). */
inlined real log_(real x) {
  const int tiny = x < 1.17549435e-38f;
  const union { float f; int i; } whole = {tiny ? x * 8388608.0f : x};
  const int e = (whole.i - 0x3f3504f3) >> 23;
  const union { int i; float f; } m = {whole.i - e * 8388608};
  const float z = m.f - 1.0f, n = e - (tiny ? 23 : 0);
  float p = 7.0376836292e-2f;
  p = p * z - 1.1514610310e-1f;
  p = p * z + 1.1676998740e-1f;
  p = p * z - 1.2420140846e-1f;
  p = p * z + 1.4249322787e-1f;
  p = p * z - 1.6668057665e-1f;
  p = p * z + 2.0000714765e-1f;
  p = p * z - 2.4999993993e-1f;
  p = p * z + 3.3333331174e-1f;
  const float y = (p * z * z * z - n * 2.12194440e-4f) - 0.5f * z * z;
  float result = (z + y) + n * 0.693359375f;
  result = x > 3.40282347e38f ? x : result;
  result = x < 0 ? NAN : result;
  result = x == 0 ? -INFINITY : result;
  return x == x ? result : x;
}

/* What 1 + x rounds away is added again, to first order. */
inlined real log1p_(real x) {
  const float u = 1.0f + x, lost = (x - (u - 1.0f)) / u;
  return log_(u) + (lost - lost == 0 ? lost : 0);
}

/* log(1 + e), e in [0, 1], as in log1p_ but without its infinities. */
inlined real softplus_(real x) {
  const float e = exp_(-abs_(x)), u = 1.0f + e;
  return relu_(x) + (log_(u) + (e - (u - 1.0f)) / u);
}
static inline real sqrt_(real x) { return sqrtf(x); }
static inline real pow_(real x, real y) { return powf(x, y); }
static inline real round_(real x) { return rintf(x); }
static inline real floor_(real x) { return floorf(x); }
static inline real ceil_(real x) { return ceilf(x); }
static inline real trunc_(real x) { return truncf(x); }
static inline real sin_(real x) { return sinf(x); }
static inline real cos_(real x) { return cosf(x); }
static inline real atan_(real x) { return atanf(x); }
static inline real erf_(real x) { return erff(x); }
"""

DOUBLE = """\
static inline real exp_(real x) { return exp(x); }
static inline real tanh_(real x) { return tanh(x); }
static inline real sigmoid_(real x) { return 1 / (1 + exp(-x)); }
static inline real expm1_(real x) { return expm1(x); }
static inline real log_(real x) { return log(x); }
static inline real log1p_(real x) { return log1p(x); }
static inline real softplus_(real x) { return (x < 0 ? 0 : x) + log1p(exp(-abs_(x))); }
static inline real sqrt_(real x) { return sqrt(x); }
static inline real pow_(real x, real y) { return pow(x, y); }
static inline real round_(real x) { return rint(x); }
static inline real floor_(real x) { return floor(x); }
static inline real ceil_(real x) { return ceil(x); }
static inline real trunc_(real x) { return trunc(x); }
static inline real sin_(real x) { return sin(x); }
static inline real cos_(real x) { return cos(x); }
static inline real atan_(real x) { return atan(x); }
static inline real erf_(real x) { return erf(x); }
"""


class Source:
    """The C of a cell, and what its arguments mean.

    Args:
        lowered: the cell's step as loops.
        single: in single precision, else in double.
        names: which of ``forward``, ``inference`` and ``backward``.

    Attributes:
        text: the C.
        arrays: for each function, the arrays in the order of its ``arrays``.
        sizes: the numbers behind n0, n1, ...
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
        head, basics = (text.format(real="float" if single else "double") for text in (HEADER, BASICS))
        self.text = "\n".join([head + TEAM, basics, SINGLE if single else DOUBLE, *bodies])
        self.sizes = list(self.symbols)

    def size(self, number: int) -> str:
        """The name of a width or an offset."""
        return self.symbols.setdefault(number, f"n{len(self.symbols)}") if number else "0"

    def function(self, name: str, function: Function) -> str:
        """One of the three functions."""
        backward = name == "backward"
        body: list[str] = []
        for stage in range(function.stages):
            loops = [loop for loop in function.loops if loop.stage == stage]
            if loops:
                body += self.rows(name, function, loops)
            for number, product in enumerate(function.products):
                if product.stage == stage:
                    body.append(self.product(name, product, number))
        for array in self.arrays[name]:
            if array.kind == "sum":
                body.append(f"add_up(call, &{self.struct(name, array)}, {self.size(array.width)});")
        carried = [a for a in self.arrays[name] if a.kind == ("carry" if backward else "state")]
        source, target = ("t + 1", "t") if backward else ("t", "t + 1")
        copies = [
            f"copy_rows(call, &{self.struct(name, a)}, {source}, {target}, t, {self.size(a.width)});" for a in carried
        ]
        body += ["if (call->lengths) {", *_indent(copies), "}"]
        steps = "for (long t = call->T - 1; t >= 0; t--) {" if backward else "for (long t = 0; t < call->T; t++) {"
        text = "\n".join(body)
        used = [(number, symbol) for number, symbol in self.symbols.items() if f"{symbol}" in text]
        sizes = [f"const long {symbol} = call->sizes[{list(self.symbols).index(n)}];" for n, symbol in used]
        before = ["const int threads = call->set_threads ? call->set_threads(1) : 0;"]
        after = ["if (call->set_threads) call->set_threads(threads);"]
        if backward:
            before, after = [*before, "const unsigned long mode = flush();"], ["restore(mode);", *after]
        lines = ["const struct array *a = call->arrays;", *sizes, *before, steps, *_indent(body), "}", *after]
        names = ", ".join(f"{i} {array.name}" for i, array in enumerate(self.arrays[name]))
        start = f"static void {name}_rows(const struct call *call) {{"
        whole = f"void {name}(struct team *team) {{ together(team, {name}_rows); }}"
        return "\n".join([f"/* arrays: {names} */", start, *_indent(lines), "}", "", whole, ""])

    def struct(self, name: str, array: Array) -> str:
        """The description of an array."""
        return f"a[{self.arrays[name].index(array)}]"

    def product(self, name: str, product: Multiply, number: int) -> str:
        """The product of all rows of a step with a weight."""
        rows, result = (self.pointer(name, place) for place in (product.rows, product.result))
        rows_array, result_array = (self.struct(name, p.array) for p in (product.rows, product.result))
        sizes = f"{self.size(product.inner)}, {self.size(product.outer)}, {int(product.accumulate)}"
        return f"multiply(call, &{rows_array}, {rows}, {number}, &{result_array}, {result}, {sizes});"

    def pointer(self, name: str, place: Place) -> str:
        """The first of a place's columns at this step, in row 0."""
        offset = f" + {self.size(place.offset)}" if place.offset else ""
        return f"at(&{self.struct(name, place.array)}, {_time(place)}){offset}"

    def rows(self, name: str, function: Function, loops: list[Loop]) -> list[str]:
        """All work of a stage on every row."""
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
        inside = [*rows, *ended, *emitted.lines]
        return [
            "{",
            *_indent([*starts, "for (long b = call->first; b < call->last; b++) {", *_indent(inside), "}"]),
            "}",
        ]

    def number(self, value: Any) -> str:
        """A literal."""
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
    """The work on one row: its loops over columns, and between them what is the same for all columns."""

    def __init__(self, source: Source, function: Function, loops: list[Loop]) -> None:
        self.source, self.function = source, function
        self.pointers: dict[tuple[Array, int], str] = {}
        self.names: dict[Expr, str] = {}
        self.taken = {array.name + later for array in function.arrays() for later in ("", "_next", "_now")}
        self.scalars: dict[Expr, str] = {}
        self.lines: list[str] = []
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
        only_sums = all(reduction.op == "sum" for reduction in kinds)  # the largest, with NaN, is no sum of parts
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
            self.lines += [f"for (long j = 0; j < {self.source.size(loop.width)}; j++) {{", *_indent(inside), "}"]
        self.scalars |= kinds

    def sums(self, inside: list[str], taken: dict[str, str], width: str) -> None:
        """Sums alone: four quarters of the columns at a time, as each addition waits for the one before."""
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
        """A name that is not taken, near the one in the program."""
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
        """An element of a row, or, without an index, where it begins."""
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


def _simd(sums: Iterable[str]) -> str:
    sums = ", ".join(sums)
    return "#pragma omp simd" + (f" reduction(+ : {sums})" if sums else "")


def _time(place: Place) -> str:
    return "t + 1" if place.shift else "t"


def _indent(lines: list[str]) -> list[str]:
    return [line if line.startswith("#") else f"  {line}" for line in lines]
