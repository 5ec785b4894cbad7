"""Cells with matrix states. A memory of one head is a list of rows, one for each key feature."""

import cmath
import math

from naive import add, dot, gate, sigmoid, softplus, times


def silu(vector):
    return [a * sigmoid(a) for a in vector]


def unit(vector):
    length = math.sqrt(sum(a * a for a in vector) + 1e-6)
    return [a / length for a in vector]


def rms(vector, gain):
    """g ⊙ y / sqrt(mean(y²) + 1e-5); y without a gain."""
    if gain is None:
        return vector
    scale = math.sqrt(sum(a * a for a in vector) / len(vector) + 1e-5)
    return [g * a / scale for g, a in zip(gain, vector, strict=True)]


def read(S, query):
    """Sᵀ q."""
    return [sum(query[i] * S[i][j] for i in range(len(S))) for j in range(len(S[0]))]


def blocks(p, x, sizes):
    """W x, cut into pieces of these sizes."""
    whole, pieces = times(p.W, x), []
    for size in sizes:
        pieces.append(whole[:size])
        whole = whole[size:]
    assert not whole
    return pieces


def sizes(S):
    """Heads, key size and value size of a state."""
    return len(S), len(S[0]), len(S[0][0])


# Beck et al., 2024 (arXiv:2405.04517), for every head:
# C_t = f_t C_{t-1} + i_t v_t k_tᵀ                     (19)
# n_t = f_t n_{t-1} + i_t k_t                          (20)
# h_t = o_t ⊙ h̃_t, h̃_t = C_t q_t / max(|n_tᵀ q_t|, 1)  (21)
# q_t = W_q x_t + b_q, k_t = W_k x_t / √d + b_k, v_t = W_v x_t + b_v          (22) to (24)
# i_t = exp(w_iᵀ x_t + b_i), f_t = σ or exp(w_fᵀ x_t + b_f), o_t = σ(W_o x_t + b_o)   (25) to (27)
# with C and n divided by exp(m_t), m_t = max(log f_t + m_{t-1}, log i_t)     (15) to (17)
def mlstm(p, x, state):
    C, n, m = state
    heads, d = len(n), len(n[0])
    H = heads * d
    q, k, v, o = (add(times(gate(p.W, number, H), x), gate(p.b, number, H)) for number in range(4))
    raw_i, raw_f = (add(times(gate(p.W_gates, g, heads), x), gate(p.b_gates, g, heads)) for g in range(2))
    h, C_all, n_all, m_all = [], [], [], []
    for a in range(heads):
        f = sigmoid(raw_f[a]) if p.cell.forget_gate == "sigmoid" else math.exp(raw_f[a])
        scale = max(math.log(f) + m[a], raw_i[a])
        f, i = f * math.exp(m[a] - scale), math.exp(raw_i[a] - scale)
        key = [b / math.sqrt(d) for b in gate(k, a, d)]
        query, value = gate(q, a, d), gate(v, a, d)
        memory = [[f * C[a][r][s] + i * value[r] * key[s] for s in range(d)] for r in range(d)]
        norm = [f * n[a][s] + i * key[s] for s in range(d)]
        divisor = max(abs(dot(norm, query)), math.exp(-scale))
        h += [b / divisor for b in times(memory, query)]
        C_all, n_all, m_all = [*C_all, memory], [*n_all, norm], [*m_all, scale]
    return [sigmoid(a) * b for a, b in zip(o, h, strict=True)], [C_all, n_all, m_all]


# Katharopoulos et al., 2020 (arXiv:2006.16236), for every head; γ = 1 in the paper:
# φ(a) = elu(a) + 1                                     (7)
# s_i = γ s_{i-1} + φ(x_i W_K) (x_i W_V)ᵀ               (18)
# z_i = γ z_{i-1} + φ(x_i W_K)                          (19)
# y_i = φ(x_i W_Q)ᵀ s_i / (φ(x_i W_Q)ᵀ z_i)             (20), with 1e-6 added below
def linear_attention(p, x, state):
    S, *z = state
    heads, K, V = sizes(S)
    q, k, v = blocks(p, x, [heads * K, heads * K, heads * V])
    h, S_all, z_all = [], [], []
    for a in range(heads):
        gamma = 1 if p.a is None else sigmoid(p.a[a])
        key, query, value = gate(k, a, K), gate(q, a, K), gate(v, a, V)
        if p.cell.feature_map == "elu":
            key, query = ([b + 1 if b > 0 else math.exp(b) for b in part] for part in (key, query))
        S_all.append([[gamma * S[a][i][j] + key[i] * value[j] for j in range(V)] for i in range(K)])
        y = read(S_all[-1], query)
        if z:
            z_all.append([gamma * z[0][a][i] + key[i] for i in range(K)])
            y = [b / (dot(z_all[-1], query) + 1e-6) for b in y]
        h += rms(y, p.gain)
    return h, [S_all, *([z_all] if z else [])]


