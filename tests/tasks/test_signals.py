"""Simulated and generated signals: against integrators and solvers of another kind."""

from math import exp, log, pi

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from rnnlab import tasks
from rnnlab.contracts import check_task
from rnnlab.interface import InputError
from rnnlab.outputs import IGNORE
from rnnlab.tasks.signals import lorenz, mackey_glass
from rnnlab.tasks.signals.base import Simulated
from rnnlab.tasks.signals.delayed_xor import DelayedXOR
from rnnlab.tasks.signals.doses import Doses
from rnnlab.tasks.signals.lorenz import Lorenz
from rnnlab.tasks.signals.mackey_glass import MackeyGlass
from rnnlab.tasks.signals.sine_mixture import SineMixture

SIMULATED = [MackeyGlass, Lorenz]
MACKEY_GLASS_LAST = 0.9242050725876786
LORENZ_LAST = [14.269333571709797, 15.644484540450229, 33.32546899273083]
both = pytest.mark.parametrize("make", SIMULATED)


def rows_of(task):
    """The rows ``inputs`` and ``targets`` of a docstring's example, as lists of words."""
    lines = [line.strip() for line in type(task).__doc__.splitlines()]
    found = [next(line for line in lines if line.startswith(f"{row}  ")).split() for row in ("inputs", "targets")]
    return found[0][1:], found[1][1 : len(found[0])]


def evaluate(task, split, predict):
    """Loss and mean absolute error of what ``predict(batch)`` says."""
    sums = {"loss": [0.0, 0.0], "mae": [0.0, 0.0]}
    for step in range(task.num_batches(split)):
        batch = task.batch(split, step)
        outputs = predict(batch)
        for name, mean in {"loss": task.loss(outputs, batch), **task.measure(outputs, batch)}.items():
            sums[name] = [old + float(torch.as_tensor(new).sum()) for old, new in zip(sums[name], mean, strict=True)]
    return {name: total / count for name, (total, count) in sums.items()}


def by_method_of_steps(tau, start, delays):
    """Mackey-Glass at times 0, 1, ...: delay after delay an ordinary equation, driven by the solution before."""
    past = [lambda t: [start]]
    values = [start]
    for n in range(delays):

        def slope(t, x, before=past[-1]):
            delayed = before(t - tau)[0]
            return 0.2 * delayed / (1 + delayed**10) - 0.1 * x

        times = np.arange(1, tau + 1) + n * tau
        found = solve_ivp(
            slope, (n * tau, (n + 1) * tau), values[-1:], "DOP853", times, dense_output=True, rtol=1e-11, atol=1e-12
        )
        past.append(found.sol)
        values.extend(found.y[0])
    return np.array(values)


