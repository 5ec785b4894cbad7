/* The part that the compiled steps of all cells share. `real` is float or double, by -Dreal=. */
#include <math.h>
#include <string.h>

/* Memory over the sequence: row b of step t begins at at[(t & mask) * step + b * row]. The mask is -1 where every step
   has memory of its own, 0 where all share theirs, and 1 where two take turns. total: see add_up. */
struct array { real *at; long step, row, mask; double *total; };

/* The weight of a product: [inner, outer], or [outer, inner] where transposed; ld from row to row. Or panels of it. */
struct weight { const real *at; long ld, transposed; };

typedef void (*gemm)(const char *, const char *, const int *, const int *, const int *, const real *, const real *,
                     const int *, const real *, const int *, const real *, real *, const int *);
typedef void (*panels)(long, long, long, const real *, long, long, const real *, real *, long, int);

/* Rows first to last of a batch, over T steps; row b has lengths[b] of them, or all where lengths is null. */
struct call {
  long T, first, last;
  const long *lengths, *sizes;
  const struct array *arrays;
  const struct weight *weights;
  gemm product;               /* sgemm or dgemm of the BLAS that torch uses */
  panels multiply;            /* ours; null where the BLAS is as fast */
  int (*set_threads)(int);    /* of that BLAS, for this thread; null where it has no such function */
};

#include "team.h"

/* On the way back, numbers too small to have all their digits are zero: gradients over many steps become such numbers,
   and each operation on one takes a hundred times as long. */
#if defined(__SSE__)
static inline unsigned long flush(void) {
  const unsigned before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(before | 0x8040);
  return before;
}
static inline void restore(unsigned long before) { __builtin_ia32_ldmxcsr(before); }
#elif defined(__aarch64__)
static inline unsigned long flush(void) {
  unsigned long before;
  __asm__ volatile("mrs %0, fpcr" : "=r"(before));
  __asm__ volatile("msr fpcr, %0" : : "r"(before | 1ul << 24));
  return before;
}
static inline void restore(unsigned long before) { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#else
static inline unsigned long flush(void) { return 0; }
static inline void restore(unsigned long before) { (void)before; }
#endif

static inline real *at(const struct array *a, long t) { return a->at + (t & a->mask) * a->step; }

/* result [rows, outer] = rows [rows, inner] times weight, added to what is there if add is 1; BLAS thinks in columns */
static void multiply(const struct call *call, const struct array *a, const real *rows, int weight,
                     const struct array *c, real *result, long inner, long outer, real add) {
  const struct weight *w = &call->weights[weight];
  const int m = outer, n = call->last - call->first, k = inner, ld = w->ld, lda = a->row, ldc = c->row;
  const real one = 1;
  rows += call->first * lda, result += call->first * ldc;
  if (call->multiply) return call->multiply(n, k, m, rows, lda, 1, w->at, result, ldc, add != 0);
  call->product(w->transposed ? "T" : "N", "N", &m, &n, &k, &one, w->at, &ld, rows, &lda, &add, result, &ldc);
}

static void copy_rows(const struct call *call, const struct array *a, long from, long to, long t, long width) {
  for (long b = call->first; b < call->last; b++)
    if (t >= call->lengths[b])
      memcpy(at(a, to) + b * a->row, at(a, from) + b * a->row, width * sizeof(real));
}

/* The gradient of what is constant: the rows of a step are summed up in single precision, the steps in double. */
static void add_up(const struct call *call, const struct array *a, long width) {
  const long rows = a->row ? call->last : call->first + 1;
  for (long b = call->first; b < rows; b++)
    for (long j = 0; j < width; j++) {
      real *sum = a->at + b * a->row + j;
      a->total[b * a->row + j] += *sum;
      *sum = 0;
    }
}

static inline real abs_(real x) { return x < 0 ? -x : x + 0; }
static inline real sgn_(real x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }
static inline real relu_(real x) { return x < 0 ? 0 : x; }
static inline real maximum_(real x, real y) { return x > y || x != x ? x : y; }
static inline real minimum_(real x, real y) { return x < y || x != x ? x : y; }
