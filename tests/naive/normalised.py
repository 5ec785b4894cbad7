"""Cells with layer normalisation."""

from math import sqrt, tanh

from naive import add, gate, sigmoid, times


# LN(z; α, β) = α ⊙ (z - μ) / sqrt(σ² + 1e-5) + β           Ba, Kiros and Hinton, 2016 (arXiv:1607.06450), equation 4
def norm(z, alpha, beta):
    mean = sum(z) / len(z)
    variance = sum((a - mean) ** 2 for a in z) / len(z)
    scaled = [a * (b - mean) / sqrt(variance + 1e-5) for a, b in zip(alpha, z, strict=True)]
    return scaled if beta is None else add(scaled, beta)


# i, f, g, o = LN(U h_{t-1}; α_1) + LN(W x_t; α_2) + b      equations 20 to 22, the shifts of both in b
# c_t = σ(f) ⊙ c_{t-1} + σ(i) ⊙ tanh(g)
# h_t = σ(o) ⊙ tanh(LN(c_t; α_3, β_3))
def layernorm_lstm(p, x, state):
    h, c = state
    H = len(h)
    gates = add(norm(times(p.U, h), p.gain_h, None), norm(times(p.W, x), p.gain_x, None), p.b)
    i, f, g, o = (gate(gates, k, H) for k in range(4))
    c = [sigmoid(f[k]) * c[k] + sigmoid(i[k]) * tanh(g[k]) for k in range(H)]
    shown = norm(c, p.gain_c, p.b_c)
    h = [sigmoid(o[k]) * tanh(shown[k]) for k in range(H)]
    return h, [h, c]


# h_t = f(LN(W x_t + U h_{t-1}; g, b))                      equation 4
def layernorm_rnn(p, x, state):
    (h,) = state
    h = [tanh(a) for a in norm(add(times(p.W, x), times(p.U, h)), p.gain, p.b)]
    return h, [h]


# z, r = LN(U h_{t-1}; α_1, β_1) + LN(W x_t; α_2, β_2)       equations 23 to 25 of the supplement; β_1 and β_2 in b
# n_t = tanh(LN(W_n x_t; α_3, β_3) + σ(r) ⊙ LN(U_n h_{t-1}; α_4, β_4))
# h_t = (1 - σ(z)) ⊙ h_{t-1} + σ(z) ⊙ n_t
def layernorm_gru(p, x, state):
    (h,) = state
    H = len(h)
    of_x = norm(times(p.W[: 2 * H], x), p.gain_x[: 2 * H], None)
    gates = add(norm(times(p.U[: 2 * H], h), p.gain_h[: 2 * H], None), of_x, p.b[: 2 * H])
    z, r = gates[:H], gates[H:]
    n_x = norm(times(p.W[2 * H :], x), p.gain_x[2 * H :], p.b[2 * H :])
    n_h = norm(times(p.U[2 * H :], h), p.gain_h[2 * H :], p.b_n)
    n = [tanh(n_x[k] + sigmoid(r[k]) * n_h[k]) for k in range(H)]
    h = [(1 - sigmoid(z[k])) * h[k] + sigmoid(z[k]) * n[k] for k in range(H)]
    return h, [h]


CASES = {
    "layernorm_lstm": ("layernorm_lstm", {}, layernorm_lstm),
    "layernorm_rnn": ("layernorm_rnn", {}, layernorm_rnn),
    "layernorm_gru": ("layernorm_gru", {}, layernorm_gru),
}
