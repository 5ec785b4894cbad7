/* Sums of LANES numbers, in vector registers: compilers would add the elements of a register one after the other. */

#ifndef __has_builtin
#define __has_builtin(name) 0
#endif

/* Nests accumulate up to five sums at once. With 16 lanes each, they fit into the registers of AVX-512 only. */
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif

/* Fetch elements into the cache; `writes` is 1 if they will be written. */
#define fetch(x, elements, writes)                                          \
  for (size_t byte = 0; byte < (elements) * sizeof(real); byte += 64) \
    __builtin_prefetch((const char *)(x) + byte, writes)

#if __has_builtin(__builtin_shufflevector)

#define vector_of(n) __attribute__((vector_size((n) * sizeof(real)), aligned(sizeof(real)), may_alias))
typedef real lanes4 vector_of(4);
typedef real lanes8 vector_of(8);
typedef real lanes16 vector_of(16);
#define pick __builtin_shufflevector

inlined lanes8 eight(const real *x) {
#if LANES == 16
  const lanes16 a = *(const lanes16 *)x;
  return pick(a, a, 0, 1, 2, 3, 4, 5, 6, 7) + pick(a, a, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  return *(const lanes8 *)x;
#endif
}

inlined real folded(const real *x) {
  const lanes8 b = eight(x);
  const lanes4 c = pick(b, b, 0, 1, 2, 3) + pick(b, b, 4, 5, 6, 7), d = c + pick(c, c, 2, 3, 0, 1);
  return d[0] + d[1];
}

#if LANES == 16

/* Two rows of 16 numbers as one: eight sums of each. */
inlined lanes16 halves(const real *x, const real *y) {
  const lanes16 a = *(const lanes16 *)x, b = *(const lanes16 *)y;
  return pick(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
         pick(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

/* The sums of four times 16 numbers. */
inlined void folded4(const real *x, const real *y, const real *z, const real *w, real *sums) {
  const lanes16 a = halves(x, y), b = halves(z, w);
  const lanes16 c = pick(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                    pick(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  const lanes16 d = c + pick(c, c, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  const lanes16 e = d + pick(d, d, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  *(lanes4 *)sums = pick(e, e, 0, 4, 8, 12);
}

#else

/* Two rows of 8 numbers as one: four sums of each. */
inlined lanes8 halves(const real *x, const real *y) {
  const lanes8 a = *(const lanes8 *)x, b = *(const lanes8 *)y;
  return pick(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + pick(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}

/* The sums of four times 8 numbers. */
inlined void folded4(const real *x, const real *y, const real *z, const real *w, real *sums) {
  const lanes8 a = halves(x, y), b = halves(z, w);
  const lanes8 c = pick(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + pick(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
  *(lanes4 *)sums = pick(c, c, 0, 4, 2, 6) + pick(c, c, 1, 5, 3, 7);
}

#endif

#else

inlined real folded(const real *x) {
  real a[LANES];
  for (long j = 0; j < LANES; j++) a[j] = x[j];
  for (long n = LANES / 2; n; n /= 2)
    for (long j = 0; j < n; j++) a[j] += a[j + n];
  return a[0];
}

inlined void folded4(const real *x, const real *y, const real *z, const real *w, real *sums) {
  sums[0] = folded(x), sums[1] = folded(y), sums[2] = folded(z), sums[3] = folded(w);
}

#endif
