"""The density of the next point of a drawing: its equations, its units, its integral, and draws from it."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from rnnlab.heads import Mixture
from rnnlab.interface import InputError
from rnnlab.tasks.drawing.strokes import Pen


def outputs_of(head, *shape, seed=0):
    return torch.randn(*shape, head.features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start_of(components):
    return torch.randn(6 * components + 2, generator=torch.Generator().manual_seed(1)).double() / 2


def transcription(y, x, s, scale, start, components):
    """The loss of a sequence in nats: Graves (2013), equations 18 to 25, step by step, with three states of the pen."""
    cuts = np.cumsum([components * n for n in (1, 2, 2, 1)])
    total = 0.0
    start_pi, start_mean, start_deviation, start_correlation, start_pen = np.split(start, cuts)
    for t in range(len(y)):
        pi_hat, means, deviations, correlations, pen = np.split(y[t], cuts)
        pi_hat, deviations = pi_hat + start_pi, deviations + start_deviation
        means, correlations = means * np.exp(start_deviation) + start_mean, correlations + start_correlation
        pi = np.exp(pi_hat) / sum(np.exp(pi_hat))
        density = 0.0
        for j in range(components):
            mu1, mu2 = means[2 * j : 2 * j + 2] * scale
            s1, s2 = np.exp(deviations[2 * j : 2 * j + 2]) * scale
            rho = np.tanh(correlations[j])
            a, b = (x[t][0] - mu1) / s1, (x[t][1] - mu2) / s2
            z = a**2 + b**2 - 2 * rho * a * b
            density += pi[j] * np.exp(-z / (2 * (1 - rho**2))) / (2 * np.pi * s1 * s2 * np.sqrt(1 - rho**2))
        states = np.exp([0.0, *(pen + start_pen)]) / sum(np.exp([0.0, *(pen + start_pen)]))
        total -= np.log(density) + np.log(states[int(s[t])])
    return total


@pytest.mark.parametrize(("steps", "components"), [(1, 1), (200, 4)])
def test_the_loss_is_that_of_the_paper_in_units_of_the_data(steps, components):
    start = start_of(components)
    head = Pen(30.0, start)
    outputs, targets = outputs_of(head, steps, 2), torch.randn(steps, 2, 3, dtype=torch.float64)
    targets[..., 2] = torch.randint(3, (steps, 2)).double()
    expected = sum(
        transcription(
            outputs[:, b].numpy(),
            30 * targets[:, b, :2].numpy(),
            targets[:, b, 2].numpy(),
            30.0,
            start.numpy(),
            components,
        )
        for b in range(2)
    )
    total, count = head.loss(outputs, targets)
    assert float(total) == pytest.approx(expected, rel=1e-10)
    assert int(count) == 2 * steps


@pytest.mark.parametrize("scale", [0.5, 40.0])
def test_the_density_in_units_of_the_data_has_the_integral_one(scale):
    """The sum over the states of the integral over a grid of offsets, which is exact for smooth densities."""
    head = Pen(scale, start_of(3))
    outputs = 0.5 * outputs_of(head, 1, seed=3)
    edge, distance = 30 * scale, 0.2 * scale
    axis = torch.arange(-edge, edge, distance, dtype=torch.float64)
    total = 0.0
    for state in range(3):
        x, y = torch.meshgrid(axis, axis, indexing="ij")
        targets = torch.stack([x / scale, y / scale, torch.full_like(x, state)], -1)
        density = head.log_density(outputs.expand(*x.shape, -1), targets).exp()
        total += float(density.sum()) * distance**2
    assert total == pytest.approx(1, abs=1e-6)


def test_draws_are_integers_with_the_probabilities_that_the_loss_bounds():
    """One component without correlation: the probability of an integer is a product of differences of normal cdfs."""
    head = Pen(2.0, torch.zeros(8))
    outputs = torch.tensor([[0.0, 0.3, -0.2, -0.4, -0.1, 0.0, 0.5, -0.5]])
    drawn = head.draw(outputs.expand(10_000, -1), 1.0, 0, torch.Generator().manual_seed(0))
    offsets = drawn[:, :2] * 2
    torch.testing.assert_close(offsets, offsets.round())
    states = np.exp([0, 0.5, -0.5]) / np.exp([0, 0.5, -0.5]).sum()
    assert torch.bincount(drawn[:, 2].long()).numpy() / 10_000 == pytest.approx(states, abs=0.015)
    cells = [
        {n: norm.cdf(n + 0.5, 2 * m, 2 * np.exp(d)) - norm.cdf(n - 0.5, 2 * m, 2 * np.exp(d)) for n in (-1, 0, 1)}
        for m, d in ((0.3, -0.4), (-0.2, -0.1))
    ]
    u = (torch.arange(30, dtype=torch.float64) + 0.5) / 30 - 0.5
    noise = torch.stack(torch.meshgrid(u, u, indexing="ij"), -1)
    for x, px in cells[0].items():
        for y, py in cells[1].items():
            frequency = ((offsets[:, 0] == x) & (offsets[:, 1] == y)).double().mean()
            assert float(frequency) == pytest.approx(px * py, abs=0.015)
            targets = torch.cat([(torch.tensor([x, y]) + noise) / 2, torch.zeros(30, 30, 1)], -1)
            densities = head.log_density(outputs.double().expand(30, 30, -1), targets)
            assert float(densities.exp().mean()) == pytest.approx(px * py * states[0], rel=1e-4)
            assert -float(densities.mean()) > -np.log(px * py * states[0])  # the bound of dequantisation


def test_the_pen_has_at_most_three_states():
    assert Mixture(2, 3, pen=2).features == Mixture(2, 3, pen=True).features + 1
    with pytest.raises(InputError, match="pen=3 must be False, True or 2"):
        Mixture(2, 3, pen=3)
