/* Matrix products for the processor of this machine (Goto and van de Geijn, 2008, "Anatomy of high-performance matrix
   multiplication"). The right matrix is packed into panels, which are read from front to back, while one block of the
   result stays in registers.

   Compile with -DREAL=float or -DREAL=double; with -DREAL=float -DPAIRS the factors are bfloat16 numbers, and an
   instruction of the processor adds the products of two pairs to a float. */

#ifdef PAIRS
#include <immintrin.h>
#endif
#include <string.h>

#include "team.h"

typedef REAL real;
#ifdef PAIRS
typedef unsigned factor; /* two bfloat16 numbers that are adjacent in the inner dimension; `inner` counts the pairs */
#else
typedef real factor;
#endif

/* A block of the result is ROWS x WIDTH, with a WIDTH of two vectors: the largest block that fits into the registers.
   The inner dimension is divided into parts of DEPTH, and the rows into groups of GROUP, one cache line of a
   column-major left matrix. A group stays in the L1 cache and is multiplied by one panel after the other, so that its
   rows of the result are written from front to back. */
#if defined(__AVX512F__)
enum { BYTES = 64, ROWS = 8 };
#elif defined(__AVX__)
enum { BYTES = 32, ROWS = 6 };
#else
enum { BYTES = 16, ROWS = 6 };
#endif
enum { LANES = BYTES / sizeof(real), WIDTH = 2 * LANES, DEPTH = 256, GROUP = 64 / sizeof(real) };
typedef real vector __attribute__((vector_size(BYTES)));
typedef real unaligned __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

/* Element [i, j] is at[i * row + j * column]. */
struct matrix { real *at; long row, column; };

/* result [rows, outer] = left [rows, inner] right [inner, outer] + bias [outer]; bias may be null. sums: memory for the
   sum of each row of a left matrix whose rows are not contiguous, or null. more: a second right matrix, its number of
   columns, which may be 0, and its result. panels: memory for `packed` rows of the right matrices, a multiple of DEPTH
   or all. Calls of a team with the same panels have the same right matrices, and each packs a part of them. */
struct call {
  struct matrix left, right, result;
  long rows, inner, outer;
  const real *bias;
  real *sums, *panels;
  long packed;
  struct { struct matrix right, result; long outer; } more;
  /* Set in C. first, end: the packed rows; depth: the rows of a panel; part, parts: the part that this call packs. */
  long first, end, depth, part, parts;
};

static inline long padded(long outer) { return (outer + WIDTH - 1) / WIDTH * WIDTH; }

long width(void) { return WIDTH; }
long depth(void) { return DEPTH; }
#ifdef __AVX512BF16__
int multiplies_pairs(void) { return 1; }
#else
int multiplies_pairs(void) { return 0; }
#endif

#ifdef PAIRS
/* Pack floats [inner, outer], of which only the upper half is read, into panels of pairs. */
void pack(const real *from, long row, long column, long inner, long outer, factor *panels) {
  for (long j = 0; j < outer; j += WIDTH)
    for (long k = 0; k < inner; k += 2, panels += WIDTH)
      for (long i = 0; i < WIDTH; i++) {
        factor pair[2] = {0, 0};
        if (j + i < outer) memcpy(pair, from + k * row + (j + i) * column, sizeof *pair);
        if (j + i < outer && k + 1 < inner) memcpy(pair + 1, from + (k + 1) * row + (j + i) * column, sizeof *pair);
        panels[i] = pair[0] >> 16 | (pair[1] & 0xffff0000);
      }
}

static inline vector add_product(vector sum, factor x, vector y) {
  return (vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(x), (__m512bh)y);
}
#else
typedef real quad __attribute__((vector_size(4 * sizeof(real)), aligned(sizeof(real))));
#define mixed(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)