# Sun et al., 2023 (arXiv:2307.08621), in complex numbers, for every head:
# S_n = γ e^{iθ} S_{n-1} + conj(K_n)ᵀ V_n               (1), (3), (6)
# o_n = Re(Q_n S_n)
# γ = 1 - 2^(-5 - head)                                 (8)
def retnet(p, x, state):
    re, im = state
    heads, K, V = sizes(re)  # K pairs of features
    q, k, v = blocks(p, x, [heads * 2 * K, heads * 2 * K, heads * V])
    h, re_all, im_all = [], [], []
    for a in range(heads):
        key, query, value = gate(k, a, 2 * K), gate(q, a, 2 * K), gate(v, a, V)
        S = []
        for i in range(K):
            turn = (1 - 2.0 ** (-5 - a)) * cmath.exp(1j * 10000 ** (-2 * i / (2 * K)))
            new = complex(key[i], -key[K + i]) / math.sqrt(2 * K)
            S.append([turn * complex(re[a][i][j], -im[a][i][j]) + new * value[j] for j in range(V)])
        y = [sum((complex(query[i], query[K + i]) * S[i][j]).real for i in range(K)) for j in range(V)]
        h += rms(y, p.gain)
        re_all.append([[b.real for b in row] for row in S])
        im_all.append([[-b.imag for b in row] for row in S])  # the cell carries conj(S)
    return h, [re_all, im_all]


# Yang et al., 2023 (arXiv:2312.06635), for every head:
# α_t = σ(W_2 W_1 x_t + b)^(1/τ)                        section 4.4
# S_t = (α_tᵀ 1) ⊙ S_{t-1} + k_tᵀ v_t                   (3)
def gla(p, x, state):
    (S,) = state
    heads, K, V = sizes(S)
    q, k, v = blocks(p, x, [heads * K, heads * K, heads * V])
    alpha = [sigmoid(b) ** (1 / p.cell.tau) for b in add(times(p.W_2, times(p.W_1, x)), p.b)]
    h, S_all = [], []
    for a in range(heads):
        keep, key, value = gate(alpha, a, K), gate(k, a, K), gate(v, a, V)
        S_all.append([[keep[i] * S[a][i][j] + key[i] * value[j] for j in range(V)] for i in range(K)])
        h += rms(read(S_all[-1], gate(q, a, K)), p.gain)
    return h, [S_all]


# Qin et al., 2024 (arXiv:2404.07904), for every head; o is q here, i is v:
# h_t = Diag(f_t) h_{t-1} + (1 - f_t) i_tᵀ
# y_t = h_tᵀ o_t
def hgrn2(p, x, state):
    (S,) = state
    heads, K, V = sizes(S)
    q, f, v = blocks(p, x, [heads * K, heads * K, heads * V])
    bound = p.cell.lower_bound
    f = [bound + (1 - bound) * sigmoid(b) for b in f]
    h, S_all = [], []
    for a in range(heads):
        keep, value = gate(f, a, K), gate(v, a, V)
        S_all.append([[keep[i] * S[a][i][j] + (1 - keep[i]) * value[j] for j in range(V)] for i in range(K)])
        h += read(S_all[-1], silu(gate(q, a, K)))
    return rms(h, p.gain), [S_all]


