"""Heads: each density sums or integrates to 1, gradients are correct, and draws follow the distribution."""

from itertools import product
from math import pi

import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, MixtureSameFamily, MultivariateNormal, Normal

from rnnlab.heads import CTC, IGNORE, Bernoulli, Categorical, Gaussian, Mixture, SquaredError
from rnnlab.interface import InputError

T, B = 7, 3
DENSITIES = [
    Bernoulli(3),
    Gaussian(1),
    Gaussian(2),
    Mixture(1, 3),
    Mixture(2, 4),
    Mixture(1, 2, pen=True),
    Mixture(2, 3, pen=True),
    Mixture(3, 2),
]


def name(head):
    return f"{type(head).__name__}-{head.features}"


def outputs_of(head, *shape, seed=0, scale=0.7):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, head.features, dtype=torch.float64, generator=generator)


def targets_of(head, *shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(*shape, head.size, dtype=torch.float64, generator=generator)
    if isinstance(head, Bernoulli):
        return (targets > 0).double()
    if getattr(head, "pen", False):
        targets[..., -1] = (targets[..., -1] > 0).double()
    return targets


def grid(size, steps, edge=14.0):
    """Return the points ``[N, size]`` of a grid over ``size`` dimensions, and the volume of a grid cell."""
    axis = torch.linspace(-edge, edge, steps, dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * size).reshape(-1, size), float(axis[1] - axis[0]) ** size


@pytest.mark.parametrize("head", DENSITIES, ids=name)
def test_densities_are_normalised(head):
    """The sum over all bits and pen states and the numerical integral over all numbers is 1."""
    outputs = outputs_of(head, 1)
    if isinstance(head, Bernoulli):
        points, volume = torch.tensor(list(product((0.0, 1.0), repeat=head.size)), dtype=torch.float64), 1.0
    else:
        has_pen = getattr(head, "pen", False)
        points, volume = grid(head.size - has_pen, {1: 4001, 2: 301, 3: 121}[head.size - has_pen])
        if has_pen:
            points = torch.cat([torch.cat([points, torch.full_like(points[:, :1], bit)], 1) for bit in (0.0, 1.0)])
    total = head.log_density(outputs.expand(len(points), -1), points).exp().sum() * volume
    assert float(total) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("head", [Categorical(5), *DENSITIES], ids=name)
def test_gradients_equal_finite_differences(head):
    outputs = outputs_of(head, 4, 2).requires_grad_()
    targets = torch.tensor([[0, 1], [4, 2], [IGNORE, 3], [1, 1]]) if isinstance(head, Categorical) else None
    if targets is None:
        targets = targets_of(head, 4, 2)
        targets[2, 0] = torch.nan
    assert gradcheck(lambda given: head.loss(given, targets).total, outputs)
    assert int(head.loss(outputs, targets).count) == 7


@pytest.mark.parametrize("size", [1, 3, 40])
def test_losses_equal_torch_distributions(size):
    outputs = outputs_of(Gaussian(size), 200, B)
    targets = targets_of(Gaussian(size), 200, B)
    mean, log_deviation = outputs.chunk(2, -1)
    expected = -Independent(Normal(mean, log_deviation.exp()), 1).log_prob(targets).sum()
    torch.testing.assert_close(Gaussian(size).loss(outputs, targets).total, expected)

    head = Mixture(size, 5)
    outputs = outputs_of(head, 200, B)
    logits, mean, log_deviation = outputs.split([5, 5 * size, 5 * size], -1)
    parts = [part.unflatten(-1, (5, size)) for part in (mean, log_deviation.exp())]
    mixture = MixtureSameFamily(TorchCategorical(logits=logits), Independent(Normal(*parts), 1))
    torch.testing.assert_close(head.loss(outputs, targets).total, -mixture.log_prob(targets).sum())


def test_a_mixture_of_two_numbers_has_a_correlation():
    head = Mixture(2, 3, pen=True)
    outputs, targets = outputs_of(head, T, B), targets_of(head, T, B)
    logits, mean, log_deviation, slant, pen = outputs.split([3, 6, 6, 3, 1], -1)
    mean, deviation, rho = mean.unflatten(-1, (3, 2)), log_deviation.unflatten(-1, (3, 2)).exp(), slant.tanh()
    cross = rho * deviation.prod(-1)
    covariance = torch.stack([deviation[..., 0] ** 2, cross, cross, deviation[..., 1] ** 2], -1).unflatten(-1, (2, 2))
    mixture = MixtureSameFamily(TorchCategorical(logits=logits), MultivariateNormal(mean, covariance))
    lifted = torch.distributions.Bernoulli(logits=pen[..., 0]).log_prob(targets[..., 2])
    torch.testing.assert_close(head.log_density(outputs, targets), mixture.log_prob(targets[..., :2]) + lifted)


def test_a_strong_correlation_stays_finite():
    """In float32, 1 - tanh(a)² is 0 for a >= 9; the loss and its gradient stay finite."""
    head = Mixture(2, 1)
    outputs = torch.tensor([[[0.0, 0.0, 0.0, 0.0, 0.0, 20.0]]], requires_grad=True)
    loss = head.loss(outputs, torch.tensor([[[0.5, 0.5]]])).total
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize("head", DENSITIES, ids=name)
def test_unscored_steps_do_not_contribute(head):
    outputs, targets = outputs_of(head, T, B).requires_grad_(), targets_of(head, T, B)
    targets[2:, 1, -1] = torch.nan
    loss = head.loss(outputs, targets)
    rows = [head.loss(outputs[:2, 1:2], targets[:2, 1:2]), head.loss(outputs[:, [0, 2]], targets[:, [0, 2]])]
    torch.testing.assert_close(loss.total, rows[0].total + rows[1].total)
    assert int(loss.count) == 2 + 2 * T
    (gradient,) = torch.autograd.grad(loss.total, outputs)
    assert not gradient[2:, 1].any()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_distribution(temperature):
    """Many draws have the right moments; the temperature multiplies variances and divides logits."""
    n, generator = 40_000, torch.Generator().manual_seed(0)
    gaussian = torch.tensor([0.5, -1.0, 0.3, -0.7]).expand(n, -1)
    drawn = Gaussian(2).draw(gaussian, temperature, 0, generator)
    torch.testing.assert_close(drawn.mean(0), gaussian[0, :2], atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.std(0), temperature**0.5 * gaussian[0, 2:].exp(), atol=0.03, rtol=0)

    bits = Bernoulli(2).draw(torch.tensor([1.0, -2.0]).expand(n, -1), temperature, 0, generator)
    torch.testing.assert_close(bits.mean(0), (torch.tensor([1.0, -2.0]) / temperature).sigmoid(), atol=0.02, rtol=0)

    head = Mixture(2, 2, pen=True)
    # Two distant components, the first with a correlation of tanh(1), and a pen.
    parameters = torch.tensor([1.0, 0.0, -50.0, 0.0, 50.0, 0.0, 0.0, 0.5, 0.0, 0.0, 1.0, 0.0, 0.8]).expand(n, -1)
    drawn = head.draw(parameters, temperature, 0, generator)
    first = drawn[:, 0] < 0
    assert float(first.float().mean()) == pytest.approx(1 / (1 + 2.718281828 ** (-1 / temperature)), abs=0.02)
    assert float(torch.corrcoef(drawn[first, :2].t())[0, 1]) == pytest.approx(0.7616, abs=0.03)
    assert float(drawn[first, 1].std()) == pytest.approx(temperature**0.5 * 2.718281828**0.5, rel=0.03)
    assert float(drawn[:, 2].mean()) == pytest.approx(1 / (1 + 2.718281828 ** (-0.8 / temperature)), abs=0.02)


def test_temperature_zero_takes_the_mode():
    nothing = torch.Generator()
    assert Bernoulli(2).draw(torch.tensor([[0.1, -0.1]]), 0, 0, nothing).tolist() == [[1.0, 0.0]]
    assert Gaussian(1).draw(torch.tensor([[0.5, 3.0]]), 0, 0, nothing).tolist() == [[0.5]]
    assert SquaredError(2).draw(torch.tensor([[0.5, 3.0]]), 0.7, 0, nothing).tolist() == [[0.5, 3.0]]
    parameters = torch.tensor([[0.0, 1.0, 5.0, 6.0, 7.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]])
    assert Mixture(2, 2, pen=True).draw(parameters, 0, 0, nothing).tolist() == [[7.0, 8.0, 0.0]]


@pytest.mark.parametrize("head", [Categorical(3), *DENSITIES, SquaredError(2)], ids=name)
def test_draw_refuses_nonfinite_outputs_and_unsupported_top_k(head):
    outputs = torch.full((1, head.features), torch.nan)
    with pytest.raises(InputError, match="not finite"):
        head.draw(outputs, 1.0, 0, torch.Generator())
    if not isinstance(head, Categorical):
        with pytest.raises(InputError, match="top_k=5 requires a categorical head"):
            head.draw(torch.zeros_like(outputs), 1.0, 5, torch.Generator())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Categorical(0), "Categorical: classes=0 must be"),
        (lambda: Gaussian(1.5), "Gaussian: size=1.5 must be"),
        (lambda: Mixture(2, 0), "Mixture: components=0 must be"),
        (lambda: CTC(-1), "CTC: labels=-1 must be"),
    ],
)
def test_sizes_are_checked(make, says):
    with pytest.raises(InputError, match=says):
        make()


