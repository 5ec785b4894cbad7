"""Matrix products of our own, for processors that the BLAS inside torch does not make full use of.

That BLAS is MKL, which on AMD's processors works with vectors of 256 bits, whatever they have. On a Zen 5 the C below,
compiled for the processor at hand, is 2.0 to 2.7 times as fast, from the few rows of one step to the many of all steps.
It is the textbook's way (Goto and van de Geijn, 2008, "Anatomy of high-performance matrix multiplication"): the right
matrix is laid out in panels that are read from front to back, and a block of the result stays in registers meanwhile.
Elsewhere torch's own product is taken; on Intel's processors MKL is as fast as the hardware allows. A Zen 4, which has
AVX-512 but does it in halves, was not measured.
"""

from __future__ import annotations

import ctypes
from array import array
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from rnnlab.engine.cpu import compiler, threads

SMALLEST = 2**20
"""Multiplications of a whole product. For fewer, what stands around it costs as much as is won."""
MULTIPLICATIONS_A_THREAD = 2**21
"""Less work than this is not worth a further thread."""

CPUINFO = Path("/proc/cpuinfo")
SOURCE = (
    """\
#include <string.h>

typedef {real} real;

/* A block of the result is ROWS x WIDTH, WIDTH two vectors: together they just fit into the registers. TALL rows are
   done before the next panel's turn, DEPTH of the inner numbers before the next, so that what is read stays near. */
#if defined(__AVX512F__)
enum {{ BYTES = 64, ROWS = 8 }};
#elif defined(__AVX__)
enum {{ BYTES = 32, ROWS = 4 }};
#else
enum {{ BYTES = 16, ROWS = 4 }};
#endif
enum {{ LANES = BYTES / sizeof(real), WIDTH = 2 * LANES, TALL = 128, DEPTH = 256 }};
typedef real vector __attribute__((vector_size(BYTES)));
typedef real unaligned __attribute__((vector_size(BYTES), aligned(sizeof(real))));

/* Element [i, j] is at[i * row + j * column]. */
struct matrix {{ real *at; long row, column; }};

/* result = left right, or added to what is there: [rows, inner] times [inner, outer]. Panels: room for DEPTH rows. */
struct call {{ struct matrix left, right, result; long rows, inner, outer, add; real *panels; }};

"""
    + threads.TEAM.replace("{", "{{").replace("}", "}}")
    + """
long width(void) {{ return WIDTH; }}
long depth(void) {{ return DEPTH; }}

/* As panels: columns 0 to WIDTH - 1 as [inner, WIDTH], then the next; the last is filled up with zeros. */
void pack(const real *from, long row, long column, long inner, long outer, real *panels) {{
  for (long j = 0; j < outer; j += WIDTH, from += WIDTH * column, panels += inner * WIDTH) {{
    const long width = outer - j < WIDTH ? outer - j : WIDTH;
    if (width < WIDTH) memset(panels, 0, inner * WIDTH * sizeof(real));
    if (column == 1)
      for (long k = 0; k < inner; k++) memcpy(panels + k * WIDTH, from + k * row, width * sizeof(real));
    else
      for (long i = 0; i < width; i++)
        for (long k = 0; k < inner; k++) panels[k * WIDTH + i] = from[k * row + i * column];
  }}
}}

/* So many rows of so many panels, both constants where it is called. */
static inline __attribute__((always_inline)) void block(const int rows, const int panels, long inner, const real *left,
                                                        long row, long column, const real *right, real *result,
                                                        long result_row, int add) {{
  vector sum[ROWS][8];
  for (int i = 0; i < rows; i++)
    for (int v = 0; v < 2 * panels; v++) sum[i][v] = (vector){{0}};
  for (long k = 0; k < inner; k++)
    for (int i = 0; i < rows; i++) {{
      const real x = left[i * row + k * column];
      for (int v = 0; v < 2 * panels; v++)
        sum[i][v] += x * *(const unaligned *)(right + v / 2 * inner * WIDTH + k * WIDTH + v % 2 * LANES);
    }}
  for (int i = 0; i < rows; i++)
    for (int v = 0; v < 2 * panels; v++) {{
      unaligned *to = (unaligned *)(result + i * result_row + v * LANES);
      *to = add ? *to + sum[i][v] : sum[i][v];
    }}
}}

/* Rows times panels, each of inner * WIDTH numbers. However many rows there are, each is added up in one order. */
void multiply(long rows, long inner, long outer, const real *left, long row, long column, const real *panels,
              real *result, long result_row, int add) {{
  real rest[ROWS * WIDTH];
  long j = 0;
  if (rows == 1) /* four panels at once: one alone would wait for its additions */
    for (; j + 4 * WIDTH <= outer; j += 4 * WIDTH)
      block(1, 4, inner, left, row, column, panels + j * inner, result + j, result_row, add);
  for (; j < outer; j += WIDTH) {{
    const long width = outer - j;
    for (long i = 0, n; i < rows; i += n) {{
      n = rows - i >= ROWS ? ROWS : rows - i >= 4 ? 4 : 1;
      const real *from = left + i * row, *right = panels + j * inner;
      real *there = result + i * result_row + j, *to = width < WIDTH ? rest : there;
      const long to_row = width < WIDTH ? WIDTH : result_row;
      const int to_add = width < WIDTH ? 0 : add;
      if (n == ROWS)
        block(ROWS, 1, inner, from, row, column, right, to, to_row, to_add);
      else if (n == 4)
        block(4, 1, inner, from, row, column, right, to, to_row, to_add);
      else
        block(1, 1, inner, from, row, column, right, to, to_row, to_add);
      for (long b = 0; b < n && width < WIDTH; b++)
        for (long c = 0; c < width; c++)
          there[b * result_row + c] = (add ? there[b * result_row + c] : 0) + rest[b * WIDTH + c];
    }}
  }}
}}

static void share_of_rows(const struct call *call) {{
  const struct matrix *a = &call->left, *b = &call->right, *c = &call->result;
  for (long k = 0; k < call->inner; k += DEPTH) {{
    const long inner = call->inner - k < DEPTH ? call->inner - k : DEPTH;
    pack(b->at + k * b->row, b->row, b->column, inner, call->outer, call->panels);
    for (long i = 0; i < call->rows; i += TALL)
      multiply(call->rows - i < TALL ? call->rows - i : TALL, inner, call->outer, a->at + i * a->row + k * a->column,
               a->row, a->column, call->panels, c->at + i * c->row, c->row, call->add || k);
  }}
}}

void whole(struct team *team) {{ together(team, share_of_rows); }}
"""
)