# Dao and Gu, 2024 (arXiv:2405.21060), feature by feature: a scalar recurrence for every state n and column j of a head
# h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t
# y_t = C_tᵀ h_t + D x_t
def mamba2(p, x, state):
    (S,) = state
    heads, N, P = sizes(S)
    columns, B, C, delta = blocks(p, x, [heads * P, N, N, heads])
    columns, B, C = silu(columns), silu(B), silu(C)
    h, S_all = [], []
    for a in range(heads):
        step, A = softplus(delta[a] + p.b[a]), -math.exp(p.log_A[a])
        memory = [[0.0] * P for _ in range(N)]
        for j in range(P):
            u = columns[a * P + j]
            for n in range(N):
                memory[n][j] = math.exp(step * A) * S[a][n][j] + step * B[n] * u
            h.append(sum(C[n] * memory[n][j] for n in range(N)) + p.D[a] * u)
        S_all.append(memory)
    return rms(h, p.gain), [S_all]


def transition(S, keep, key, value, beta):
    """S (keep (I - β k kᵀ)) + β v kᵀ, with S transposed, from the matrix written out."""
    K, V = len(S), len(S[0])
    matrix = [[keep * ((i == j) - beta * key[i] * key[j]) for j in range(K)] for i in range(K)]
    return [
        [sum(matrix[i][m] * S[m][j] for m in range(K)) + beta * key[i] * value[j] for j in range(V)] for i in range(K)
    ]


# Yang et al., 2024 (arXiv:2406.06484), for every head:
# S_t = S_{t-1} (I - β_t k_t k_tᵀ) + β_t v_t k_tᵀ
# o_t = S_t q_t
def deltanet(p, x, state):
    (S,) = state
    heads, K, V = sizes(S)
    q, k, v, b = blocks(p, x, [heads * K, heads * K, heads * V, heads])
    h, S_all = [], []
    for a in range(heads):
        beta = p.largest * sigmoid(b[a])
        S_all.append(transition(S[a], 1, unit(silu(gate(k, a, K))), silu(gate(v, a, V)), beta))
        h += rms(read(S_all[-1], unit(silu(gate(q, a, K)))), p.gain)
    return h, [S_all]


# Yang, Kautz and Hatamizadeh, 2024 (arXiv:2412.06464), for every head:
# S_t = S_{t-1} (α_t (I - β_t k_t k_tᵀ)) + β_t v_t k_tᵀ
# o_t = S_t q_t
# α_t = exp(-exp(A_log) softplus(w_α x_t + b))
def gated_deltanet(p, x, state):
    (S,) = state
    heads, K, V = sizes(S)
    q, k, v, raw, b = blocks(p, x, [heads * K, heads * K, heads * V, heads, heads])
    h, S_all = [], []
    for a in range(heads):
        alpha = math.exp(-math.exp(p.log_A[a]) * softplus(raw[a] + p.b[a]))
        beta = p.largest * sigmoid(b[a])
        S_all.append(transition(S[a], alpha, unit(silu(gate(k, a, K))), silu(gate(v, a, V)), beta))
        h += rms(read(S_all[-1], unit(silu(gate(q, a, K)))), p.gain)
    return h, [S_all]


# Siems et al., 2025 (arXiv:2502.10297), for every head, j = 1 to n:
# H_{i,j} = (I - β_{i,j} k_{i,j} k_{i,j}ᵀ) H_{i,j-1} + β_{i,j} k_{i,j} v_{i,j}ᵀ
# and H_{i,0} = α_i H_{i-1} if gated
def deltaproduct(p, x, state):
    (S,) = state
    heads, K, V = sizes(S)
    n = p.cell.products
    rest = [] if p.b is None else [heads]
    q, *parts = blocks(p, x, [heads * K] * (n + 1) + [heads * V] * n + [heads] * n + rest)
    h, S_all = [], []
    for a in range(heads):
        keep = 1 if p.b is None else math.exp(-math.exp(p.log_A[a]) * softplus(parts[-1][a] + p.b[a]))
        memory = [[keep * number for number in row] for row in S[a]]
        for j in range(n):
            key, value = unit(silu(gate(parts[j], a, K))), silu(gate(parts[n + j], a, V))
            memory = transition(memory, 1, key, value, p.largest * sigmoid(parts[2 * n + j][a]))
        S_all.append(memory)
        h += rms(read(memory, unit(silu(gate(q, a, K)))), p.gain)
    return h, [S_all]