/* Copy 4 x 4 numbers transposed; `from` and `to` are the distances of rows. */
static inline void transpose(const real *source, long from, real *target, long to) {
  const quad a = *(const quad *)source, b = *(const quad *)(source + from);
  const quad c = *(const quad *)(source + 2 * from), d = *(const quad *)(source + 3 * from);
  const quad e = mixed(a, b, 0, 4, 1, 5), f = mixed(a, b, 2, 6, 3, 7), g = mixed(c, d, 0, 4, 1, 5);
  const quad h = mixed(c, d, 2, 6, 3, 7);
  *(quad *)target = mixed(e, g, 0, 1, 4, 5), *(quad *)(target + to) = mixed(e, g, 2, 3, 6, 7);
  *(quad *)(target + 2 * to) = mixed(f, h, 0, 1, 4, 5), *(quad *)(target + 3 * to) = mixed(f, h, 2, 3, 6, 7);
}

/* Pack a matrix [inner, outer] into panels [inner, WIDTH], one for every WIDTH columns; zeros pad the last panel. */
void pack(const real *from, long row, long column, long inner, long outer, real *panels) {
  for (long j = 0; j < outer; j += WIDTH, from += WIDTH * column, panels += inner * WIDTH) {
    const long width = outer - j < WIDTH ? outer - j : WIDTH;
    if (width < WIDTH) memset(panels, 0, inner * WIDTH * sizeof(real));
    if (column == 1 && width == WIDTH) /* a constant size needs no call of memcpy for every row */
      for (long k = 0; k < inner; k++) memcpy(panels + k * WIDTH, from + k * row, WIDTH * sizeof(real));
    else if (column == 1)
      for (long k = 0; k < inner; k++) memcpy(panels + k * WIDTH, from + k * row, width * sizeof(real));
    else {
      const long whole = row == 1 && width == WIDTH ? inner / GROUP * GROUP : 0;
      for (long first = 0; first < whole; first += GROUP) /* the width of a cache line, so that each is read once */
        for (long i = 0; i < WIDTH; i += 4)
          for (long k = first; k < first + GROUP; k += 4)
            transpose(from + k + i * column, column, panels + k * WIDTH + i, WIDTH);
      for (long i = 0; i < width; i++)
        for (long k = whole; k < inner; k++) panels[k * WIDTH + i] = from[k * row + i * column];
    }
  }
}

static inline vector add_product(vector sum, factor x, vector y) { return sum + x * y; }
#endif

/* Load a vector, which `rows` rows use. If registers are scarce, gcc would load it again for every row. */
static inline __attribute__((always_inline)) vector load(const factor *from, const int rows) {
  vector loaded = *(const unaligned *)from;
#ifdef __SSE__
  if (rows > 1) __asm__("" : "+v"(loaded));
#endif
  return loaded;
}

/* Define a function that multiplies HIGH rows by WIDE panels, and adds the rows of `base` unless it is null. Each has
   all registers for itself, as it is not inlined. */
#define BLOCK(name, HIGH, WIDE)                                                                                   \
  static __attribute__((noinline)) void name(long inner, const factor *left, long row, long column,               \
                                             const factor *right, real *result, long result_row,                 \
                                             const real *base, long base_row) {                                  \
    vector sum[HIGH][2 * WIDE];                                                                                   \
    for (int i = 0; i < HIGH; i++)                                                                                \
      for (int v = 0; v < 2 * WIDE; v++) {                                                                        \
        sum[i][v] = (vector){0};                                                                                  \
        __builtin_prefetch(result + i * result_row + v * LANES, 1); /* early, as it may not be in the cache */    \
      }                                                                                                           \
    for (long k = 0; k < inner; k++) {                                                                            \
      vector y[2 * WIDE];                                                                                         \
      for (int v = 0; v < 2 * WIDE; v++)                                                                          \
        y[v] = load(right + v / 2 * inner * WIDTH + k * WIDTH + v % 2 * LANES, HIGH);                             \
      for (int i = 0; i < HIGH; i++) {                                                                            \
        const factor x = left[i * row + k * column];                                                              \
        for (int v = 0; v < 2 * WIDE; v++) sum[i][v] = add_product(sum[i][v], x, y[v]);                           \
      }                                                                                                           \
    }                                                                                                             \
    for (int i = 0; i < HIGH; i++)                                                                                \
      for (int v = 0; v < 2 * WIDE; v++) {                                                                        \
        if (base) sum[i][v] = (vector)*(const unaligned *)(base + i * base_row + v * LANES) + sum[i][v];          \
        *(unaligned *)(result + i * result_row + v * LANES) = sum[i][v];                                          \
      }                                                                                                           \
  }
