"""Functions that all generated kernels share. The text of this file precedes every generated kernel.

Triton's interpreter has no libdevice, so functions that Triton itself does not have are written out.
"""

import triton
import triton.language as tl


@triton.jit
def times(rows, weight, PRODUCTS: tl.constexpr):
    """Multiply two tiles with accumulation in float32; `Kernel` says what ``PRODUCTS`` can be."""
    if PRODUCTS == "ieee":
        product = tl.dot(rows, weight, input_precision="ieee")
    elif PRODUCTS == "tf32":
        product = tl.dot(rows, weight, input_precision="tf32")
    elif PRODUCTS == "bf16 in float32":  # for the interpreter, which truncates to bfloat16 and multiplies its bits
        bits = rows.to(tl.int32, bitcast=True)
        bits = (bits + 32767 + ((bits >> 16) & 1)) & -65536
        product = tl.dot(bits.to(tl.float32, bitcast=True), weight, input_precision="ieee")
    else:
        product = tl.dot(rows.to(weight.dtype), weight)
    return product


@triton.jit
def picked(live, new, old, LENGTHS: tl.constexpr):
    """Take the rows of ``new`` whose sequence has not ended, and the other rows of ``old``."""
    if LENGTHS:
        new = tl.where(live, new, old)
    return new


# Kernels of one time step read their arguments from a table in memory, so that a recorded launch works for every call:
# the addresses of all arrays, and then the time step of the first launch.


@triton.jit(do_not_specialize=["first"])
def fill(table, arrays, first):
    """Write the table."""
    for i in tl.static_range(len(arrays)):
        tl.store(table + i, arrays[i].to(tl.int64))
    tl.store(table + len(arrays), first)


@triton.jit(do_not_specialize=["by"])
def advance(table, place, by):
    """Change the time step of the first launch."""
    tl.store(table + place, tl.load(table + place) + by)


@triton.jit
def time_at(table, place):
    return tl.load(table + place).to(tl.int32)


@triton.jit
def array_at(table, place, TYPE: tl.constexpr):
    """Read the address of an array, a multiple of 16 bytes."""
    return tl.multiple_of(tl.load(table + place).to(tl.pointer_type(TYPE)), 16)


@triton.jit
def weight_at(table, place, PRODUCTS: tl.constexpr):
    """Read the address of a weight."""
    if PRODUCTS == "bf16":
        weight = array_at(table, place, tl.bfloat16)
    elif PRODUCTS == "fp16":
        weight = array_at(table, place, tl.float16)
    else:
        weight = array_at(table, place, tl.float32)
    return weight


@triton.jit
def exp_(x):
    return tl.exp(x)


@triton.jit
def sigmoid_(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh_(x):
    """Rational minimax approximation of degrees 13 and 6, the same as in the C code."""
    y = tl.minimum(tl.maximum(x, -7.9), 7.9)
    s = y * y
    p = -2.76076847742355e-16 * s + 2.00018790482477e-13
    p = p * s - 8.60467152213735e-11
    p = p * s + 5.12229709037114e-08
    p = p * s + 1.48572235717979e-05
    p = p * s + 6.37261928875436e-04
    p = p * s + 4.89352455891786e-03
    q = 1.19825839466702e-06 * s + 1.18534705686654e-04
    q = q * s + 2.26843463243900e-03
    q = q * s + 4.89352518554385e-03
    y = y * p / q
    y = tl.where(x > 7.9, 1.0, y)
    return tl.where(x < -7.9, -1.0, tl.where(x == x, y, x))


@triton.jit
def log_(x):
    return tl.log(x)


@triton.jit
def log1p_(x):
    """log(1 + x), plus a first-order correction for the rounding error of 1 + x."""
    u = 1.0 + x
    lost = (x - (u - 1.0)) / u
    return tl.log(u) + tl.where(lost - lost == 0.0, lost, 0.0)


@triton.jit
def expm1_(x):
    """Near zero a polynomial of degree 8."""
    p = 1.0 / 40320 * x + 1.0 / 5040
    p = p * x + 1.0 / 720
    p = p * x + 1.0 / 120
    p = p * x + 1.0 / 24
    p = p * x + 1.0 / 6
    p = p * x + 0.5
    return tl.where(tl.abs(x) < 0.5, p * x * x + x, tl.exp(x) - 1.0)


@triton.jit
def softplus_(x):
    """max(x, 0) + log(1 + exp(-|x|))."""
    return tl.where(x < 0, 0.0, x) + log1p_(tl.exp(-tl.abs(x)))


@triton.jit
def abs_(x):
    return tl.abs(x)


@triton.jit
def sgn_(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))


@triton.jit
def relu_(x):
    return tl.where(x < 0, 0.0, x)


@triton.jit
def maximum_(x, y):
    return tl.where((x > y) | (x != x), x, y)


@triton.jit
def minimum_(x, y):
    return tl.where((x < y) | (x != x), x, y)


@triton.jit
def sqrt_(x):
    return tl.sqrt_rn(x)


@triton.jit
def sin_(x):
    return tl.sin(x)


@triton.jit
def cos_(x):
    return tl.cos(x)


@triton.jit
def erf_(x):
    return tl.erf(x)


@triton.jit
def floor_(x):
    return tl.floor(x)


@triton.jit
def ceil_(x):
    return tl.ceil(x)


@triton.jit
def trunc_(x):
    return tl.where(x < 0, tl.ceil(x), tl.floor(x))


@triton.jit
def round_(x):
    """To the nearest integer, ties to the even one."""
    low = tl.floor(x)
    odd = low - 2.0 * tl.floor(0.5 * low)
    up = (x - low > 0.5) | ((x - low == 0.5) & (odd == 1.0))
    return tl.where(up, low + 1.0, low)


@triton.jit
def atan_(x):
    """Moshier's Cephes."""
    a = tl.abs(x)
    far = a > 2.414213562373095
    near = a <= 0.4142135623730950
    y = tl.where(far, 1.5707963267948966, tl.where(near, 0.0, 0.7853981633974483))
    z = tl.where(far, -1.0 / tl.where(far, a, 1.0), tl.where(near, a, (a - 1.0) / (a + 1.0)))
    s = z * z
    p = 8.05374449538e-2 * s - 1.38776856032e-1
    p = p * s + 1.99777106478e-1
    p = p * s - 3.33329491539e-1
    y = y + (p * s * z + z)
    return tl.where(x < 0, -y, y)


@triton.jit
def pow_(x, y):
    """For whole exponents the sign follows from the parity; a negative base with another exponent gives NaN."""
    y = tl.zeros_like(x) + y
    size = tl.exp(y * tl.log(tl.abs(x)))
    half = 0.5 * y
    signed = tl.where((x < 0) & (half != tl.floor(half)), -size, size)
    return tl.where((x < 0) & (y != tl.floor(y)), float("nan"), signed)