@pytest.mark.parametrize(("tau", "start", "delays"), [(17, 1.2, 8), (30, 1.3, 5), (1, 0.5, 20)])
def test_mackey_glass_is_the_solution_of_its_equation(tau, start, delays):
    expected = by_method_of_steps(tau, start, delays)
    found = mackey_glass.solve(tau, start, len(expected))[:, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


def test_mackey_glass_begins_with_an_exponential():
    """Up to the first delay the production is constant."""
    production = 0.2 * 1.2 / (1 + 1.2**10)
    expected = [1.2 * exp(-0.1 * t) + 10 * production * (1 - exp(-0.1 * t)) for t in range(18)]
    assert mackey_glass.solve(17, 1.2, 18)[:, 0].tolist() == pytest.approx(expected, abs=1e-8)


def test_lorenz_is_the_solution_of_its_equations():
    def slope(t, v):
        return [10 * (v[1] - v[0]), v[0] * (28 - v[2]) - v[1], v[0] * v[1] - 8 / 3 * v[2]]

    expected = solve_ivp(slope, (0, 4), [1, 1, 1], "DOP853", np.arange(201) * 0.02, rtol=1e-11, atol=1e-11).y.T
    np.testing.assert_allclose(lorenz.solve((1.0, 1.0, 1.0), 201), expected, rtol=0, atol=2e-3)


def test_chaos_is_the_same_on_every_machine():
    """A difference of one rounding would be a difference of the first digit by then."""
    assert mackey_glass.solve(17, 1.2, 21_000)[-1].item() == MACKEY_GLASS_LAST
    assert lorenz.solve((1.0, 1.0, 1.0), 21_000)[-1].tolist() == LORENZ_LAST


@both
def test_the_windows_are_those_of_the_docstring(make):
    task = make(horizon=2, washout=1, seq_len=4, eval_steps=6, batch_size=1)
    task.series = {
        split: torch.arange(float(size)).unsqueeze(1).expand(-1, task.channels) for split, size in task.sizes.items()
    }
    inputs, targets = rows_of(task)
    batch = task.batch("valid", 0)
    assert [f"x{x:.0f}" for x in batch.inputs[:, 0, -1].tolist()] == inputs
    assert ["-" if x != x else f"x{x:.0f}" for x in batch.targets[:, 0, -1].tolist()] == targets
    again = task.batch("valid", 1)
    assert again.inputs[:, 0, 0].tolist() == [3, 4, 5, 6], "the next window begins one washout before it is scored"


@both
@pytest.mark.parametrize(
    ("horizon", "washout", "seq_len", "batch_size", "eval_steps"), [(1, 0, 1, 1, 7), (3, 4, 9, 2, 21), (2, 1, 2, 5, 11)]
)
def test_an_evaluation_scores_every_step_but_the_first_once(make, horizon, washout, seq_len, batch_size, eval_steps):
    task = make(horizon=horizon, washout=washout, seq_len=seq_len, batch_size=batch_size, eval_steps=eval_steps)
    size = task.sizes["test"]
    task.series = {
        split: torch.arange(float(n)).unsqueeze(1).repeat(1, task.channels) for split, n in task.sizes.items()
    }
    scored = []
    for step in range(task.num_batches("test")):
        batch = task.batch("test", step)
        torch.testing.assert_close(batch.targets[washout:], batch.inputs[washout:] + horizon)
        assert batch.targets[:washout].isnan().all()
        scored += batch.targets[washout:, :, 0].t().flatten().tolist()
    assert scored == list(range(washout + horizon, size))
    assert eval_steps <= len(scored) < eval_steps + seq_len - washout


@both
def test_training_windows_come_from_anywhere(make):
    task = make(horizon=2, washout=0, seq_len=5, train_steps=10, batch_size=400)
    series = task.series["train"]
    starts = set()
    batch = task.batch("train", 0)
    for i in range(400):
        (start,) = [s for s in range(10) if torch.equal(series[s : s + 5], batch.inputs[:, i])]
        assert torch.equal(series[start + 2 : start + 7], batch.targets[:, i])
        starts.add(start)
    assert starts == {0, 1, 2, 3}


@both
def test_the_series_are_standardised_by_the_training_one(make):
    task = make()
    train = task.series["train"].double()
    torch.testing.assert_close(train.mean(0), torch.zeros(task.channels).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(train.std(0), torch.ones(task.channels).double(), rtol=0, atol=1e-4)
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        difference = task.series[one][:4000] - task.series[other][:4000]
        assert (difference.square().mean(0) > 0.2).all(), f"{one} and {other} are one series"


@both
@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("horizon", [1, 7])
def test_trivial_forecasts_have_the_errors_stated(make, split, horizon):
    task = make(horizon=horizon, seq_len=60, batch_size=16, eval_steps=1000)
    stated = task.baselines(split)
    assert list(stated) == ["mean", "persistence"]
    found = {
        "mean": evaluate(task, split, lambda batch: torch.zeros_like(batch.inputs)),
        "persistence": evaluate(task, split, lambda batch: batch.inputs),
    }
    assert found == {name: pytest.approx(errors, rel=1e-5) for name, errors in stated.items()}


@pytest.mark.parametrize("sines", [1, 2, 3])
@pytest.mark.parametrize("horizon", [1, 4])
def test_a_mixture_is_a_sum_of_so_many_sines(sines, horizon):
    """The matrix of its shifted values has rank 2k, and the recurrence it obeys has the frequencies as its roots."""
    task = SineMixture(sines=sines, horizon=horizon, frequencies=[0.2, 1.0], batch_size=8)
    for length in (1, 2, 40):
        batch = task.draw(torch.Generator().manual_seed(0), length)
        assert batch.inputs.shape == batch.targets.shape == (length, 8, 1)
        torch.testing.assert_close(batch.inputs[horizon:], batch.targets[:-horizon])
    for sequence in batch.inputs[:, :, 0].t().double().numpy():
        shifted = np.stack([sequence[i : i + 20] for i in range(20)])
        sizes = np.linalg.svd(shifted, compute_uv=False)
        assert sizes[2 * sines] < 1e-5 * sizes[0]
        if sines == 1:
            cosine = (sequence[:-2] + sequence[2:]) @ sequence[1:-1] / (2 * sequence[1:-1] @ sequence[1:-1])
            assert 0.2 - 1e-3 < np.arccos(cosine) < 1 + 1e-3


def test_a_mixture_has_the_docstring_s_values():
    task = SineMixture(sines=1, frequencies=[pi / 2, pi / 2], batch_size=20_000)
    inputs, targets = (torch.tensor([float(x) for x in row]) for row in rows_of(task))
    batch = task.draw(torch.Generator().manual_seed(0), 4)
    nearest = (batch.inputs[..., 0] - inputs.unsqueeze(1)).abs().sum(0).argmin()
    torch.testing.assert_close(batch.inputs[:, nearest, 0], inputs, rtol=0, atol=0.01)
    torch.testing.assert_close(batch.targets[:, nearest, 0], targets, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    "options", [{}, {"sines": 1, "horizon": 5}, {"sines": 5, "horizon": 2}, {"frequencies": [0.7, 0.7], "horizon": 3}]
)
def test_trivial_forecasts_of_a_mixture_have_the_errors_stated(options):
    task = SineMixture(**options, batch_size=5000, eval_batches=1, lengths=[40, 40])
    stated = task.baselines("valid")
    zero = evaluate(task, "valid", lambda batch: torch.zeros_like(batch.inputs))
    same = evaluate(task, "valid", lambda batch: batch.inputs)
    assert stated["always 0"]["loss"] == pytest.approx(zero["loss"], abs=0.03)
    assert stated["persistence"]["loss"] == pytest.approx(same["loss"], rel=0.03)


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("delay", [0, 1, 5])
def test_every_target_is_the_parity_of_the_bits_before(delay, bits):
    task = DelayedXOR(delay=delay, bits=bits, batch_size=16)
    for length in (task.shortest, task.shortest + 1, 50):
        batch = task.draw(torch.Generator().manual_seed(1), length)
        for word, targets in zip(batch.inputs.t().tolist(), batch.targets.t().tolist(), strict=True):
            for t, target in enumerate(targets):
                earlier = [word[t - delay - i] for i in range(bits) if t - delay - i >= 0]
                assert target == (earlier.count(1) % 2 if len(earlier) == bits else IGNORE)


def test_delayed_xor_has_the_docstring_s_example():
    task = DelayedXOR(delay=2, batch_size=2000)
    inputs, targets = rows_of(task)
    batch = task.draw(torch.Generator().manual_seed(0), len(inputs))
    words = ["".join(map(str, row)) for row in batch.inputs.t().tolist()]
    found = batch.targets[:, words.index("".join(inputs))].tolist()
    assert ["-" if target == IGNORE else str(target) for target in found] == targets


def test_bits_and_their_parity_are_fair():
    batch = DelayedXOR(batch_size=1000).batch("train", 0)
    assert float(batch.inputs.double().mean()) == pytest.approx(0.5, abs=0.01)
    scored = batch.targets[batch.targets != IGNORE]
    assert float(scored.double().mean()) == pytest.approx(0.5, abs=0.01)
    assert DelayedXOR().baselines("test") == {"chance": {"loss": pytest.approx(log(2)), "accuracy": 0.5}}


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mackey_glass", {"tau": 0}, r"task\.tau=0 must be at least 1"),
        ("mackey_glass", {"horizon": 0}, r"task\.horizon=0 must be at least 1"),
        ("lorenz", {"eval_steps": 0}, r"task\.eval_steps=0 must be at least 1"),
        ("lorenz", {"seq_len": 0}, r"task\.seq_len=0 must be at least 1"),
        ("lorenz", {"washout": 100}, r"task\.washout=100 must be from 0 to 99"),
        ("lorenz", {"washout": -1}, r"task\.washout=-1 must be from 0 to 99"),
        ("lorenz", {"train_steps": 100}, r"task\.train_steps=100 must be at least 101"),
        ("sine_mixture", {"sines": 0}, r"task\.sines=0 must be at least 1"),
        ("sine_mixture", {"frequencies": [0.0, 1.0]}, r"task\.frequencies is \[0.0, 1.0\]; give the lowest"),
        ("sine_mixture", {"frequencies": [1.0, 0.5]}, r"task\.frequencies is \[1.0, 0.5\]; give the lowest"),
        ("sine_mixture", {"frequencies": [0.5, 3.2]}, r"task\.frequencies is \[0.5, 3.2\]; give the lowest"),
        ("doses", {"times": "all"}, r"task\.times='all' is not one of elapsed, input, both, none"),
        ("doses", {"inputs": "rate"}, r"task\.inputs='rate' is not one of doses, rates"),
        (
            "doses",
            {"elimination": 2.0},
            r"task\.absorption=2.0 and task\.elimination=2.0 must be above 0 and different",
        ),
        ("delayed_xor", {"delay": -1}, r"task\.delay=-1 must be at least 0"),
        ("delayed_xor", {"bits": 0}, r"task\.bits=0 must be at least 1"),
        ("delayed_xor", {"lengths": [6, 9]}, r"task\.lengths is \[6, 9\]; the shortest length must be at least 7"),
    ],
)
def test_options_that_cannot_be_are_refused(name, options, says):
    with pytest.raises(InputError, match=says):
        tasks.find(name)(**options)