class Product:
    """Products of numbers of one type.

    Args:
        dtype: float32 or float64.

    Attributes:
        multiply: the address of the C function for one step of a sequence, with a weight that `pack` has laid out.

    Raises:
        NoCompiler: there is no compiler, or it fails.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.library = compiler.load(SOURCE.format(real="float" if dtype == torch.float32 else "double"))
        self.width, self.depth = self.library.width(), self.library.depth()
        self.multiply = ctypes.cast(self.library.multiply, ctypes.c_void_p).value
        self.library.pack.argtypes = [ctypes.c_void_p, *[ctypes.c_long] * 4, ctypes.c_void_p]
        self.library.whole.argtypes = [ctypes.c_void_p]
        self.library.pack.restype = self.library.whole.restype = None

    def pack(self, weight: Tensor) -> Tensor:
        """``[inner, outer]`` as panels ``[outer / width, inner, width]``."""
        inner, outer = weight.shape
        panels = self._panels(inner, outer)
        self.library.pack(weight.data_ptr(), *weight.stride(), inner, outer, panels.data_ptr())
        return panels

    def _panels(self, inner: int, outer: int) -> Tensor:
        return torch.empty(-(-outer // self.width), inner, self.width, dtype=self.dtype, device="cpu")

    def __call__(self, left: Tensor, right: Tensor, out: Tensor, add: bool) -> None:
        """``out [rows, outer] = left [rows, inner] @ right [inner, outer]``, or added to ``out`` if ``add``."""
        (rows, inner), outer = left.shape, right.shape[1]
        count = max(1, min(torch.get_num_threads(), rows * inner * outer // MULTIPLICATIONS_A_THREAD, rows // 8))
        calls, room = [], [self._panels(min(inner, self.depth), outer) for _ in range(count)]
        for part, panels in enumerate(room):
            first, last = rows * part // count, rows * (part + 1) // count
            matrices = [(left[first:last], left), (right, right), (out[first:last], out)]
            described = [number for view, whole in matrices for number in (view.data_ptr(), *whole.stride())]
            calls.append(array("q", [*described, last - first, inner, outer, add, panels.data_ptr()]))
        threads.run(self.library.whole, [call.buffer_info()[0] for call in calls], (left, right, out, calls, room))


def mm(left: Tensor, right: Tensor, out: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """``left [rows, inner] @ right [inner, outer]``, plus ``bias [outer]``; not recorded for autograd.

    Args:
        left: it may lie in memory in any way.
        right: as ``left``.
        out: where to put it, each row in one piece; None for new memory.
        bias: what is added to every row.
    """
    own = ours(left.dtype) if left.device.type == "cpu" and left.numel() * right.shape[1] >= SMALLEST else None
    if own is None:
        return torch.mm(left, right, out=out) if bias is None else torch.addmm(bias, left, right, out=out)
    if out is None:
        out = left.new_empty(left.shape[0], right.shape[1])
    if bias is not None:
        out.copy_(bias)
    own(left, right, out, bias is not None)
    return out


@cache
def ours(dtype: torch.dtype) -> Product | None:
    """Our products, where torch's are slower; None elsewhere, and where they cannot be compiled."""
    if dtype not in (torch.float32, torch.float64) or not is_wanted():
        return None
    try:
        compiler.blas()  # whose threads are the ones to work with
        return Product(dtype)
    except compiler.NoCompiler:
        return None


@cache
def is_wanted() -> bool:
    """Whether torch's BLAS is MKL, and the processor has vectors of 512 bits and is not Intel's."""
    if not torch.backends.mkl.is_available() or not CPUINFO.exists():
        return False
    with CPUINFO.open(errors="replace") as file:
        first = file.read(8192).split("\n\n")[0]  # of a hundred processors the first
    return "avx512f" in first and "GenuineIntel" not in first
