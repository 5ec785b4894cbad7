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

/* Rows of a matrix that a nest computes at once, so that the registers hold a sum of each. */
#if defined(__AVX512F__) && defined(SINGLE)
#define ROWS 8
#else
#define ROWS 4
#endif

/* Fetch elements into the cache, a part of their cache lines; `writes` is 1 if they will be written. */
#define fetch(x, elements, writes, part, parts)                                                         \
  for (long lines = ((elements) * sizeof(real) + 63) / 64, each = (lines + (parts) - 1) / (parts),      \
            line = (part) * each, end = line + each < lines ? line + each : lines; line < end; line++)  \
    __builtin_prefetch((const char *)(x) + 64 * line, writes)

/* Copy the state of one head from an array of the states of all heads; zeros if there is no array. */
static void load(real *to, const real *from, long item, long size) {
  if (from)
    memcpy(to, from + item * size, size * sizeof(real));
  else
    memset(to, 0, size * sizeof(real));
}
static void store(const real *from, real *to, long item, long size) {
  memcpy(to + item * size, from, size * sizeof(real));
}

#if __has_builtin(__builtin_shufflevector)

#define vector_of(n) __attribute__((vector_size((n) * sizeof(real)), aligned(sizeof(real)), may_alias))
typedef real lanes4 vector_of(4);
typedef real lanes8 vector_of(8);
typedef real lanes16 vector_of(16);
#define pick __builtin_shufflevector

/* The sum of 4, 8 or 16 numbers. */
inlined real folded(const real *x, long lanes) {
  lanes4 c;
  if (lanes == 4) {
    c = *(const lanes4 *)x;
  } else {
    lanes8 b;
    if (lanes == 8) {
      b = *(const lanes8 *)x;
    } else {
      const lanes16 a = *(const lanes16 *)x;
      b = pick(a, a, 0, 1, 2, 3, 4, 5, 6, 7) + pick(a, a, 8, 9, 10, 11, 12, 13, 14, 15);
    }
    c = pick(b, b, 0, 1, 2, 3) + pick(b, b, 4, 5, 6, 7);
  }
  const lanes4 d = c + pick(c, c, 2, 3, 0, 1);
  return d[0] + d[1];
}

/* Two rows of numbers as one, half as many of each. */
inlined lanes16 halves16(const real *x, const real *y) {
  const lanes16 a = *(const lanes16 *)x, b = *(const lanes16 *)y;
  return pick(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
         pick(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}
inlined lanes8 halves8(const real *x, const real *y) {
  const lanes8 a = *(const lanes8 *)x, b = *(const lanes8 *)y;
  return pick(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + pick(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}
inlined lanes4 halves4(const real *x, const real *y) {
  const lanes4 a = *(const lanes4 *)x, b = *(const lanes4 *)y;
  return pick(a, b, 0, 1, 4, 5) + pick(a, b, 2, 3, 6, 7);
}

/* The sums of four rows of 4, 8 or 16 numbers, `lanes` numbers apart. */
inlined void folded4(const real *x, long lanes, real *sums) {
  const real *const y = x + lanes, *const z = y + lanes, *const w = z + lanes;
  if (lanes == 16) {
    const lanes16 a = halves16(x, y), b = halves16(z, w);
    const lanes16 c = pick(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                      pick(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    const lanes16 d = c + pick(c, c, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    const lanes16 e = d + pick(d, d, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    *(lanes4 *)sums = pick(e, e, 0, 4, 8, 12);
  } else if (lanes == 8) {
    const lanes8 a = halves8(x, y), b = halves8(z, w);
    const lanes8 c = pick(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + pick(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    *(lanes4 *)sums = pick(c, c, 0, 4, 2, 6) + pick(c, c, 1, 5, 3, 7);
  } else {
    const lanes4 a = halves4(x, y), b = halves4(z, w);
    *(lanes4 *)sums = pick(a, b, 0, 2, 4, 6) + pick(a, b, 1, 3, 5, 7);
  }
}

#else

inlined real folded(const real *x, long lanes) {
  real a[LANES];
  for (long j = 0; j < lanes; j++) a[j] = x[j];
  for (long n = lanes / 2; n; n /= 2)
    for (long j = 0; j < n; j++) a[j] += a[j + n];
  return a[0];
}

inlined void folded4(const real *x, long lanes, real *sums) {
  for (long r = 0; r < 4; r++) sums[r] = folded(x + r * lanes, lanes);
}

#endif

/* The sums of rows of `lanes` numbers; the number of rows is a multiple of 4. */
inlined void folded_rows(const real *x, long rows, long lanes, real *sums) {
  for (long r = 0; r < rows; r += 4) folded4(x + r * lanes, lanes, sums + r);
}
