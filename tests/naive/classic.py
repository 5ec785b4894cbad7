"""Relatives of LSTM and GRU, and cells that were found by search."""

from math import tanh

from naive import add, gate, relu, sigmoid, times


def preactivations(p, number, x, h):
    """W_g x + U_g h + b_g; ``number`` is the gate's place in W, U and b."""
    H = len(h)
    return add(times(gate(p.W, number, H), x), times(gate(p.U, number, H), h), gate(p.b, number, H))


# i_t = σ(W_i x_t + U_i h_{t-1} + p_i ⊙ c_{t-1} + b_i)      Gers, Schraudolph and Schmidhuber, 2002
# f_t = σ(W_f x_t + U_f h_{t-1} + p_f ⊙ c_{t-1} + b_f)
# g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)
# c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t
# o_t = σ(W_o x_t + U_o h_{t-1} + p_o ⊙ c_t + b_o)
# h_t = o_t ⊙ tanh(c_t)
def peephole(p, x, state):
    h, c = state
    H = len(h)
    i, f, g, o = (preactivations(p, number, x, h) for number in range(4))
    p_i, p_f, p_o = (gate(p.p, number, H) for number in range(3))
    i = [sigmoid(i[k] + p_i[k] * c[k]) for k in range(H)]
    f = [sigmoid(f[k] + p_f[k] * c[k]) for k in range(H)]
    c = [f[k] * c[k] + i[k] * tanh(g[k]) for k in range(H)]
    o = [sigmoid(o[k] + p_o[k] * c[k]) for k in range(H)]
    h = [o[k] * tanh(c[k]) for k in range(H)]
    return h, [h, c]


# f_t = σ(W_f x_t + U_f h_{t-1} + b_f)                      Zhou et al., 2016 (arXiv:1603.09420)
# n_t = tanh(W_n x_t + U_n (f_t ⊙ h_{t-1}) + b_n)
# h_t = (1 - f_t) ⊙ h_{t-1} + f_t ⊙ n_t
def mgu(p, x, state):
    (h,) = state
    H = len(h)
    f = [sigmoid(a) for a in preactivations(p, 0, x, h)]
    n = [tanh(a) for a in preactivations(p, 1, x, [f[k] * h[k] for k in range(H)])]
    h = [(1 - f[k]) * h[k] + f[k] * n[k] for k in range(H)]
    return h, [h]


# s_t = W_f x_t + U_f h_{t-1} + b_f                         van der Westhuizen and Lasenby, 2018 (arXiv:1804.04849)
# n_t = tanh(W_n x_t + U_n h_{t-1} + b_n)
# h_t = σ(s_t) ⊙ h_{t-1} + (1 - σ(s_t - β)) ⊙ n_t
def janet(p, x, state):
    (h,) = state
    s, n = preactivations(p, 0, x, h), preactivations(p, 1, x, h)
    h = [sigmoid(s[k]) * h[k] + (1 - sigmoid(s[k] - p.cell.beta)) * tanh(n[k]) for k in range(len(h))]
    return h, [h]


# g_t = σ(W_g x_t + U_g h_{t-1} + b_g)                      Collins et al., 2017 (arXiv:1611.09913)
# n_t = tanh(W_n x_t + U_n h_{t-1} + b_n)
# h_t = g_t ⊙ h_{t-1} + (1 - g_t) ⊙ n_t
def ugrnn(p, x, state):
    (h,) = state
    g, n = preactivations(p, 0, x, h), preactivations(p, 1, x, h)
    h = [sigmoid(g[k]) * h[k] + (1 - sigmoid(g[k])) * tanh(n[k]) for k in range(len(h))]
    return h, [h]


# i_t = σ(W_i x_t + U_i h_{t-1} + b_i)                      Hochreiter and Schmidhuber, 1997, equations 3 to 9
# o_t = σ(W_o x_t + U_o h_{t-1} + b_o)
# c_t = c_{t-1} + i_t ⊙ g(W_g x_t + U_g h_{t-1} + b_g)
# h_t = o_t ⊙ h(c_t)                        g(a) = 4σ(a) - 2 and h(a) = 2σ(a) - 1, or both tanh
def lstm_1997(p, x, state):
    h, c = state
    H = len(h)
    paper = p.cell.squashing == "paper"
    i, g, o = (preactivations(p, number, x, h) for number in range(3))
    g = [4 * sigmoid(a) - 2 if paper else tanh(a) for a in g]
    c = [c[k] + sigmoid(i[k]) * g[k] for k in range(H)]
    h = [sigmoid(o[k]) * (2 * sigmoid(c[k]) - 1 if paper else tanh(c[k])) for k in range(H)]
    return h, [h, c]


