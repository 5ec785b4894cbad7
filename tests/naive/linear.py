"""Cells that are linear in their state, and their nearest relatives."""

import cmath
import math

from naive import add, dot, gate, relu, sigmoid, times


def sigmoids(vector):
    return [sigmoid(a) for a in vector]


def tanh(vector):
    return [math.tanh(a) for a in vector]


def silu(vector):
    return [a * sigmoid(a) for a in vector]


def weighted(vector, weights):
    """Element by element."""
    return [a * b for a, b in zip(vector, weights, strict=True)]


def mix(keep, old, new):
    """keep ⊙ old + (1 - keep) ⊙ new."""
    return [k * o + (1 - k) * n for k, o, n in zip(keep, old, new, strict=True)]


# z_t = σ(W_z x_t + b_z)                      Feng et al., 2024 (arXiv:2410.01201), section 3.1.3
# n_t = W_n x_t + b_n
# h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ n_t
def mingru(p, x, state):
    (h,) = state
    H = len(h)
    z = [sigmoid(a) for a in add(times(gate(p.W, 0, H), x), gate(p.b, 0, H))]
    n = add(times(gate(p.W, 1, H), x), gate(p.b, 1, H))
    h = [(1 - z[k]) * h[k] + z[k] * n[k] for k in range(H)]
    return h, [h]


# Feng et al., 2024 (arXiv:2410.01201), section 3.2:
# f_t = σ(W_f x_t + b_f), i_t = σ(W_i x_t + b_i), h̃_t = W_h x_t + b_h
# f'_t = f_t / (f_t + i_t), i'_t = i_t / (f_t + i_t)
# h_t = f'_t ⊙ h_{t-1} + i'_t ⊙ h̃_t
def minlstm(p, x, state):
    (h,) = state
    H = len(h)
    f, i, new = (add(times(gate(p.W, k, H), x), gate(p.b, k, H)) for k in range(3))
    f, i = sigmoids(f), sigmoids(i)
    h = [f[k] / (f[k] + i[k]) * h[k] + i[k] / (f[k] + i[k]) * new[k] for k in range(H)]
    return h, [h]


# Orvieto et al., 2023 (arXiv:2303.06349), equation 7, in complex numbers:
# λ_j = exp(-exp(ν_j^log) + i exp(θ_j^log))
# h_t = λ ⊙ h_{t-1} + exp(γ^log) ⊙ (B x_t)
# y_t = Re(C h_t) + D x_t
def lru(p, x, state):
    re, im = state
    H = len(re)
    h = []
    for j in range(H):
        rate = cmath.exp(complex(-math.exp(p.nu[j]), math.exp(p.theta[j])))
        driven = sum(complex(p.B_re[j][k], p.B_im[j][k]) * x[k] for k in range(len(x)))
        h.append(rate * complex(re[j], im[j]) + math.exp(p.gamma[j]) * driven)
    y = [sum(complex(p.C_re[k][j], p.C_im[k][j]) * h[j] for j in range(H)).real + dot(p.D[k], x) for k in range(H)]
    return y, [[a.real for a in h], [a.imag for a in h]]


# De et al., 2024 (arXiv:2402.19427), section 2.4, with a = σ(Λ):
# r_t = σ(W_a x_t + b_a)                               (1)
# i_t = σ(W_x x_t + b_x)                               (2)
# a_t = a^(c r_t)                                      (3)
# h_t = a_t ⊙ h_{t-1} + sqrt(1 - a_t²) ⊙ (i_t ⊙ x_t)   (4)
def rglru(p, x, state):
    (h,) = state
    H = len(h)
    u = x if p.P is None else times(p.P, x)
    r = sigmoids(add(times(gate(p.W, 0, H), u), gate(p.b, 0, H)))
    i = sigmoids(add(times(gate(p.W, 1, H), u), gate(p.b, 1, H)))
    a = [sigmoid(p.Lambda[k]) ** (p.cell.c * r[k]) for k in range(H)]
    h = [a[k] * h[k] + math.sqrt(1 - a[k] ** 2) * i[k] * u[k] for k in range(H)]
    return h, [h]