BLOCK(block, ROWS, 1)
BLOCK(block_4, 4, 1)
BLOCK(block_2, 2, 1)
BLOCK(block_1, 1, 1)
BLOCK(wide_2, 1, 2)
BLOCK(wide_4, 1, 4)

/* Multiply rows by panels, and add the rows of `base` unless it is null. The terms of a sum are added in the same order
   for any number of rows. */
static void multiply_and_add(long rows, long inner, long outer, const factor *left, long row, long column,
                             const factor *panels, real *result, long result_row, const real *base, long base_row) {
  real rest[ROWS * WIDTH];
  long j = 0;
  if (rows == 1) { /* several panels at once: the additions of a single panel depend on each other */
    for (; j + 4 * WIDTH <= outer; j += 4 * WIDTH)
      wide_4(inner, left, row, column, panels + j * inner, result + j, result_row, base ? base + j : 0, base_row);
    for (; j + 2 * WIDTH <= outer; j += 2 * WIDTH)
      wide_2(inner, left, row, column, panels + j * inner, result + j, result_row, base ? base + j : 0, base_row);
  }
  for (; j < outer; j += WIDTH) {
    const long width = outer - j;
    for (long i = 0, n; i < rows; i += n) {
      n = rows - i >= ROWS ? ROWS : rows - i >= 4 ? 4 : rows - i >= 2 ? 2 : 1;
      const factor *from = left + i * row, *right = panels + j * inner;
      const real *add = base ? base + i * base_row + j : 0, *to_add = width < WIDTH ? 0 : add;
      real *there = result + i * result_row + j, *to = width < WIDTH ? rest : there;
      const long to_row = width < WIDTH ? WIDTH : result_row;
      if (n == ROWS)
        block(inner, from, row, column, right, to, to_row, to_add, base_row);
      else if (n == 4)
        block_4(inner, from, row, column, right, to, to_row, to_add, base_row);
      else if (n == 2)
        block_2(inner, from, row, column, right, to, to_row, to_add, base_row);
      else
        block_1(inner, from, row, column, right, to, to_row, to_add, base_row);
      for (long b = 0; b < n && width < WIDTH; b++)
        for (long c = 0; c < width; c++)
          there[b * result_row + c] = (add ? add[b * base_row + c] : 0) + rest[b * WIDTH + c];
    }
  }
}

void multiply(long rows, long inner, long outer, const factor *left, long row, long column, const factor *panels,
              real *result, long result_row, int add) {
  multiply_and_add(rows, inner, outer, left, row, column, panels, result, result_row, add ? result : 0, result_row);
}

#ifndef PAIRS
/* Columns of the panels of both right matrices. */
static inline long all_columns(const struct call *call) { return padded(call->outer) + padded(call->more.outer); }

/* Compute the sums of the rows of a packed group; the sums are added to those of `before` columns. */
static void add_up(const real *packed, long inner, long rows, real *sums, long before) {
  real total[GROUP] = {0};
  for (long d = 0; d < inner; d++)
    for (long r = 0; r < GROUP; r++) total[r] += r < rows ? packed[d * GROUP + r] : 0;
  for (long r = 0; r < rows; r++) sums[r] = (before ? sums[r] : 0) + total[r];
}