# z_t = g(W_z x_t + R_z y_{t-1} + b_z)                      Greff et al., 2017 (arXiv:1503.04069), section II
# i_t = σ(W_i x_t + R_i y_{t-1} + p_i ⊙ c_{t-1} + b_i)
# f_t = σ(W_f x_t + R_f y_{t-1} + p_f ⊙ c_{t-1} + b_f)
# c_t = z_t ⊙ i_t + c_{t-1} ⊙ f_t
# o_t = σ(W_o x_t + R_o y_{t-1} + p_o ⊙ c_t + b_o)
# y_t = h(c_t) ⊙ o_t
# and the variants: NIG i_t = 1; NFG f_t = 1; NOG o_t = 1; NIAF g(a) = a; NOAF h(a) = a; NP no peepholes;
# CIFG f_t = 1 - i_t; FGR every gate also sees R_ig i_{t-1} + R_fg f_{t-1} + R_og o_{t-1}
def lstm_ablation(p, x, state):
    y, c, *before = state
    H, cell = len(y), p.cell
    names = [n for n, has in (("i", cell.input_gate), ("f", cell.forget_gate and not cell.coupled)) if has] + ["z"]
    names += ["o"] if cell.output_gate else []
    gates = [name for name in names if name != "z"]

    def peephole(name, seen):
        if not cell.peepholes:
            return [0.0] * H
        return [a * b for a, b in zip(gate(p.p, gates.index(name), H), seen, strict=True)]

    def recurrent(name):
        if not cell.full_gate_recurrence:
            return [0.0] * H
        block = gate(p.R, gates.index(name), H)
        width = len(gates) * H
        return [sum(row[k] * before[0][k] for k in range(width)) for row in block]

    def open_by(name, seen):
        if name not in names:
            return [1.0] * H
        a = add(preactivations(p, names.index(name), x, y), peephole(name, seen), recurrent(name))
        return [sigmoid(b) for b in a]

    z = preactivations(p, names.index("z"), x, y)
    z = [tanh(a) for a in z] if cell.input_activation else z
    i = open_by("i", c)
    f = [1 - a for a in i] if cell.coupled else open_by("f", c)
    c = [z[k] * i[k] + c[k] * f[k] for k in range(H)]
    o = open_by("o", c)
    y = [(tanh(c[k]) if cell.output_activation else c[k]) * o[k] for k in range(H)]
    opened = {"i": i, "f": f, "o": o}
    return y, [y, c, *([[a for name in gates for a in opened[name]]] if cell.full_gate_recurrence else [])]


# f_t = σ(W_f x_t + U_f h_{t-1} + b_f)                      Greff et al., 2017 (arXiv:1503.04069), CIFG, no peepholes
# c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ tanh(W_g x_t + U_g h_{t-1} + b_g)
# h_t = σ(W_o x_t + U_o h_{t-1} + b_o) ⊙ tanh(c_t)
def cifg(p, x, state):
    h, c = state
    f, g, o = (preactivations(p, number, x, h) for number in range(3))
    c = [sigmoid(f[k]) * c[k] + (1 - sigmoid(f[k])) * tanh(g[k]) for k in range(len(c))]
    h = [sigmoid(o[k]) * tanh(c[k]) for k in range(len(c))]
    return h, [h, c]


# i, f, o of x_t and r_{t-1}; m_t = o_t ⊙ tanh(c_t)          Sak et al., 2014 (arXiv:1402.1128), equations 7 to 11
# r_t = W_rm m_t                                            equation 12, no peepholes
def lstmp(p, x, state):
    r, c = state
    H = len(c)
    i, f, g, o = (add(times(gate(p.W, k, H), x), times(gate(p.U, k, H), r), gate(p.b, k, H)) for k in range(4))
    c = [sigmoid(f[k]) * c[k] + sigmoid(i[k]) * tanh(g[k]) for k in range(H)]
    r = times(p.P, [sigmoid(o[k]) * tanh(c[k]) for k in range(H)])
    return r, [r, c]


