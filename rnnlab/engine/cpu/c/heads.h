/* Sums of 16 numbers, in vector registers: compilers would add the elements of a register one after the other. */

#ifndef __has_builtin
#define __has_builtin(name) 0
#endif

#if __has_builtin(__builtin_shufflevector)

#define vector_of(n) __attribute__((vector_size((n) * sizeof(real)), aligned(sizeof(real)), may_alias))
typedef real lanes4 vector_of(4);
typedef real lanes8 vector_of(8);
typedef real lanes16 vector_of(16);
#define pick __builtin_shufflevector

inlined real folded(const real *x) {
  const lanes16 a = *(const lanes16 *)x;
  const lanes8 b = pick(a, a, 0, 1, 2, 3, 4, 5, 6, 7) + pick(a, a, 8, 9, 10, 11, 12, 13, 14, 15);
  const lanes4 c = pick(b, b, 0, 1, 2, 3) + pick(b, b, 4, 5, 6, 7), d = c + pick(c, c, 2, 3, 0, 1);
  return d[0] + d[1];
}

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

inlined real folded(const real *x) {
  real a[8], b[4];
  for (long j = 0; j < 8; j++) a[j] = x[j] + x[j + 8];
  for (long j = 0; j < 4; j++) b[j] = a[j] + a[j + 4];
  return (b[0] + b[2]) + (b[1] + b[3]);
}

inlined void folded4(const real *x, const real *y, const real *z, const real *w, real *sums) {
  sums[0] = folded(x), sums[1] = folded(y), sums[2] = folded(z), sums[3] = folded(w);
}

#endif