def alignments(labels, steps, blank):
    """Yield every path of ``steps`` symbols that CTC collapses to ``labels``."""
    for path in product(range(blank + 1), repeat=steps):
        merged = [symbol for t, symbol in enumerate(path) if t == 0 or symbol != path[t - 1]]
        if [symbol for symbol in merged if symbol != blank] == labels:
            yield path


@pytest.mark.parametrize("labels", [[], [0], [1, 1], [0, 1, 0]])
def test_ctc_is_the_sum_over_all_alignments(labels):
    head, steps = CTC(2), 5
    outputs = outputs_of(head, steps, 1)
    log_probabilities = outputs[:, 0].log_softmax(-1)
    total = sum(
        float(sum(log_probabilities[t, symbol] for t, symbol in enumerate(path)).exp())
        for path in alignments(labels, steps, head.blank)
    )
    targets = torch.tensor(labels or [0], dtype=torch.int64).unsqueeze(1)
    loss = head.loss(outputs, targets, target_lengths=torch.tensor([len(labels)]))
    assert float(loss.total) == pytest.approx(-torch.tensor(total).log().item())
    assert int(loss.count) == len(labels)


def test_ctc_respects_lengths_and_has_correct_gradients():
    head = CTC(4)
    outputs = outputs_of(head, 30, B).requires_grad_()
    targets = torch.randint(4, (6, B), generator=torch.Generator().manual_seed(0))
    lengths, target_lengths = torch.tensor([30, 17, 22]), torch.tensor([6, 2, 5])
    loss = head.loss(outputs, targets, lengths, target_lengths)
    single = [
        head.loss(outputs[: lengths[b], b : b + 1], targets[: target_lengths[b], b : b + 1]).total for b in range(B)
    ]
    torch.testing.assert_close(loss.total, sum(single))
    (gradient,) = torch.autograd.grad(loss.total, outputs)
    assert not gradient[17:, 1].any()
    assert gradcheck(
        lambda given: head.loss(given, targets[:2], torch.full((B,), 6), torch.full((B,), 2)).total,
        outputs_of(head, 6, B).requires_grad_(),
    )
    expected = torch.nn.functional.ctc_loss(
        outputs.log_softmax(-1), targets.t(), lengths, target_lengths, blank=4, reduction="none"
    )
    torch.testing.assert_close(loss.total, expected.sum())


def test_ctc_decodes_the_best_path():
    head = CTC(3)
    path = torch.tensor([[0, 0, 3, 0, 1, 1, 3, 2], [3, 3, 2, 2, 2, 3, 1, 1]]).t()
    outputs = torch.nn.functional.one_hot(path, 4).float()
    assert [labels.tolist() for labels in head.decode(outputs)] == [[0, 0, 1, 2], [2, 1]]
    assert [labels.tolist() for labels in head.decode(outputs, torch.tensor([4, 3]))] == [[0, 0], [2]]
    with pytest.raises(InputError, match=r"CTC.decode"):
        head.draw(outputs[0], 1.0, 0, torch.Generator())


def test_a_gaussian_of_unit_variance_is_half_a_squared_error():
    outputs, targets = torch.zeros(T, B, 2), torch.randn(T, B, 1)
    expected = 0.5 * SquaredError(1).loss(outputs[..., :1], targets).total + 0.5 * T * B * torch.tensor(2 * pi).log()
    torch.testing.assert_close(Gaussian(1).loss(outputs, targets).total, expected)