# i_t = σ(W_i x_t + U_i h_{t-1} + p_i ⊙ c_{t-1} + b_i)      Kim, El-Khamy and Lee, 2017 (arXiv:1701.03360), one layer
# f_t = σ(W_f x_t + U_f h_{t-1} + p_f ⊙ c_{t-1} + b_f)
# c_t = f_t ⊙ c_{t-1} + i_t ⊙ tanh(W_g x_t + U_g h_{t-1} + b_g)
# o_t = σ(W_o x_t + U_o h_{t-1} + p_o ⊙ c_t + b_o)
# h_t = o_t ⊙ (W_p tanh(c_t) + W_h x_t)                     W_h is the identity where x and h are of one width
def residual_lstm(p, x, state):
    h, c = state
    H = len(h)
    i, f, g, o = (preactivations(p, number, x, h) for number in range(4))
    p_i, p_f, p_o = (gate(p.p, number, H) for number in range(3))
    i = [sigmoid(i[k] + p_i[k] * c[k]) for k in range(H)]
    f = [sigmoid(f[k] + p_f[k] * c[k]) for k in range(H)]
    c = [f[k] * c[k] + i[k] * tanh(g[k]) for k in range(H)]
    o = [sigmoid(o[k] + p_o[k] * c[k]) for k in range(H)]
    through = add(times(p.P, [tanh(a) for a in c]), x if p.R is None else times(p.R, x))
    h = [o[k] * through[k] for k in range(H)]
    return h, [h, c]


def wide(p, x):
    """x as wide as h."""
    return x if p.P is None else times(p.P, x)


def mutated(z, r, h, n_of, b):
    """tanh(U_n (r ⊙ h) + ... + b_n) ⊙ z + h ⊙ (1 - z)."""
    n = n_of([r[k] * h[k] for k in range(len(h))])
    n = [tanh(a) for a in add(n, b)]
    h = [n[k] * z[k] + h[k] * (1 - z[k]) for k in range(len(h))]
    return h, [h]


# z = σ(W_z x_t + b_z)                                      Jozefowicz et al., 2015, MUT1
# r = σ(W_r x_t + U_r h_t + b_r)
# h_{t+1} = tanh(U_n (r ⊙ h_t) + tanh(x_t) + b_n) ⊙ z + h_t ⊙ (1 - z)
def mut1(p, x, state):
    (h,) = state
    H = len(h)
    z = [sigmoid(a) for a in add(times(gate(p.W, 0, H), x), gate(p.b, 0, H))]
    r = [sigmoid(a) for a in add(times(gate(p.W, 1, H), x), times(gate(p.U, 0, H), h), gate(p.b, 1, H))]
    seen = [tanh(a) for a in wide(p, x)]
    return mutated(z, r, h, lambda rh: add(times(gate(p.U, 1, H), rh), seen), gate(p.b, 2, H))


# z = σ(W_z x_t + U_z h_t + b_z)                            MUT2
# r = σ(x_t + U_r h_t + b_r)
# h_{t+1} = tanh(U_n (r ⊙ h_t) + W_n x_t + b_n) ⊙ z + h_t ⊙ (1 - z)
def mut2(p, x, state):
    (h,) = state
    H = len(h)
    z = [sigmoid(a) for a in add(times(gate(p.W, 0, H), x), times(gate(p.U, 0, H), h), gate(p.b, 0, H))]
    r = [sigmoid(a) for a in add(wide(p, x), times(gate(p.U, 1, H), h), gate(p.b, 1, H))]
    seen = times(gate(p.W, 1, H), x)
    return mutated(z, r, h, lambda rh: add(times(gate(p.U, 2, H), rh), seen), gate(p.b, 2, H))