def test_a_signal_that_stands_still_is_0():
    """Without a delay to speak of, Mackey-Glass comes to rest at a value whose deviation is a rounding error."""

    class Still(Simulated):
        channels = 1

        def simulate(self, split, steps):
            return torch.full((steps, 1), 14.62, dtype=torch.float64)

    batch = Still(train_steps=1000).batch("train", 0)
    assert batch.inputs.abs().max() == batch.targets.abs().max() == 0


# Doses


def test_concentrations_solve_the_equations_of_the_compartments():
    task = Doses(times="elapsed", batch_size=3, lengths=[12, 12], absorption=1.7, elimination=0.4)
    batch = task.batch("train", 0)
    for b in range(3):
        amounts, found = [0.0, 0.0], []
        for dose, time in zip(batch.inputs[:, b, 0].tolist(), batch.elapsed[:, b].tolist(), strict=True):
            solved = solve_ivp(
                lambda _, at: (-1.7 * at[0], 1.7 * at[0] - 0.4 * at[1]), (0, time), amounts, rtol=1e-9, atol=1e-12
            )
            in_gut, in_blood = solved.y[:, -1]
            found.append(in_blood)
            amounts = [in_gut + dose, in_blood]
        assert batch.targets[:, b, 0].tolist() == pytest.approx(found, rel=1e-5, abs=1e-6)


