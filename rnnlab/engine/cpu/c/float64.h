/* Elementary functions in double precision: those of the C library. */

inlined real exp_(real x) { return exp(x); }
inlined real tanh_(real x) { return tanh(x); }
inlined real sigmoid_(real x) { return 1 / (1 + exp(-x)); }
inlined real expm1_(real x) { return expm1(x); }
inlined real log_(real x) { return log(x); }
inlined real log1p_(real x) { return log1p(x); }
inlined real softplus_(real x) { return (x < 0 ? 0 : x) + log1p(exp(-abs_(x))); }
inlined real sqrt_(real x) { return sqrt(x); }
inlined real pow_(real x, real y) { return pow(x, y); }
inlined real round_(real x) { return rint(x); }
inlined real floor_(real x) { return floor(x); }
inlined real ceil_(real x) { return ceil(x); }
inlined real trunc_(real x) { return trunc(x); }
inlined real sin_(real x) { return sin(x); }
inlined real cos_(real x) { return cos(x); }
inlined real atan_(real x) { return atan(x); }
inlined real erf_(real x) { return erf(x); }
