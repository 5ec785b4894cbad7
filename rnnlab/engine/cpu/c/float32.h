/* Elementary functions in single precision, written so that a compiler can vectorise loops over them. */

/* Cody-Waite reduction to |r| <= log(2)/2, then a polynomial (Moshier's Cephes). 2^n is the product of two factors, as
   2^128 is not a float. */
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

/* Rational minimax approximation of degrees 13 and 6, error below 3e-7 (that of Eigen and XLA). Beyond 7.9 the result
   is exactly 1: there the rounding of the polynomial depends on the compiler, and 1 - tanh(x) may be multiplied by a
   large number. */
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

/* 2^n (q + 1) - 1 with q = exp(r) - 1, the polynomial of exp_ without its final + 1, which would round q away. */
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

/* log(1 + x), plus a first-order correction for the rounding error of 1 + x. */
inlined real log1p_(real x) {
  const float u = 1.0f + x, lost = (x - (u - 1.0f)) / u;
  return log_(u) + (lost - lost == 0 ? lost : 0);
}

/* max(x, 0) + log(1 + e), e = exp(-|x|) in [0, 1], with the correction of log1p_; infinities cannot occur. */
inlined real softplus_(real x) {
  const float e = exp_(-abs_(x)), u = 1.0f + e;
  return relu_(x) + (log_(u) + (e - (u - 1.0f)) / u);
}

inlined real sqrt_(real x) { return sqrtf(x); }
inlined real pow_(real x, real y) { return powf(x, y); }
inlined real round_(real x) { return rintf(x); }
inlined real floor_(real x) { return floorf(x); }
inlined real ceil_(real x) { return ceilf(x); }
inlined real trunc_(real x) { return truncf(x); }
inlined real sin_(real x) { return sinf(x); }
inlined real cos_(real x) { return cosf(x); }
inlined real atan_(real x) { return atanf(x); }
inlined real erf_(real x) { return erff(x); }