def test_doses_of_the_docstring():
    doses, times = torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([[1.0], [1.0], [3.0]])
    found = Doses().concentrations(doses, times)[:, 0].tolist()
    assert [f"{number:.2f}" for number in found] == ["0.00", "0.63", "0.18"]


def test_doses_give_times_as_asked():
    for times, features, is_given in (
        ("elapsed", 1, True), ("input", 2, False), ("both", 2, True), ("none", 1, False),
    ):  # fmt: skip
        task = Doses(times=times, batch_size=500)
        batch = task.batch("train", 0)
        assert batch.inputs.shape == (50, 500, features)
        assert (batch.elapsed is not None, task.has_elapsed) == (is_given, is_given)
        given = batch.inputs[..., 1] if features == 2 else batch.elapsed
        if given is not None:
            assert float(given.mean()) == pytest.approx(1, abs=0.02)
            assert float(given.var()) == pytest.approx(1, abs=0.05)
        doses = batch.inputs[..., 0]
        assert float((doses > 0).double().mean()) == pytest.approx(0.5, abs=0.01)
    check_task(Doses, lengths=[8, 8], test_lengths=[9, 9], eval_batches=2, batch_size=4)


def test_a_rate_lasts_until_it_has_given_the_dose_before():
    given, rates = (Doses(times="elapsed", inputs=inputs).batch("train", 0) for inputs in ("doses", "rates"))
    assert torch.equal(given.targets, rates.targets)
    assert torch.equal(given.elapsed, rates.elapsed)
    long = given.elapsed[1:] >= 0.05
    assert 0.9 < float(long.double().mean()) < 1
    taken = rates.inputs[1:, :, 0] * given.elapsed[1:]
    torch.testing.assert_close(taken[long], given.inputs[:-1, :, 0][long])
    assert (taken[~long] <= given.inputs[:-1, :, 0][~long]).all()
    assert not rates.inputs[0].any()


def test_equal_times_are_a_baseline_between_the_mean_and_zero():
    found = Doses(eval_batches=2).baselines("valid")
    assert 0 < found["equal times"]["loss"] < found["mean"]["loss"]
