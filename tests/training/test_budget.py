"""Budgets: the width for which a model has as many parameters, or costs as many operations, as was asked for."""

import pytest
import torch

from rnnlab import cells, config
from rnnlab.interface import InputError
from rnnlab.training import budget, train
from rnnlab.training.build import build

SMALL = ["task=adding", "task.lengths=[5,5]", "task.test_lengths=[5,5]", "task.batch_size=4", "task.eval_batches=1"]
RUN = [*SMALL, "trainer.steps=2", "trainer.eval_every=2", "logger.tensorboard=false", "run_dir=a"]


def solved(*options):
    return config.compose([*SMALL, *options])


def by_formula(cell, width):
    """Parameters of the adding task's model, 2 inputs and 1 output, from the textbook."""
    gates = {"rnn": 1, "gru": 3, "lstm": 4, "mgu": 2}[cell]
    recurrent_biases = width if cell == "gru" else 0  # the candidate's own, inside the reset
    return gates * width * (2 + width + 1) + recurrent_biases + width + 1


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "mgu"])
def test_the_width_is_the_nearest_to_the_parameters(cell):
    found = solved(f"cell={cell}", "budget.parameters=20_000")
    width = found["model"]["hidden_size"]
    best = min(range(1, 300), key=lambda width: abs(by_formula(cell, width) - 20_000))
    assert width == best
    _, model = build(found)
    assert sum(p.numel() for p in model.parameters()) == by_formula(cell, width)
    assert abs(by_formula(cell, width) / 20_000 - 1) <= 0.02


@pytest.mark.parametrize("cell", cells.available())
def test_every_cell_can_be_given_a_budget(cell):
    found = solved(f"cell={cell}", "budget.parameters=3000", "budget.tolerance=0.1")
    _, model = build(found)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert abs(count / 3000 - 1) <= 0.1


def test_depth_and_options_count():
    shallow = solved("cell=lstm", "budget.parameters=20000")
    deep = solved("cell=lstm", "model.num_layers=3", "budget.parameters=20000")
    assert deep["model"]["hidden_size"] < shallow["model"]["hidden_size"]
    assert budget.deviation(deep, build(deep)[0])["found"] == sum(p.numel() for p in build(deep)[1].parameters())


def test_operations_on_states_that_are_matrices_count():
    """S4D, a complex number for each of H by N/2 states: 10 operations update it and 4 read it. mLSTM, d by d for each
    head: 3 write and 2 read, and 9 on vectors of d. Matrix products: projections of 2 inputs, a readout of 1 output.
    """
    config = solved("cell=s4d", "cell.state_size=64", "model.hidden_size=32")
    assert budget.measure(config, build(config)[0]).flops_per_token == 3 * (2 * 2 * 32 + 2 * 32 + 14 * 32 * 32)
    config = solved("cell=mlstm", "cell.heads=2", "model.hidden_size=32")
    projections = 2 * 2 * (4 * 32 + 2 * 2)
    expected = 3 * (projections + 2 * 32 + 2 * (5 * 16**2 + 9 * 16))
    assert budget.measure(config, build(config)[0]).flops_per_token == expected


def test_operations_of_a_step():
    """LSTM: 2 * 4H(2 + H) operations forward a token and 2H of the readout, three times that with backward."""
    found = solved("cell=lstm", "budget.flops_per_step=1e7")
    width = found["model"]["hidden_size"]
    operations = 3 * (8 * width * (2 + width) + 2 * width) * 5 * 4  # 5 steps of 4 sequences
    assert budget.deviation(found, build(found)[0])["found"] == operations
    assert abs(operations / 1e7 - 1) < 0.02


def test_only_widths_that_the_cell_can_have():
    found = solved("cell=mlstm", "cell.heads=4", "budget.parameters=3000")
    assert found["model"]["hidden_size"] % 4 == 0
    assert cells.find("mlstm").width_multiple(heads=4) == 4
    assert cells.find("lstm").width_multiple() == 1


def test_what_cannot_be_met_names_the_nearest():
    with pytest.raises(InputError, match=r"budget.parameters=30 .* lstm .* 18 \(width 1\) or 43 \(width 2\)"):
        solved("cell=lstm", "budget.parameters=30")


@pytest.mark.parametrize("option", ["parameters=-5", "parameters=0", "flops_per_step=-1", "seconds=0", "tolerance=0"])
def test_budgets_are_positive(option):
    with pytest.raises(InputError, match=rf"budget.{option.partition('=')[0]} is .*; it must be positive"):
        solved(f"budget.{option}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.hidden_size=64"], r"hidden_size, which is given too \(64\)"),
        (["model.hidden_size=256"], r"hidden_size, which is given too \(256\)"),
        (["+model.hidden_size=256"], "which is given too"),
        (["experiment=acceptance/adding"], "~model.hidden_size takes back"),
        (["budget.flops_per_step=1e6"], "both given"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        solved("budget.parameters=20000", *options)


def test_the_width_of_an_experiment_can_be_taken_back():
    found = config.compose(["experiment=acceptance/adding", "~model.hidden_size", "budget.parameters=20000"])
    assert abs(budget.deviation(found, build(found)[0])["deviation"]) < 0.02


def test_solving_draws_no_random_number():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    solved("cell=lstm", "budget.parameters=2000")
    assert torch.equal(before, torch.get_rng_state())


def test_a_run_says_what_it_costs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    summary = train(config.compose([*RUN, "cell=lstm", "budget.parameters=2000"]))
    width = summary["config"]["model"]["hidden_size"]
    assert summary["parameters"] == by_formula("lstm", width) == summary["budget"]["found"]
    assert summary["budget"]["deviation"] == pytest.approx(summary["parameters"] / 2000 - 1)
    assert summary["flops_per_token"] == 3 * (8 * width * (2 + width) + 2 * width)
    assert train(config.compose([*RUN, "cell=lstm", "budget.parameters=2000"])) == summary, "the same command goes on"


def test_training_ends_with_the_seconds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    summary = train(config.compose([*RUN, "trainer.steps=1000000", "budget.seconds=0.2", "model.hidden_size=8"]))
    assert (summary["status"], summary["ended"]) == ("finished", "seconds")
    assert summary["seconds"] >= 0.2
    assert summary["final"]["step"] == summary["steps"], "the last model is evaluated"


def test_a_solved_run_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [*RUN, "trainer.steps=50", "model.hidden_size=8"]
    summary = train(config.compose([*options, "trainer.target=1e6"]))  # any loss is as good as that
    assert (summary["ended"], summary["solved"], summary["steps"]) == ("target", 2, 2)
    other = train(config.compose([*options, "trainer.target=1e-9", "run_dir=b"]))
    assert (other["ended"], other["solved"], other["steps"]) == ("steps", None, 50)