# Peng et al., 2025 (arXiv:2503.14456), equations 4 to 7, 11 to 13, 15 to 17, 20 and 21, for every
# head, S with a row for every value feature:
# w_t = exp(-e^{-0.5} σ(d_t)), d_t = tanh(x_t A_w) B_w + bias
# a_t = σ(x_t A_a B_a + bias)
# κ_t = k_t ⊙ ξ, k̃_t = k_t ⊙ lerp(1, a_t, α)
# S_t = S_{t-1} (diag(w_t) - κ̂_tᵀ (a_t ⊙ κ̂_t)) + v_tᵀ k̃_t
# p_t = LayerNorm(r_t S_tᵀ) + (r_t (ρ ⊙ k̃_t)ᵀ) v_t
def rwkv7(p, x, state):
    (S,) = state
    heads, K, V = sizes(S)
    r, k, v = blocks(p, x, [heads * K, heads * K, heads * V])
    d = add(times(p.V_w, [math.tanh(b) for b in times(p.U_w, x)]), p.b_w)
    w = [math.exp(-math.exp(-0.5) * sigmoid(b)) for b in d]
    rate = [sigmoid(b) for b in add(times(p.V_a, times(p.U_a, x)), p.b_a)]
    h, S_all = [], []
    for a in range(heads):
        here = range(a * K, (a + 1) * K)
        kappa = [k[i] * p.xi[i] for i in here]
        length = math.sqrt(sum(b * b for b in kappa))
        kappa = [b / length for b in kappa]
        key = [k[i] * (1 - p.alpha[i] + rate[i] * p.alpha[i]) for i in here]
        value, query = gate(v, a, V), gate(r, a, K)
        decays, rates = gate(w, a, K), gate(rate, a, K)
        matrix = [[decays[i] * (i == j) - kappa[i] * rates[j] * kappa[j] for j in range(K)] for i in range(K)]
        old = [[S[a][i][j] for i in range(K)] for j in range(V)]  # a row for every value feature
        new = [[sum(row[i] * matrix[i][j] for i in range(K)) for j in range(K)] for row in old]
        new = [[new[j][i] + value[j] * key[i] for i in range(K)] for j in range(V)]
        y = times(new, query)
        if p.gain is not None:
            mean = sum(y) / V
            deviation = math.sqrt(sum((b - mean) ** 2 for b in y) / V + 1e-5 * V)
            scaled = [(b - mean) / deviation for b in y]
            y = [gate(p.gain, a, V)[j] * scaled[j] + gate(p.norm_bias, a, V)[j] for j in range(V)]
        bonus = sum(query[i] * p.rho[a * K + i] * key[i] for i in range(K))
        h += [y[j] + bonus * value[j] for j in range(V)]
        S_all.append([[new[j][i] for j in range(V)] for i in range(K)])
    return h, [S_all]


# Sun et al., 2024 (arXiv:2407.04620), equations 4 and 5 and section 2.7, for every head:
# W_t = W_{t-1} - η_t ∇ℓ(W_{t-1}; x_t), ℓ = ½ |f(θ_K x_t; W) - θ_V x_t|²
# z_t = f(θ_Q x_t; W_t), f(x; W, b) = x + LN(x W + b)
# with the Jacobian of the norm, ∂ẑ_i/∂z_j = (δ_ij - 1/d - ẑ_i ẑ_j / d) / s
def ttt_linear(p, x, state):
    heads, d, _ = sizes(state[0])
    whole = times(p.W_qkv, x)
    q, k, v, raw = (whole[i * heads * d : (i + 1) * heads * d] for i in range(4))
    h, W_all, b_all = [], [], []

    def normal(z):
        mean = sum(z) / d
        s = math.sqrt(sum((c - mean) ** 2 for c in z) / d + 1e-6)
        return [(c - mean) / s for c in z], s

    for a in range(heads):
        query, key, value = gate(q, a, d), gate(k, a, d), gate(v, a, d)
        W = [add(p.W_0[a][i], state[0][a][i]) for i in range(d)]
        b = add(p.b_0[a], state[1][a])
        z, s = normal(add(read(W, key), b))
        error = [key[i] + p.gain[a][i] * z[i] + p.bias[a][i] - value[i] for i in range(d)]
        jacobian = [[((i == j) - 1 / d - z[i] * z[j] / d) / s for j in range(d)] for i in range(d)]
        slope = [sum(error[i] * p.gain[a][i] * jacobian[i][j] for i in range(d)) for j in range(d)]
        eta = p.cell.learning_rate * sigmoid(raw[a] + p.b_eta[a]) / d
        W = [[W[i][j] - eta * key[i] * slope[j] for j in range(d)] for i in range(d)]
        b = [b[j] - eta * slope[j] for j in range(d)]
        z, _ = normal(add(read(W, query), b))
        h += [query[i] + p.gain[a][i] * z[i] + p.bias[a][i] for i in range(d)]
        W_all.append([[W[i][j] - p.W_0[a][i][j] for j in range(d)] for i in range(d)])
        b_all.append([b[j] - p.b_0[a][j] for j in range(d)])
    return h, [W_all, b_all]