# Bradbury et al., 2017 (arXiv:1611.01576), section 2, the convolution over the last input, or the last two:
# z_t = tanh(W_z^1 x_{t-1} + W_z^2 x_t), f_t = σ(W_f^1 x_{t-1} + W_f^2 x_t), o_t and i_t likewise
# h_t = f_t ⊙ h_{t-1} + (1 - f_t) ⊙ z_t                                   (3), f-pooling
# c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ z_t, h_t = o_t ⊙ c_t                  (4), fo-pooling
# c_t = f_t ⊙ c_{t-1} + i_t ⊙ z_t, h_t = o_t ⊙ c_t                        (5), ifo-pooling
def qrnn(p, x, state):
    c, *last = state
    H = len(c)
    driven = add(times(p.W, x), p.b, *last)
    z, f = tanh(gate(driven, 0, H)), sigmoids(gate(driven, 1, H))
    i = sigmoids(gate(driven, 3, H)) if p.cell.pooling == "ifo" else [1 - a for a in f]
    c = add(weighted(f, c), weighted(i, z))
    h = c if p.cell.pooling == "f" else weighted(sigmoids(gate(driven, 2, H)), c)
    return h, [c, *([times(p.V, x)] if last else [])]


# Lei et al., 2018 (arXiv:1709.02755v5), section 2, and α of section 3.2:
# f_t = σ(W_f x_t + v_f ⊙ c_{t-1} + b_f)               (1)
# c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ (W x_t)            (2)
# r_t = σ(W_r x_t + v_r ⊙ c_{t-1} + b_r)               (3)
# h_t = r_t ⊙ c_t + (1 - r_t) ⊙ x_t α                  (4)
def sru(p, x, state):
    (c,) = state
    H = len(c)
    f = sigmoids(add(times(gate(p.W, 1, H), x), weighted(gate(p.v, 0, H), c), gate(p.b, 0, H)))
    r = sigmoids(add(times(gate(p.W, 2, H), x), weighted(gate(p.v, 1, H), c), gate(p.b, 1, H)))
    c = mix(f, c, times(gate(p.W, 0, H), x))
    alpha = math.sqrt(1 + 2 * math.exp(p.highway_bias))
    passed = x if p.P is None else times(p.P, x)
    return mix(r, c, [alpha * a for a in passed]), [c]


# Lei and Zhang, 2017 (arXiv:1709.02755v1), section 2: the same without v and α, and with g:
# h_t = r_t ⊙ g(c_t) + (1 - r_t) ⊙ x_t
def sru_v1(p, x, state):
    (c,) = state
    H = len(c)
    f = sigmoids(add(times(gate(p.W, 1, H), x), gate(p.b, 0, H)))
    r = sigmoids(add(times(gate(p.W, 2, H), x), gate(p.b, 1, H)))
    c = mix(f, c, times(gate(p.W, 0, H), x))
    g = {"tanh": math.tanh, "relu": relu, "identity": float}[p.cell.activation]
    return mix(r, [g(a) for a in c], x if p.P is None else times(p.P, x)), [c]


# Qin et al., 2023 (arXiv:2311.04823), section 3, in complex numbers; the output as in the authors' code:
# λ_t = γ + (1 - γ) ⊙ μ_t, μ_t = σ(W_μ x_t + b_μ)
# h_t = λ_t ⊙ exp(iθ) ⊙ h_{t-1} + (1 - λ_t) ⊙ c_t, Re(c_t) = SiLU(W_cr x_t + b_cr), Im(c_t) = SiLU(W_ci x_t + b_ci)
# y_t = W_o (LayerNorm([Re(h_t), Im(h_t)]) ⊙ SiLU(W_g x_t + b_g)) + b_o
def hgrn(p, x, state):
    re, im = state
    H = len(re)
    c_re, c_im, mu, *halves = (add(times(gate(p.W, k, H), x), gate(p.b, k, H)) for k in range(5))
    h = []
    for k in range(H):
        rate = p.cell.lower_bound + (1 - p.cell.lower_bound) * sigmoid(mu[k])
        new = complex(*silu([c_re[k], c_im[k]]))
        h.append(rate * cmath.exp(1j * p.theta[k]) * complex(re[k], im[k]) + (1 - rate) * new)
    both = [a.real for a in h] + [a.imag for a in h]
    mean = sum(both) / len(both)
    deviation = math.sqrt(sum((a - mean) ** 2 for a in both) / len(both) + 1e-5)
    normal = add([g * (a - mean) / deviation for a, g in zip(both, p.norm_gain, strict=True)], p.norm_bias)
    y = add(times(p.V, weighted(normal, silu(halves[0] + halves[1]))), p.b_y)
    return y, [both[:H], both[H:]]


# Balduzzi and Ghifary, 2016 (arXiv:1602.02218), section 4:
# z_t = W x_t
# f_t = σ(V x_t + b)
# h_t = f_t ⊙ h_{t-1} + (1 - f_t) ⊙ z_t
def trnn(p, x, state):
    (h,) = state
    H = len(h)
    h = mix(sigmoids(add(times(gate(p.W, 1, H), x), p.b)), h, times(gate(p.W, 0, H), x))
    return h, [h]


