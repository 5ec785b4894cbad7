"""Cells with a memory of its own kind."""

import math

from naive import add, dot, gate, sigmoid, times


# Voelker, Kajić and Eliasmith, 2019:
# u_t = e_xᵀ x_t + e_hᵀ h_{t-1} + e_mᵀ m_{t-1}         (7)
# m_t = Ā m_{t-1} + B̄ u_t                              (4)
# h_t = f(W_x x_t + W_h h_{t-1} + W_m m_t)             (6)
def lmu(p, x, state):
    h, m = state
    u = dot(p.e_x[0], x) + dot(p.e_h[0], h) + dot(p.e_m[0], m)
    m = add(times(p.A, m), [b * u for b in p.B])
    h = [math.tanh(a) for a in add(times(p.W, x), times(p.U, h), times(p.V, m))]
    return h, [h, m]


# Beck et al., 2024 (arXiv:2405.04517):
# c_t = f_t ⊙ c_{t-1} + i_t ⊙ z_t                      (8)
# n_t = f_t ⊙ n_{t-1} + i_t                            (9)
# h_t = o_t ⊙ c_t / n_t                                (10)
# z_t = tanh(z̃_t), i_t = exp(ĩ_t), f_t = σ or exp(f̃_t), o_t = σ(õ_t)     (11) to (14)
# m_t = max(log f_t + m_{t-1}, log i_t), i'_t = exp(log i_t - m_t), f'_t = exp(log f_t + m_{t-1} - m_t)  (15) to (17)
def slstm(p, x, state):
    h, c, n, m = state
    H = len(h)
    raw = [add(times(gate(p.W, k, H), x), times(gate(p.U, k, H), h), gate(p.b, k, H)) for k in range(4)]
    new_h, new_c, new_n, new_m = [], [], [], []
    for k in range(H):
        i, f, z, o = (part[k] for part in raw)
        log_f = math.log(sigmoid(f)) if p.cell.forget_gate == "sigmoid" else f
        new_m.append(max(log_f + m[k], i))
        f, i = math.exp(log_f + m[k] - new_m[k]), math.exp(i - new_m[k])
        new_c.append(f * c[k] + i * math.tanh(z))
        new_n.append(f * n[k] + i)
        new_h.append(sigmoid(o) * new_c[k] / new_n[k])
    return new_h, [new_h, new_c, new_n, new_m]


# Lukoševičius, 2012 (doi:10.1007/978-3-642-35289-8_36):
# x̃(n) = tanh(W_in [1; u(n)] + W x(n-1))               (2)
# x(n) = (1 - α) x(n-1) + α x̃(n)                       (3)
# y(n) = W_out [1; u(n); x(n)]                         (4)
def esn(p, x, state):
    (h,) = state
    new = [math.tanh(a) for a in add(times(p.W, [1.0, *x]), times(p.R, h))]
    h = [(1 - p.cell.leak) * old + p.cell.leak * a for old, a in zip(h, new, strict=True)]
    return times(p.V, [1.0, *x, *h]), [h]


# s_t = (1 - α) B x_t + α s_{t-1}                       Mikolov et al., 2014 (arXiv:1412.7753), equation 3
# h_t = σ(P s_t + A x_t + R h_{t-1})                    equation 4; the output is what equation 5 reads, h_t and s_t
def scrn(p, x, state):
    h, s = state
    alpha = p.cell.alpha
    fresh = times(p.B, x)
    s = [(1 - alpha) * fresh[k] + alpha * s[k] for k in range(len(s))]
    h = [sigmoid(a) for a in add(times(p.P, s), times(p.W, x), times(p.U, h), p.b)]
    return h + s, [h, s]


# Koutník et al., 2014 (arXiv:1402.3511), equation 1 and section 3: module i of the units has the period T_i = 2^i,
# sees modules of its own period and longer ones, and keeps its state at steps that are no multiple of T_i. ``wait``
# counts the steps down to the next multiple.
def clockwork(p, x, state):
    h, wait = state
    H = len(h)
    period = [2 ** (k * p.cell.clocks // H) for k in range(H)]
    new, left = [], []
    for k in range(H):
        if wait[k] >= 0.5:
            new.append(h[k])
            left.append(wait[k] - 1)
            continue
        a = dot(p.W[k], x) + (0.0 if p.b is None else p.b[k])
        for j in range(H):
            if period[j] >= period[k]:
                a += p.U[k][j] * h[j]
        new.append(math.tanh(a))
        left.append(period[k] - 1.0)
    return new, [new, left]


# u_n = tanh(W_1 h_n + U_1 x_n)                         Erichson, Lim and Mahoney, 2022 (arXiv:2212.00228)
# z_n = tanh(W_2 h_{n-d} + U_2 x_n)                     d steps of delay; h is zero before the first
# g_n = σ(W_3 h_n + U_3 x_n)
# a_n = σ(W_4 h_n + U_4 x_n)
# h_{n+1} = (1 - g_n) ⊙ h_n + g_n ⊙ (u_n + a_n ⊙ z_n)
# with biases, as in the authors' code. W and U are the other way round here, and stack 1, 3, 4, 2; ``past`` has
# h_{n-d} to h_{n-1}, one after the other.
def taugru(p, x, state):
    h, past = state
    H = len(h)
    read = (h, h, h, past[:H])
    sums = [add(times(gate(p.W, k, H), x), times(gate(p.U, k, H), read[k]), gate(p.b, k, H)) for k in range(4)]
    u, z = [math.tanh(a) for a in sums[0]], [math.tanh(a) for a in sums[3]]
    g, a = [sigmoid(b) for b in sums[1]], [sigmoid(b) for b in sums[2]]
    new = [(1 - g[k]) * h[k] + g[k] * (u[k] + a[k] * z[k]) for k in range(H)]
    return new, [new, past[H:] + h]


CASES = {
    "lmu": ("lmu", {}, lmu),
    "lmu-small": ("lmu", {"order": 3, "theta": 5.0}, lmu),
    "slstm": ("slstm", {}, slstm),
    "slstm-exp": ("slstm", {"forget_gate": "exp", "bias": False}, slstm),
    "scrn": ("scrn", {}, scrn),
    "scrn-context": ("scrn", {"context_size": 3, "alpha": 0.7, "bias": False}, scrn),
    "clockwork": ("clockwork", {}, clockwork),
    "clockwork-two": ("clockwork", {"clocks": 2, "bias": False}, clockwork),
    "taugru": ("taugru", {}, taugru),
    "taugru-1": ("taugru", {"delay": 1}, taugru),
    "taugru-3-no-bias": ("taugru", {"delay": 3, "bias": False}, taugru),
    "esn": ("esn", {}, esn),
    "esn-leak": ("esn", {"leak": 0.3, "sparsity": 0.0, "spectral_radius": 1.2, "input_scaling": 0.5}, esn),
}
