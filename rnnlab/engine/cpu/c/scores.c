/* Scores of additive attention: score[b, t, s] = sum over a of v[a] tanh(query[b, t, a] + keys[b, s, a]), and their
   gradients. tanh is computed again in the backward pass: that takes less time than writing and reading T * S * A
   numbers for every sequence. */

#include <math.h>

#include "team.h"

typedef float real;
#define inlined static inline __attribute__((always_inline))
inlined real abs_(real x) { return fabsf(x); }
inlined real relu_(real x) { return x > 0 ? x : 0; }
#include "float32.h"

/* One thread's share: sequences first to last - 1. In the forward pass of_scores is null and scores is the result. In the
   backward pass of_scores holds the gradients of the scores; those of query, keys and v are added to of_query, of_keys
   and of_v [B, A], which hold zeros. v has one gradient for each sequence: their sum is more exact than a sum over all
   scores, and does not depend on the number of threads. */
struct call {
  long first, last, T, S, A;
  const real *query, *keys, *v, *of_scores;
  real *scores, *of_query, *of_keys, *of_v;
};

static void forward(const struct call *c) {
  const long A = c->A;
  const real *const v = c->v;
  for (long row = c->first * c->T; row < c->last * c->T; row++) {
    const real *const q = c->query + row * A;
    for (long s = 0; s < c->S; s++) {
      const real *const k = c->keys + (row / c->T * c->S + s) * A;
      real sum = 0;
#pragma omp simd reduction(+ : sum)
      for (long a = 0; a < A; a++) sum += v[a] * tanh_(q[a] + k[a]);
      c->scores[row * c->S + s] = sum;
    }
  }
}

static void backward(const struct call *c) {
  const long A = c->A;
  const real *const v = c->v;
  for (long row = c->first * c->T; row < c->last * c->T; row++) {
    const real *const q = c->query + row * A;
    real *restrict const of_q = c->of_query + row * A, *restrict const of_v = c->of_v + row / c->T * A;
    for (long s = 0; s < c->S; s++) {
      const real g = c->of_scores[row * c->S + s];
      if (g == 0) continue; /* padding */
      const long place = (row / c->T * c->S + s) * A;
      const real *const k = c->keys + place;
      real *restrict const of_k = c->of_keys + place;
#pragma omp simd
      for (long a = 0; a < A; a++) {
        const real e = tanh_(q[a] + k[a]), d = g * v[a] * (1 - e * e);
        of_q[a] += d;
        of_k[a] += d;
        of_v[a] += g * e;
      }
    }
  }
}

static void share_of(const struct call *c) {
  if (c->of_scores)
    backward(c);
  else
    forward(c);
}

void whole(struct team *team) { together(team, share_of); }
