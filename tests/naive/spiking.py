"""Spiking cells."""

import math

from naive import add, times


# Neftci, Mostafa and Zenke, 2019 (arXiv:1901.09948), with a bias, and the threshold subtracted at a spike:
# I[n+1] = α I[n] + W S_in[n] + V S[n], U[n+1] = β U[n] + I[n] - ϑ S[n], S[n] = Θ(U[n] - ϑ)
def lif(p, x, state):
    current, potential = state
    threshold, alpha, beta = p.cell.threshold, math.exp(-1 / 5), math.exp(-1 / 10)
    spikes = [float(v > threshold) for v in potential]
    potential = [beta * v + i - threshold * s for v, i, s in zip(potential, current, spikes, strict=True)]
    current = add([alpha * i for i in current], times(p.W, x), times(p.U, spikes), p.b)
    return [float(v > threshold) for v in potential], [current, potential]


CASES = {
    "lif": ("lif", {}, lif),
    "lif-reset-learned": ("lif", {"reset_gradient": True, "threshold": 0.5, "bias": False}, lif),
}