# z = σ(W_z x_t + U_z tanh(h_t) + b_z)                      MUT3
# r = σ(W_r x_t + U_r h_t + b_r)
# h_{t+1} = tanh(U_n (r ⊙ h_t) + W_n x_t + b_n) ⊙ z + h_t ⊙ (1 - z)
def mut3(p, x, state):
    (h,) = state
    H = len(h)
    z = [sigmoid(a) for a in preactivations(p, 0, x, [tanh(a) for a in h])]
    r = [sigmoid(a) for a in preactivations(p, 1, x, h)]
    seen = times(gate(p.W, 2, H), x)
    return mutated(z, r, h, lambda rh: add(times(gate(p.U, 2, H), rh), seen), gate(p.b, 2, H))


# y_t^in = relu(W_y x_t + U_y h_{t-1} + b_y)                Collins et al., 2017 (arXiv:1611.09913), the +RNN
# h_t^in = tanh(W_h x_t + U_h h_{t-1} + b_h)
# g_y = σ(W_gy x_t + U_gy h_{t-1} + b_gy)                   g_h likewise
# y_t = g_y ⊙ x_t + (1 - g_y) ⊙ y_t^in
# h_t = g_h ⊙ h_{t-1} + (1 - g_h) ⊙ h_t^in
def intersection(p, x, state):
    (h,) = state
    H = len(h)
    x = wide(p, x)
    y_in, h_in, g_y, g_h = (preactivations(p, number, x, h) for number in range(4))
    g_y, g_h = [sigmoid(a) for a in g_y], [sigmoid(a) for a in g_h]
    y = [g_y[k] * x[k] + (1 - g_y[k]) * relu(y_in[k]) for k in range(H)]
    h = [g_h[k] * h[k] + (1 - g_h[k]) * tanh(h_in[k]) for k in range(H)]
    return y, [h]


# Zoph and Le, 2017 (arXiv:1611.01578), figure 8; which pair is a product: the authors' NASCell in TensorFlow
def nas(p, x, state):
    h, c = state
    H = len(h)
    a = [times(gate(p.W, k, H), x) for k in range(8)]
    m = [add(times(gate(p.U, k, H), h), gate(p.b, k, H)) for k in range(8)]
    first = [sigmoid, relu, sigmoid, relu, tanh, sigmoid, tanh, sigmoid]
    q = [[first[k](u * v if k == 3 else u + v) for u, v in zip(a[k], m[k], strict=True)] for k in range(8)]
    inner = [tanh(tanh(q[0][k] * q[1][k]) + c[k]) for k in range(H)]
    c = [inner[k] * tanh(q[2][k] + q[3][k]) for k in range(H)]
    shown = [tanh(tanh(q[4][k] * q[5][k]) + sigmoid(q[6][k] + q[7][k])) for k in range(H)]
    h = [tanh(c[k] * shown[k]) for k in range(H)]
    return h, [h, c]


ABLATIONS = {
    "nig": {"input_gate": False},
    "nfg": {"forget_gate": False},
    "nog": {"output_gate": False},
    "niaf": {"input_activation": False},
    "noaf": {"output_activation": False},
    "np": {"peepholes": False},
    "cifg": {"coupled": True},
    "fgr": {"full_gate_recurrence": True},
    "no-input-nor-output-gate-fgr": {"input_gate": False, "output_gate": False, "full_gate_recurrence": True},
    "cifg-fgr-np": {"coupled": True, "full_gate_recurrence": True, "peepholes": False},
}

CASES = {
    name if bias else f"{name}-no-bias": (name, {} if bias else {"bias": False}, function)
    for name, function in (
        ("peephole", peephole),
        ("mgu", mgu),
        ("janet", janet),
        ("ugrnn", ugrnn),
        ("lstm_1997", lstm_1997),
        ("lstm_ablation", lstm_ablation),
        ("cifg", cifg),
        ("lstmp", lstmp),
        ("mut1", mut1),
        ("mut2", mut2),
        ("mut3", mut3),
        ("intersection", intersection),
        ("nas", nas),
        ("residual_lstm", residual_lstm),
    )
    for bias in (True, False)
}
CASES |= {f"lstm_ablation-{name}": ("lstm_ablation", options, lstm_ablation) for name, options in ABLATIONS.items()}
CASES |= {
    "lstm_1997-paper": ("lstm_1997", {"squashing": "paper"}, lstm_1997),
    "lstmp-3": ("lstmp", {"projection_size": 3}, lstmp),
}
