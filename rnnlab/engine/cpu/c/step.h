/* Code that every compiled step shares; the loops of a step are generated (rnnlab/engine/cpu/emit.py).

   Compile with -DREAL=float -DSINGLE or -DREAL=double. */

#include <math.h>
#include <string.h>

#include "team.h"

typedef REAL real;

/* Memory of one array over the sequence: row b of step t starts at at[(t & mask) * step + b * row]. The mask is -1 if
   every step has its own memory, 0 if all steps share the memory of one step, and 1 if steps alternate between two.
   total: see add_up. */
struct array { real *at; long step, row, mask; double *total; };

/* The weight of a product: [inner, outer], or [outer, inner] if transposed, with leading dimension ld; or packed panels
   (see gemm.c), whose address is enough. */
struct weight { const real *at; long ld, transposed; };

typedef void (*blas_gemm)(const char *, const char *, const int *, const int *, const int *, const real *, const real *,
                          const int *, const real *, const int *, const real *, real *, const int *);
typedef void (*own_gemm)(long, long, long, const real *, long, long, const real *, real *, long, int);

/* One thread's share: rows first to last - 1 of the batch, over T time steps. Row b has lengths[b] steps, or T if
   lengths is null. sizes: the numbers behind n0, n1, ... of the generated code.

   If there are too few rows for all threads, `members` threads share the columns of the same rows: they divide every
   loop and every product into parts. */
struct call {
  long T, first, last;
  const long *lengths, *sizes;
  const struct array *arrays;
  const struct weight *weights;
  real *rounded;              /* memory for the rows of a product, rounded to bfloat16; null if they are not rounded */
  blas_gemm product;          /* sgemm or dgemm of the BLAS that torch uses */
  own_gemm multiply;          /* the kernel of gemm.c; null if the BLAS was measured to be faster */
  long pairs;                 /* whether that kernel takes rows of bfloat16 numbers */
  int (*set_threads)(int);    /* sets the BLAS's threads for this thread; null if the BLAS has no such function */
  long member, members;
  struct meeting *meeting;
};

/* Run a statement for the parts of a phase that fall to this thread; all threads count the phases alike. */
static inline long next_part(const struct call *call, long phase, long part) {
  if (call->members == 1) return part < 0 ? 0 : -1;
  if (part >= 0) __atomic_add_fetch(&call->meeting->done, 1, __ATOMIC_ACQ_REL);
  return take_part(call->meeting, phase, call->member, call->members);
}
#define PARTS \
  for (long phase = (*phases)++, part = next_part(call, phase, -1); part >= 0; part = next_part(call, phase, part))

/* The columns of a part are first_column(part) to first_column(part + 1) - 1: whole panels of gemm.c and whole cache
   lines. */
enum { BLOCK = 32 };
static inline long first_column(const struct call *call, long part, long width) {
  if (part == 0) return 0; /* most often there is one part, and a division takes time */
  if (part == call->members) return width;
  return (width + BLOCK - 1) / BLOCK * part / call->members * BLOCK;
}

/* In the backward pass denormal numbers are flushed to zero. Gradients that vanish over many steps become denormal, and
   an operation on a denormal takes a hundred times as long. */
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

#ifdef SINGLE
/* The nearest bfloat16, of two the one with an even mantissa: the upper half of a float, whose lower half is zero. */
static inline unsigned bfloat16(float x) {
  const union { float f; unsigned i; } number = {x};
  return (x != x ? number.i | 0x400000 : number.i + 0x7fff + (number.i >> 16 & 1)) & 0xffff0000;
}

/* Copy rows [rows, width], rounded, as floats, so that the product of two is exact, or as pairs; zero pads the last. */
static void round_rows(const float *from, long row, long rows, long width, int pairs, float *to) {
  unsigned *floats = (unsigned *)to;
  unsigned short *halves = (unsigned short *)to;
  for (long b = 0; b < rows; b++, from += row)
    if (pairs) {
      for (long j = 0; j < width; j++) halves[j] = bfloat16(from[j]) >> 16;
      halves += width;
      if (width % 2) *halves++ = 0;
    } else {
      for (long j = 0; j < width; j++) floats[j] = bfloat16(from[j]);
      floats += width;
    }
}
#endif

/* Multiply by rnnlab's kernel, columns first to last - 1 of the result. Every other time step goes through the weight
   backwards: what it read last is still in the cache. */