def beta_up_to(largest, step):
    """The step with β = ``largest`` σ(w_β x)."""

    def run(p, x, state):
        p.largest = largest
        return step(p, x, state)

    return run


ONE, TWO = (lambda step: beta_up_to(1, step)), (lambda step: beta_up_to(2, step))
NEGATIVE = {"negative_eigenvalues": True}
CASES = {
    "mlstm": ("mlstm", {}, mlstm),
    "mlstm-heads": ("mlstm", {"heads": 2, "bias": False}, mlstm),
    "mlstm-exp": ("mlstm", {"heads": 4, "forget_gate": "exp"}, mlstm),
    "linear_attention": ("linear_attention", {}, linear_attention),
    "linear_attention-decay": ("linear_attention", {"heads": 2, "key_size": 3, "decay": True}, linear_attention),
    "linear_attention-rms": (
        "linear_attention",
        {"norm": "rms", "decay": True, "feature_map": "identity", "heads": 2},
        linear_attention,
    ),
    "linear_attention-none": ("linear_attention", {"norm": "none"}, linear_attention),
    "retnet": ("retnet", {"heads": 2, "key_size": 4}, retnet),
    "retnet-plain": ("retnet", {"norm": False}, retnet),
    "gla": ("gla", {"heads": 2, "key_size": 3}, gla),
    "gla-plain": ("gla", {"norm": False, "tau": 2.0, "gate_rank": 2}, gla),
    "hgrn2": ("hgrn2", {"heads": 2, "key_size": 3}, hgrn2),
    "hgrn2-plain": ("hgrn2", {"norm": False, "lower_bound": 0.4}, hgrn2),
    "mamba2": ("mamba2", {"heads": 2, "key_size": 3}, mamba2),
    "mamba2-plain": ("mamba2", {"norm": False}, mamba2),
    "deltanet": ("deltanet", {"heads": 2, "key_size": 3}, ONE(deltanet)),
    "deltanet-plain": ("deltanet", {"norm": False}, ONE(deltanet)),
    "deltanet-negative": ("deltanet", NEGATIVE, TWO(deltanet)),
    "gated_deltanet": ("gated_deltanet", {"heads": 2, "key_size": 3}, ONE(gated_deltanet)),
    "gated_deltanet-plain": ("gated_deltanet", {"norm": False}, ONE(gated_deltanet)),
    "gated_deltanet-negative": ("gated_deltanet", NEGATIVE, TWO(gated_deltanet)),
    "deltaproduct": ("deltaproduct", {"heads": 2, "key_size": 3}, TWO(deltaproduct)),
    "deltaproduct-gated": ("deltaproduct", {"gated": True, "products": 3}, TWO(deltaproduct)),
    "deltaproduct-plain": ("deltaproduct", {"norm": False, "products": 1}, TWO(deltaproduct)),
    "deltaproduct-positive": ("deltaproduct", {"negative_eigenvalues": False}, ONE(deltaproduct)),
    "rwkv7": ("rwkv7", {"heads": 2, "key_size": 3, "rank": 2}, rwkv7),
    "rwkv7-plain": ("rwkv7", {"norm": False}, rwkv7),
    "ttt_linear": ("ttt_linear", {"heads": 2}, ttt_linear),
    "ttt_linear-rate": ("ttt_linear", {"learning_rate": 0.3}, ttt_linear),
}
