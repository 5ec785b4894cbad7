/* Functions of a number in double precision: those of the C library. */
static inline real exp_(real x) { return exp(x); }
static inline real tanh_(real x) { return tanh(x); }
static inline real sigmoid_(real x) { return 1 / (1 + exp(-x)); }
static inline real expm1_(real x) { return expm1(x); }
static inline real log_(real x) { return log(x); }
static inline real log1p_(real x) { return log1p(x); }
static inline real softplus_(real x) { return (x < 0 ? 0 : x) + log1p(exp(-abs_(x))); }
static inline real sqrt_(real x) { return sqrt(x); }
static inline real pow_(real x, real y) { return pow(x, y); }
static inline real round_(real x) { return rint(x); }
static inline real floor_(real x) { return floor(x); }
static inline real ceil_(real x) { return ceil(x); }
static inline real trunc_(real x) { return trunc(x); }
static inline real sin_(real x) { return sin(x); }
static inline real cos_(real x) { return cos(x); }
static inline real atan_(real x) { return atan(x); }
static inline real erf_(real x) { return erf(x); }