/* Multiply the rows of one group by the packed rows of the right matrix. */
static void multiply_group(const struct call *call, long i) {
  const struct matrix *a = &call->left, *c = &call->result;
  const long rows = call->rows - i < GROUP ? call->rows - i : GROUP;
  const real *panels = call->panels;
  real *result = c->at + i * c->row, packed[DEPTH * GROUP];
  for (long k = call->first, inner; k < call->end; k += inner, panels += inner * all_columns(call)) {
    const real *left = a->at + i * a->row + k * a->column;
    long row = a->row, column = a->column;
    inner = call->end - k < DEPTH ? call->end - k : DEPTH;
    if (column != 1) { /* otherwise every element of a row would be read from another page */
      const real *next = k + inner < call->end ? left + inner * column : left + GROUP - (k - call->first) * column;
      if (row == 1 && rows == GROUP)
        for (long d = 0; d < inner; d++) {
          memcpy(packed + d * GROUP, left + d * column, GROUP * sizeof(real));
          __builtin_prefetch(next + d * column, 0, 2); /* a processor does not foresee reads from page after page */
        }
      else
        for (long d = 0; d < inner; d++)
          for (long r = 0; r < rows; r++) packed[d * GROUP + r] = left[r * row + d * column];
      if (call->sums) add_up(packed, inner, rows, call->sums + i, k);
      left = packed, row = 1, column = GROUP;
    }
    multiply_and_add(rows, inner, call->outer, left, row, column, panels, result, c->row, k ? result : call->bias,
                     k ? c->row : 0);
    if (call->more.outer)
      multiply(rows, inner, call->more.outer, left, row, column, panels + inner * padded(call->outer),
               call->more.result.at + i * call->more.result.row, call->more.result.row, k);
  }
}

static void multiply_part(const struct call *call) {
  for (long i = 0; i < call->rows; i += GROUP) multiply_group(call, i);
}

static void pack_part(const struct call *call) {
  const long columns = all_columns(call), rows = call->end - call->first;
  const long all = (rows + call->depth - 1) / call->depth * (columns / WIDTH);
  for (long n = all * call->part / call->parts; n < all * (call->part + 1) / call->parts; n++) {
    const long k = n / (columns / WIDTH) * call->depth, place = n % (columns / WIDTH) * WIDTH;
    const long inner = rows - k < call->depth ? rows - k : call->depth, is_more = place >= padded(call->outer);
    const struct matrix *b = is_more ? &call->more.right : &call->right;
    const long j = is_more ? place - padded(call->outer) : place, outer = is_more ? call->more.outer : call->outer;
    const real *from = b->at + (call->first + k) * b->row + j * b->column;
    real *panel = call->panels + k * columns + place * inner;
    pack(from, b->row, b->column, inner, outer - j < WIDTH ? outer - j : WIDTH, panel);
  }
}

/* Pack rows first to end - 1 of the right matrix, in panels of `depth` rows. */
static void pack_rows(struct team *team, long first, long end, long depth) {
  for (long i = 0; i < team->count; i++) {
    struct call *call = team->calls[i];
    const int is_shared = team->count > 1 && call->panels == team->calls[!i]->panels; /* with any other call */
    call->first = first, call->end = end, call->depth = depth;
    call->part = is_shared ? i : 0, call->parts = is_shared ? team->count : 1;
  }
  together(team, pack_part);
}

/* Compute the whole product, divided among the threads of the team. */
void whole(struct team *team) {
  const long inner = team->calls[0]->inner, packed = team->calls[0]->packed;
  for (long first = 0; first < inner; first += packed) {
    pack_rows(team, first, inner - first < packed ? inner : first + packed, DEPTH);
    together(team, multiply_part);
  }
}

/* Pack a right matrix, divided among the threads of the team, for `multiply`. */
void pack_all(struct team *team) { pack_rows(team, 0, team->calls[0]->inner, team->calls[0]->inner); }
#endif
