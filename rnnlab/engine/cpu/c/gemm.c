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
   The rows are divided into groups of TALL, and the inner dimension into parts of DEPTH, so that the operands stay in
   the caches: a panel is multiplied by one group of rows at a time. */
#if defined(__AVX512F__)
enum { BYTES = 64, ROWS = 8 };
#elif defined(__AVX__)
enum { BYTES = 32, ROWS = 4 };
#else
enum { BYTES = 16, ROWS = 4 };
#endif
enum { LANES = BYTES / sizeof(real), WIDTH = 2 * LANES, TALL = 128, DEPTH = 256 };
typedef real vector __attribute__((vector_size(BYTES)));
typedef real unaligned __attribute__((vector_size(BYTES), aligned(sizeof(real))));

/* Element [i, j] is at[i * row + j * column]. */
struct matrix { real *at; long row, column; };

/* result [rows, outer] = left [rows, inner] right [inner, outer], added to the result if add is 1. panels: memory for
   DEPTH rows of the right matrix. */
struct call { struct matrix left, right, result; long rows, inner, outer, add; real *panels; };

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

static inline vector add_product(vector sum, factor x, const factor *right) {
  return (vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(x), (__m512bh)_mm512_loadu_si512(right));
}
#else
/* Pack a matrix [inner, outer] into panels [inner, WIDTH], one for every WIDTH columns; zeros pad the last panel. */
void pack(const real *from, long row, long column, long inner, long outer, real *panels) {
  for (long j = 0; j < outer; j += WIDTH, from += WIDTH * column, panels += inner * WIDTH) {
    const long width = outer - j < WIDTH ? outer - j : WIDTH;
    if (width < WIDTH) memset(panels, 0, inner * WIDTH * sizeof(real));
    if (column == 1)
      for (long k = 0; k < inner; k++) memcpy(panels + k * WIDTH, from + k * row, width * sizeof(real));
    else
      for (long i = 0; i < width; i++)
        for (long k = 0; k < inner; k++) panels[k * WIDTH + i] = from[k * row + i * column];
  }
}

static inline vector add_product(vector sum, factor x, const factor *right) {
  return sum + x * *(const unaligned *)right;
}
#endif

/* Multiply `rows` rows by `panels` panels. Both are constants at every call, so that the loops are unrolled. */
static inline __attribute__((always_inline)) void block(const int rows, const int panels, long inner,
                                                        const factor *left, long row, long column,
                                                        const factor *right, real *result,
                                                        long result_row, int add) {
  vector sum[ROWS][8];
  for (int i = 0; i < rows; i++)
    for (int v = 0; v < 2 * panels; v++) sum[i][v] = (vector){0};
  for (long k = 0; k < inner; k++)
    for (int i = 0; i < rows; i++) {
      const factor x = left[i * row + k * column];
      for (int v = 0; v < 2 * panels; v++)
        sum[i][v] = add_product(sum[i][v], x, right + v / 2 * inner * WIDTH + k * WIDTH + v % 2 * LANES);
    }
  for (int i = 0; i < rows; i++)
    for (int v = 0; v < 2 * panels; v++) {
      unaligned *to = (unaligned *)(result + i * result_row + v * LANES);
      *to = add ? *to + sum[i][v] : sum[i][v];
    }
}

/* Multiply rows by panels. The terms of a sum are added in the same order for any number of rows. */
void multiply(long rows, long inner, long outer, const factor *left, long row, long column, const factor *panels,
              real *result, long result_row, int add) {
  real rest[ROWS * WIDTH];
  long j = 0;
  if (rows == 1) /* four panels at once: the additions of a single panel depend on each other */
    for (; j + 4 * WIDTH <= outer; j += 4 * WIDTH)
      block(1, 4, inner, left, row, column, panels + j * inner, result + j, result_row, add);
  for (; j < outer; j += WIDTH) {
    const long width = outer - j;
    for (long i = 0, n; i < rows; i += n) {
      n = rows - i >= ROWS ? ROWS : rows - i >= 4 ? 4 : 1;
      const factor *from = left + i * row, *right = panels + j * inner;
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
    }
  }
}

#ifndef PAIRS
static void share_of_rows(const struct call *call) {
  const struct matrix *a = &call->left, *b = &call->right, *c = &call->result;
  for (long k = 0; k < call->inner; k += DEPTH) {
    const long inner = call->inner - k < DEPTH ? call->inner - k : DEPTH;
    pack(b->at + k * b->row, b->row, b->column, inner, call->outer, call->panels);
    for (long i = 0; i < call->rows; i += TALL)
      multiply(call->rows - i < TALL ? call->rows - i : TALL, inner, call->outer, a->at + i * a->row + k * a->column,
               a->row, a->column, call->panels, c->at + i * c->row, c->row, call->add || k);
  }
}

/* Compute the whole product; the rows are divided among the threads of the team. */
void whole(struct team *team) { together(team, share_of_rows); }
#endif