# z_t = V_z x_{t-1} + W_z x_t + b_z
# f_t = σ(V_f x_{t-1} + W_f x_t + b_f)
# o_t = τ(V_o x_{t-1} + W_o x_t + b_o)
# T-GRU: h_t = f_t ⊙ h_{t-1} + z_t ⊙ o_t
def tgru(p, x, state):
    h, last = state
    z, f, o = typed(p, x, last, len(h))
    h = add(weighted(f, h), weighted(z, o))
    return h, [h, times(p.V, x)]


# T-LSTM: c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ z_t, h_t = c_t ⊙ o_t
def tlstm(p, x, state):
    c, last = state
    z, f, o = typed(p, x, last, len(c))
    c = mix(f, c, z)
    return weighted(c, o), [c, times(p.V, x)]


def typed(p, x, last, H):
    z, f, o = (add(times(gate(p.W, k, H), x), gate(last, k, H), gate(p.b, k, H)) for k in range(3))
    return z, sigmoids(f), tanh(o)


# Gu et al., 2022 (arXiv:2206.11893), section 2 and 3, in complex numbers, B = 1, one state of each conjugate pair:
# x' = A x + B u, y = 2 Re(C x) + D u, and with the zero-order hold:
# x_t = exp(ΔA) x_{t-1} + A⁻¹ (exp(ΔA) - 1) B u_t
def s4d(p, x, state):
    re, im = state
    u = x if p.P is None else times(p.P, x)
    y, new_re, new_im = [], [], []
    for k in range(len(re)):
        dt = math.exp(p.log_dt[k])
        h = []
        for n in range(len(re[k])):
            A = complex(-math.exp(p.alpha[k][n]), p.omega[k][n])
            h.append(cmath.exp(dt * A) * complex(re[k][n], im[k][n]) + (cmath.exp(dt * A) - 1) / A * u[k])
        read = sum(complex(p.C_re[k][n], p.C_im[k][n]) * h[n] for n in range(len(h)))
        y.append(2 * read.real + p.D[k] * u[k])
        new_re.append([a.real for a in h])
        new_im.append([a.imag for a in h])
    return y, [new_re, new_im]


def highway(bias):
    """The SRU with b_r beginning at ``bias``, of which only α is left in the cell."""

    def step(p, x, state):
        p.highway_bias = bias
        return sru(p, x, state)

    return step


CASES = {
    "mingru": ("mingru", {}, mingru),
    "mingru-no-bias": ("mingru", {"bias": False}, mingru),
    "minlstm": ("minlstm", {}, minlstm),
    "minlstm-no-bias": ("minlstm", {"bias": False}, minlstm),
    "lru": ("lru", {}, lru),
    "lru-narrow": ("lru", {"r_min": 0.5, "r_max": 0.9, "max_phase": 0.5}, lru),
    "rglru": ("rglru", {}, rglru),
    "rglru-c": ("rglru", {"c": 2.0, "bias": False}, rglru),
    **{
        f"qrnn-{pooling}-{window}": ("qrnn", {"pooling": pooling, "window": window}, qrnn)
        for pooling in ("f", "fo", "ifo")
        for window in (1, 2)
    },
    "qrnn-no-bias": ("qrnn", {"bias": False}, qrnn),
    "sru": ("sru", {}, highway(0.0)),
    "sru-no-bias": ("sru", {"bias": False}, highway(0.0)),
    "sru-highway": ("sru", {"highway_bias": -1.5}, highway(-1.5)),
    "sru_v1": ("sru_v1", {}, sru_v1),
    "sru_v1-relu": ("sru_v1", {"activation": "relu"}, sru_v1),
    "sru_v1-identity": ("sru_v1", {"activation": "identity", "bias": False}, sru_v1),
    "hgrn": ("hgrn", {}, hgrn),
    "hgrn-bound": ("hgrn", {"lower_bound": 0.6, "bias": False}, hgrn),
    "trnn": ("trnn", {}, trnn),
    "trnn-no-bias": ("trnn", {"bias": False}, trnn),
    "tgru": ("tgru", {}, tgru),
    "tgru-no-bias": ("tgru", {"bias": False}, tgru),
    "tlstm": ("tlstm", {}, tlstm),
    "tlstm-no-bias": ("tlstm", {"bias": False}, tlstm),
    "s4d": ("s4d", {}, s4d),
    "s4d-inv": ("s4d", {"state_size": 6, "init": "inv", "dt_min": 0.1, "dt_max": 0.5}, s4d),
}
