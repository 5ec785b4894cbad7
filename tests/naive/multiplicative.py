"""Several products a step, or a product of states."""

from math import tanh

from naive import add, gate, sigmoid, softplus, times


# m_t = (W_m x_t + b_m) ⊙ (U_m h_{t-1})                     Krause et al., 2016 (arXiv:1609.07959)
# i, f, g, o = W x_t + U m_t + b
# c_t = σ(f) ⊙ c_{t-1} + σ(i) ⊙ tanh(g)
# h_t = σ(o) ⊙ tanh(c_t)
def multiplicative_lstm(p, x, state):
    h, c = state
    H = len(h)
    m = [a * b for a, b in zip(add(times(p.W_m, x), p.b_m), times(p.U_m, h), strict=True)]
    i, f, g, o = (add(times(gate(p.W, k, H), x), times(gate(p.U, k, H), m), gate(p.b, k, H)) for k in range(4))
    c = [sigmoid(f[k]) * c[k] + sigmoid(i[k]) * tanh(g[k]) for k in range(H)]
    h = [sigmoid(o[k]) * tanh(c[k]) for k in range(H)]
    return h, [h, c]


# s_0 = s of the step before                                Zilly et al., 2017 (arXiv:1607.03474), equations 6 to 9
# h_l = tanh(W_H x_t (for l = 1) + R_Hl s_{l-1} + b_Hl)
# t_l = σ(W_T x_t (for l = 1) + R_Tl s_{l-1} + b_Tl)
# s_l = h_l ⊙ t_l + s_{l-1} ⊙ (1 - t_l)
def highway(p, x, state):
    (s,) = state
    H = len(s)
    for layer in range(len(p.U) // (2 * H)):
        inputs = [times(gate(p.W, k, H), x) if layer == 0 else [0.0] * H for k in range(2)]
        h = add(inputs[0], times(gate(p.U, 2 * layer, H), s), gate(p.b, 2 * layer, H))
        t = add(inputs[1], times(gate(p.U, 2 * layer + 1, H), s), gate(p.b, 2 * layer + 1, H))
        s = [tanh(h[k]) * sigmoid(t[k]) + s[k] * (1 - sigmoid(t[k])) for k in range(H)]
    return s, [s]


# m_t = (W_m x_t) ⊙ (U_m h_{t-1})                           Sutskever, Martens and Hinton, 2011; there m is f, W_m
# h_t = tanh(W x_t + U m_t + b)                             is W_fx, U_m is W_fh, W is W_hx, U is W_hf
def multiplicative_rnn(p, x, state):
    (h,) = state
    m = [a * b for a, b in zip(times(p.W_m, x), times(p.U_m, h), strict=True)]
    h = [tanh(a) for a in add(times(p.W, x), times(p.U, m), p.b)]
    return h, [h]


# α ⊙ W x ⊙ U z + β_1 ⊙ U z + β_2 ⊙ W x + b                 Wu et al., 2016 (arXiv:1606.06630): the block
def integrated(p, number, x, z):  # that replaces W x + U z + b, of the gate at place ``number``
    H = len(p.U[0])
    Wx, Uz = times(gate(p.W, number, H), x), times(gate(p.U, number, H), z)
    alpha, beta_1, beta_2 = (gate(part, number, H) for part in (p.alpha, p.beta_1, p.beta_2))
    terms = [alpha[k] * Wx[k] * Uz[k] + beta_1[k] * Uz[k] + beta_2[k] * Wx[k] for k in range(H)]
    return add(terms, gate(p.b, number, H))


# h_t = tanh(the block of x_t and h_{t-1})                  Wu et al., 2016
def mi_rnn(p, x, state):
    (h,) = state
    h = [tanh(a) for a in integrated(p, 0, x, h)]
    return h, [h]


# i, f, g, o = the blocks of x_t and h_{t-1}                Wu et al., 2016
# c_t = σ(f) ⊙ c_{t-1} + σ(i) ⊙ tanh(g)
# h_t = σ(o) ⊙ tanh(c_t)
def mi_lstm(p, x, state):
    h, c = state
    H = len(h)
    i, f, g, o = (integrated(p, number, x, h) for number in range(4))
    c = [sigmoid(f[k]) * c[k] + sigmoid(i[k]) * tanh(g[k]) for k in range(H)]
    h = [sigmoid(o[k]) * tanh(c[k]) for k in range(H)]
    return h, [h, c]


# r, z = σ(the blocks of x_t and h_{t-1})                   Wu et al., 2016
# n = tanh(the block of x_t and r ⊙ h_{t-1})
# h_t = (1 - z) ⊙ n + z ⊙ h_{t-1}
def mi_gru(p, x, state):
    (h,) = state
    r, z = ([sigmoid(a) for a in integrated(p, number, x, h)] for number in range(2))
    n = [tanh(a) for a in integrated(p, 2, x, [r[k] * h[k] for k in range(len(h))])]
    h = [(1 - z[k]) * n[k] + z[k] * h[k] for k in range(len(h))]
    return h, [h]


# x^i = 2σ(Q^i h^{i-1} + b^i) ⊙ x^{i-2} for odd i of 1 … r  Melis, Kočiský and Blunsom, 2020 (arXiv:1909.01792); Q^i for
# h^i = 2σ(Q^i x^{i-1} + b^i) ⊙ h^{i-2} for even i          even i is R^i there; the b^i are in the authors' code
# from x^-1 = x_t and h^0 = h_{t-1}; then an LSTM of the last x^i and the last h^i
def mogrifier(p, x, state):
    h, c = state
    H, start = len(h), 0
    for i in range(1, p.cell.rounds + 1):
        source, target = (h, x) if i % 2 else (x, h)
        if p.cell.rank is None:
            a = times(getattr(p, f"Q_{i - 1}"), source)
        else:
            a = times(getattr(p, f"Q_left_{i - 1}"), times(getattr(p, f"Q_right_{i - 1}"), source))
        a = add(a, None if p.b_Q is None else p.b_Q[start : start + len(target)])
        start += len(target)
        target = [2 * sigmoid(a[k]) * target[k] for k in range(len(target))]
        h, x = (h, target) if i % 2 else (target, x)
    i, f, g, o = (add(times(gate(p.W, k, H), x), times(gate(p.U, k, H), h), gate(p.b, k, H)) for k in range(4))
    c = [sigmoid(f[k]) * c[k] + sigmoid(i[k]) * tanh(g[k]) for k in range(H)]
    h = [sigmoid(o[k]) * tanh(c[k]) for k in range(H)]
    return h, [h, c]


# i_t = σ(W_i x_t + U_i h_{t-1} + tanh(V_i c_{t-1}) + b_i)   Landi et al., 2021 (arXiv:2109.00020); f_t likewise
# c_t = f_t ⊙ c_{t-1} + i_t ⊙ tanh(W_g x_t + U_g h_{t-1} + b_g)
# o_t = σ(W_o x_t + U_o h_{t-1} + tanh(V_o c_t) + b_o)
# h_t = o_t ⊙ tanh(c_t)
def wmc_lstm(p, x, state):
    h, c = state
    H = len(h)
    i, f, g, o = (add(times(gate(p.W, k, H), x), times(gate(p.U, k, H), h), gate(p.b, k, H)) for k in range(4))
    V_i, V_f, V_o = (gate(p.V, k, H) for k in range(3))
    i = [sigmoid(a + tanh(b)) for a, b in zip(i, times(V_i, c), strict=True)]
    f = [sigmoid(a + tanh(b)) for a, b in zip(f, times(V_f, c), strict=True)]
    c = [f[k] * c[k] + i[k] * tanh(g[k]) for k in range(H)]
    o = [sigmoid(a + tanh(b)) for a, b in zip(o, times(V_o, c), strict=True)]
    h = [o[k] * tanh(c[k]) for k in range(H)]
    return h, [h, c]


def hard_sigmoid(a):
    return min(max(0.2 * a + 0.5, 0.0), 1.0)


# x_g = W_xh x_t + b_g                                      Gao and Glowacka, 2016 (arXiv:1604.02910)
# z_g = tanh(W_zxh (x_g ⊙ h_{t-1}))
# z_out = softplus(z_g ⊙ h_{t-1})                           SGU
# z_out = σ(W_go (z_g ⊙ h_{t-1}))                           DSGU
# z_t = hard_sigmoid(W_xz x_t + b_z + W_hz h_{t-1})
# h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ z_out
def simple_gated(p, x, h, squash):
    H = len(h)
    x_g, x_z = (add(times(gate(p.W, k, H), x), gate(p.b, k, H)) for k in range(2))
    z_g = [tanh(a) for a in times(gate(p.U, 0, H), [x_g[k] * h[k] for k in range(H)])]
    z_out = squash([z_g[k] * h[k] for k in range(H)])
    z = [hard_sigmoid(a) for a in add(x_z, times(gate(p.U, 1, H), h))]
    h = [(1 - z[k]) * h[k] + z[k] * z_out[k] for k in range(H)]
    return h, [h]


def sgu(p, x, state):
    return simple_gated(p, x, state[0], lambda a: [softplus(b) for b in a])


def dsgu(p, x, state):
    return simple_gated(p, x, state[0], lambda a: [sigmoid(b) for b in times(p.P, a)])


CASES = {
    "wmc_lstm": ("wmc_lstm", {}, wmc_lstm),
    "wmc_lstm-no-bias": ("wmc_lstm", {"bias": False}, wmc_lstm),
    "multiplicative_rnn": ("multiplicative_rnn", {}, multiplicative_rnn),
    "multiplicative_rnn-factors": ("multiplicative_rnn", {"factors": 3}, multiplicative_rnn),
    "multiplicative_rnn-no-bias": ("multiplicative_rnn", {"bias": False}, multiplicative_rnn),
    "mi_rnn": ("mi_rnn", {}, mi_rnn),
    "mi_rnn-no-bias": ("mi_rnn", {"bias": False}, mi_rnn),
    "mi_lstm": ("mi_lstm", {}, mi_lstm),
    "mi_lstm-no-bias": ("mi_lstm", {"bias": False}, mi_lstm),
    "mi_gru": ("mi_gru", {}, mi_gru),
    "mi_gru-no-bias": ("mi_gru", {"bias": False}, mi_gru),
    "mogrifier": ("mogrifier", {}, mogrifier),
    "mogrifier-0": ("mogrifier", {"rounds": 0}, mogrifier),
    "mogrifier-1": ("mogrifier", {"rounds": 1}, mogrifier),
    "mogrifier-4": ("mogrifier", {"rounds": 4}, mogrifier),
    "mogrifier-low-rank": ("mogrifier", {"rank": 2}, mogrifier),
    "mogrifier-no-bias": ("mogrifier", {"bias": False}, mogrifier),
    "multiplicative_lstm": ("multiplicative_lstm", {}, multiplicative_lstm),
    "multiplicative_lstm-no-bias": ("multiplicative_lstm", {"bias": False}, multiplicative_lstm),
    "highway": ("highway", {}, highway),
    "highway-1": ("highway", {"depth": 1}, highway),
    "highway-5": ("highway", {"depth": 5}, highway),
    "sgu": ("sgu", {}, sgu),
    "sgu-no-bias": ("sgu", {"bias": False}, sgu),
    "dsgu": ("dsgu", {}, dsgu),
    "dsgu-no-bias": ("dsgu", {"bias": False}, dsgu),
}