static void multiply_own(const struct call *call, long t, long rows, long inner, const real *left, long row,
                         const real *panels, real *result, long result_row, int add, long first, long last) {
  enum { COLUMNS = 4 * BLOCK };
  const long parts = (last - first + COLUMNS - 1) / COLUMNS;
  for (long part = 0; part < parts; part++) {
    const long j = first + (t % 2 ? parts - 1 - part : part) * COLUMNS;
    call->multiply(rows, inner, last - j < COLUMNS ? last - j : COLUMNS, left, row, 1, panels + j * inner, result + j,
                   result_row, add);
  }
}

/* result [rows, outer] = rows [rows, inner] times weight, the columns of a part; added to the result if add is 1. A BLAS is column-major, so
   the factors are swapped. */
static void multiply(const struct call *call, long t, long part, const struct array *a, const real *rows, int weight,
                     const struct array *c, real *result, long inner, long outer, real add) {
  const struct weight *w = &call->weights[weight];
  const long first = first_column(call, part, outer), last = first_column(call, part + 1, outer);
  const int m = last - first, n = call->last - call->first, ld = w->ld, ldc = c->row;
  const real one = 1;
  int k = inner, lda = a->row;
  if (m <= 0) return;
  rows += call->first * lda, result += call->first * ldc;
#ifdef SINGLE
  if (call->rounded) {
    round_rows(rows, lda, n, inner, call->pairs, call->rounded);
    rows = call->rounded, lda = k = call->pairs ? (inner + 1) / 2 : inner;
  }
#endif
  if (call->multiply) return multiply_own(call, t, n, k, rows, lda, w->at, result, ldc, add != 0, first, last);
  const real *at = w->at + first * (w->transposed ? ld : 1);
  call->product(w->transposed ? "T" : "N", "N", &m, &n, &k, &one, at, &ld, rows, &lda, &add, result + first, &ldc);
}

/* For every sequence that has ended, copy the state from one time step to another. */
static void copy_rows(const struct call *call, const struct array *a, long from, long to, long t, long width) {
  for (long b = call->first; b < call->last; b++)
    if (t >= call->lengths[b])
      memcpy(at(a, to) + b * a->row, at(a, from) + b * a->row, width * sizeof(real));
}

/* Accumulate the gradient of a constant: over the rows of a step in the array's precision, over the steps in double. */
static void add_up(const struct call *call, long part, const struct array *a, long width) {
  const long rows = a->row ? call->last : call->first + 1;
  const long first = first_column(call, part, width), last = first_column(call, part + 1, width);
  for (long b = call->first; b < rows; b++)
    for (long j = first; j < last; j++) {
      real *sum = a->at + b * a->row + j;
      a->total[b * a->row + j] += *sum;
      *sum = 0;
    }
}

/* Add up the totals of all shares, each `numbers` long, in the precision of the array. */
void add_shares(const double *totals, long shares, long numbers, real *result) {
  for (long i = 0; i < numbers; i++) {
    double sum = 0;
    for (long part = 0; part < shares; part++) sum += totals[part * numbers + i];
    result[i] = sum;
  }
}

/* Define `void name(struct team *)`, which runs the generated `name_step` for every time step of each thread's share:
   FORWARD from the first step to the last, BACKWARD from the last to the first. */
#define FORWARD(name)                                                               \
  static void name##_share(const struct call *call) {                               \
    const int threads = call->set_threads ? call->set_threads(1) : 0;               \
    for (long t = 0, phase = 0; t < call->T; t++)                                   \
      name##_step(call, call->arrays, t, &phase);                                   \
    if (call->set_threads) call->set_threads(threads);                              \
  }                                                                                 \
  void name(struct team *team) { together(team, name##_share); }

#define BACKWARD(name)                                                              \
  static void name##_share(const struct call *call) {                               \
    const int threads = call->set_threads ? call->set_threads(1) : 0;               \
    const unsigned long mode = flush();                                             \
    for (long t = call->T - 1, phase = 0; t >= 0; t--)                              \
      name##_step(call, call->arrays, t, &phase);                                   \
    restore(mode);                                                                  \
    if (call->set_threads) call->set_threads(threads);                              \
  }                                                                                 \
  void name(struct team *team) { together(team, name##_share); }

/* Inlining is forced because a compiler does not vectorise a loop that calls a function. */
#define inlined static inline __attribute__((always_inline))

inlined real abs_(real x) { return x < 0 ? -x : x + 0; }
inlined real sgn_(real x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }
inlined real relu_(real x) { return x < 0 ? 0 : x; }
inlined real maximum_(real x, real y) { return x > y || x != x ? x : y; }
inlined real minimum_(real x, real y) { return x < y || x != x ? x : y; }

#ifdef SINGLE
#include "float32.h"
#else
#include "float64.h"
#endif
