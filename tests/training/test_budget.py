"""Budgets: the width for which a model has as many parameters, or costs as many operations, as was asked for."""

import re
import subprocess
import sys
from itertools import product

import pytest
import tiers
import torch
from torch.utils.flop_counter import FlopCounterMode

from rnnlab import cells, config
from rnnlab.interface import InputError
from rnnlab.training import budget, train
from rnnlab.training.build import build
from rnnlab.trees import tensors_of

SMALL = ["task=adding", "task.lengths=[5,5]", "task.test_lengths=[5,5]", "task.batch_size=4", "task.eval_batches=1"]
RUN = [*SMALL, "trainer.steps=2", "trainer.eval_every=2", "logger.tensorboard=false", "run_dir=a"]


def solved(*options):
    return config.compose([*SMALL, *options])


def deviation(config):
    return budget.deviation(config["budget"], budget.measure(config, build(config)[0]))


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


@pytest.mark.parametrize(
    "cell", tiers.quick_if(cells.available(), {"lstm", "gru", "mlstm", "s4d", "orthogonal"}.__contains__)
)
def test_every_cell_can_be_given_a_budget(cell):
    found = solved(f"cell={cell}", "budget.parameters=3000", "budget.tolerance=0.1")
    _, model = build(found)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert abs(count / 3000 - 1) <= 0.1


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["cell=gru"], lambda h: h),
        (["cell=lstm", "model.num_layers=3"], lambda h: 3 * 2 * h),
        (["cell=rnn", "model.bidirectional=sum"], lambda h: 2 * h),
        (["cell=mlstm", "cell.heads=4"], lambda h: 4 * ((h // 4) ** 2 + h // 4 + 1)),
        (["cell=s4d", "cell.state_size=16"], lambda h: 16 * h),  # 8 complex numbers
        (["cell=lstm", "model=block", "model.num_layers=2", "model.convolution=3"], lambda h: 2 * (2 * h + 2 * h)),
    ],
)
def test_the_width_is_the_nearest_to_the_state_size(options, size):
    found = solved(*options, "budget.state_size=290")
    width, multiple = found["model"]["hidden_size"], 4 if "cell=mlstm" in options else 1
    assert width == min(range(multiple, 400, multiple), key=lambda width: abs(size(width) - 290))
    assert deviation(found) == {
        "of": "state_size",
        "goal": 290,
        "found": size(width),
        "deviation": size(width) / 290 - 1,
    }
    state = build(found)[1].begin(batch_size=3)
    assert sum(tensor.numel() for tensor in tensors_of(state)) == 3 * size(width)


def test_a_state_size_that_no_width_has():
    """A matrix of d by d, a vector of d and a scale: 91 numbers for d = 9, 111 for d = 10."""
    near = r"state_size=100 .* mlstm .* 91 \(width 9\) or 111 \(width 10\)"
    with pytest.raises(InputError, match=rf"{near}.* budget.tolerance to at least 0.09$"):
        solved("cell=mlstm", "cell.heads=1", "budget.state_size=100")


@pytest.mark.parametrize(
    ("cell", "heads"), tiers.quick_if(product(sorted(tiers.MATRIX), [1, 8]), lambda case: case == ("retnet", 1))
)
def test_matrix_states_of_about_4096_numbers(cell, heads):
    """If no width is close enough, the message names two that are accepted, and a tolerance that accepts the nearer."""
    options = [f"cell={cell}", f"cell.heads={heads}"]
    try:
        found = solved(*options, "budget.state_size=4096")
        assert abs(deviation(found)["deviation"]) <= 0.02
    except InputError as error:
        sizes = [int(size.replace(",", "")) for size in re.findall(r"([\d,]+) \(width", str(error))]
        assert sizes[0] < 4096 < sizes[1]
        assert all(deviation(solved(*options, f"budget.state_size={size}"))["deviation"] == 0 for size in sizes)
        tolerance = float(re.search(r"at least ([\d.]+)$", str(error)).group(1))
        found = solved(*options, "budget.state_size=4096", f"budget.tolerance={tolerance}")
        assert tolerance - 0.001 < abs(deviation(found)["deviation"]) <= tolerance


def test_the_memory_of_attention_is_not_in_the_state_size():
    """It grows with the source. Counted are the layers: of the encoder in both directions, and of the decoder."""
    options = ["task=outside.reversal:Reversal", "model=encoder_decoder", "cell=lstm"]
    found = config.compose([*options, "model.num_layers=2", "model.hidden_size=8"])
    assert budget.measure(found, build(found)[0]).state_size == 2 * 3 * 2 * 8


def test_depth_and_options_count():
    shallow = solved("cell=lstm", "budget.parameters=20000")
    deep = solved("cell=lstm", "model.num_layers=3", "budget.parameters=20000")
    assert deep["model"]["hidden_size"] < shallow["model"]["hidden_size"]
    assert deviation(deep)["found"] == sum(p.numel() for p in build(deep)[1].parameters())


def test_operations_on_states_that_are_matrices_count():
    """S4D, a complex number for each of H by N/2 states: 10 operations update it and 4 read it. mLSTM, d by d for each
    head: 4 write and 2 read, and 10 on vectors of d. Matrix products: projections of 2 inputs, a readout of 1 output.
    """
    config = solved("cell=s4d", "cell.state_size=64", "model.hidden_size=32")
    assert budget.measure(config, build(config)[0]).flops_per_token == 3 * (2 * 2 * 32 + 2 * 32 + 14 * 32 * 32)
    config = solved("cell=mlstm", "cell.heads=2", "model.hidden_size=32")
    projections = 2 * 2 * (4 * 32 + 2 * 2)
    expected = 3 * (projections + 2 * 32 + 2 * (6 * 16**2 + 10 * 16))
    assert budget.measure(config, build(config)[0]).flops_per_token == expected


def test_operations_of_a_step():
    """LSTM: 2 * 4H(2 + H) operations forward a token and 2H of the readout, three times that with backward."""
    found = solved("cell=lstm", "budget.flops_per_step=1e7")
    width = found["model"]["hidden_size"]
    operations = 3 * (8 * width * (2 + width) + 2 * width) * 5 * 4  # 5 steps of 4 sequences
    assert deviation(found)["found"] == operations
    assert abs(operations / 1e7 - 1) < 0.02


def elman(width, layers=1, directions=1, inputs=2):
    """Products and parameters of vanilla layers over ``inputs`` features with one output: the textbook's formula."""
    weights = biases = 0
    for _ in range(layers):
        weights += directions * width * (inputs + width)
        biases += directions * width
        inputs = directions * width
    return weights + inputs, weights + biases + inputs + 1


@pytest.mark.parametrize("options", [[], ["model.num_layers=3"], ["model.bidirectional=concatenate"]])
def test_depth_and_directions_by_formula(options):
    layers, directions = 3 if options == ["model.num_layers=3"] else 1, 2 if "concatenate" in str(options) else 1
    found = solved("cell=rnn", *options, "budget.flops_per_step=1e7")
    size = budget.measure(found, build(found)[0])
    products, parameters = elman(found["model"]["hidden_size"], layers, directions)
    assert (size.parameters, size.flops_per_token) == (parameters, 3 * 2 * products)


@pytest.mark.parametrize("cell", tiers.every(9, cells.available()))
def test_a_model_without_numbers_is_counted_as_one_with_numbers(cell):
    """The cost is counted on the meta device, on one step; here PyTorch counts the products of a whole forward pass.

    Cells whose states are matrices, where more than products count, have their formulas above. A matrix exponential
    takes as many products as its numbers need, of which the meta device has none.
    """
    found = config.compose([*SMALL, f"cell={cell}", "model.hidden_size=8", "engine.backend=reference"])
    task, model = build(found)
    batch = task.batch("train", 0)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(batch)
    size = budget.measure(found, task)
    assert size.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    if cell != "orthogonal" and all(state.dim() == 2 for state in tensors_of(model.begin())):
        assert size.flops_per_token == round(3 * counter.get_total_flops() / 20)  # 5 steps of 4 sequences


def test_the_products_of_blocks_count():
    """The encoder reads 2 inputs. A block: gate and projection, 3 gates of 2 products, and 3 products of the MLP."""
    found = solved("cell=gru", "model=block", "model.hidden_size=16", "model.num_layers=3")
    weights = 2 * 16 + 3 * (2 + 3 * 2 + 3 * 2) * 16**2 + 16
    assert budget.measure(found, build(found)[0]).flops_per_token == 3 * 2 * weights


def test_source_attention_and_padding_count():
    """An encoder-decoder: strings of up to S symbols are read, up to S + 1 are written, all of them with padding."""
    H, V = 8, 9
    options = ["task=outside.reversal:Reversal", "model=outside.reversal:EncoderDecoder", "cell=rnn"]
    found = config.compose([*options, f"model.hidden_size={H}"])
    task, _ = build(found)
    batch = task.batch("train", 0)
    S, T, B = len(batch.source), len(batch.inputs), batch.batch_size
    cell = 2 * H * H  # weights
    attention = H * H + 2 * H * S  # query, and two products with the memory
    assert batch.num_tokens == int(batch.source_lengths.sum() + batch.lengths.sum()) < (S + T) * B
    expected = 3 * 2 * B * (S * cell + T * (cell + attention + 2 * H * V))
    assert budget.measure(found, task).flops_per_token == round(expected / batch.num_tokens)


@pytest.mark.slow  # test_start.py has a command that counts
def test_counting_does_not_import_the_compiler():
    """It takes a second, which a sweep with a budget would pay in each process."""
    script = (
        "import sys\nfrom rnnlab import config\n"
        f"config.compose({[*SMALL, 'cell=gru', 'budget.flops_per_step=1e7']!r})\nprint('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(("kind", "goal"), [("parameters", 10**9), ("flops_per_step", 1e12), ("state_size", 10**5)])
def test_large_budgets_take_neither_time_nor_memory(kind, goal, monkeypatch):
    counted = []
    count = budget._count
    monkeypatch.setattr(budget, "_count", lambda *given: counted.append(given[0]) or count(*given))
    width = solved("cell=lstm", f"budget.{kind}={goal:.0f}")["model"]["hidden_size"]
    assert width > 10000
    assert len(counted) < 16
    assert {parameter.device.type for model in counted for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize("budget", ["parameters=1e11", "parameters=1e15", "flops_per_step=1e20", "flops_per_step=inf"])
def test_a_budget_beyond_the_largest_width_is_refused(budget):
    with pytest.raises(
        InputError, match=r"cannot be met by cell lstm .*\(width 65536\); the largest width tried is 65536"
    ):
        solved("cell=lstm", f"budget.{budget}")


def test_the_nearest_width_is_found_wherever_it_is():
    """Also where costs grow in steps, or one part outweighs all others."""
    costs = [lambda n: n, lambda n: n * n, lambda n: 10**6 + n, lambda n: 3 * (n // 4), lambda n: n * n + 50 * n + 7]
    for cost, largest in product(costs, (2, 3, 100, 65536)):
        for goal in (0.5, 1, 2, 17, 1000, 10**6 + 5, 10**6 + 60000, 2**31, 2**32, 1e300):
            low, high = budget._bracket(cost, goal, largest)
            expected = next((n for n in range(2, largest + 1) if cost(n) >= goal), largest)
            assert high == expected
            assert low == high - 1 or cost(high) < goal


def test_a_cell_that_reads_numbers_can_be_given_a_budget(monkeypatch):
    """It cannot be built without any."""
    prepare = cells.find("rnn").prepare
    monkeypatch.setattr(
        cells.find("rnn"), "prepare", lambda cell, inputs: (float(cell.U.sum()), prepare(cell, inputs))[1]
    )
    found = solved("cell=rnn", "budget.flops_per_step=1e7")
    assert found["model"]["hidden_size"] == solved("cell=rnn", "budget.flops_per_step=1e7")["model"]["hidden_size"]


def test_pictures_can_be_given_a_budget():
    options = ["task=outside.pictures:Film", "model=outside.pictures:PictureModel", "cell=rnn"]
    look = 2 * 3 * 5 * 4  # weights
    found = config.compose([*options, "budget.parameters=3000"])
    width = found["model"]["hidden_size"]
    assert abs(look + 4 + elman(width, inputs=4)[1] - 3000) <= 2 * width + 6  # no neighbour is nearer
    found = config.compose([*options, "budget.flops_per_step=1e6", "budget.tolerance=0.1"])
    width = found["model"]["hidden_size"]
    per_token = 6 * (look + elman(width, inputs=4)[0])
    assert deviation(found)["found"] == per_token * 6 * 4  # steps, sequences


@pytest.mark.parametrize("option", ["model.embedding_size", "task.batch_size"])
def test_an_option_that_refers_to_the_width_has_the_solved_one(option):
    others = ["task=hello"] if option.startswith("model") else SMALL
    kind = "parameters=20000" if option.startswith("model") else "flops_per_step=1e8"
    found = config.compose([*others, "cell=lstm", f"{option}=${{model.hidden_size}}", f"budget.{kind}"])
    group, name = option.split(".")
    assert found[group][name] == found["model"]["hidden_size"]
    assert abs(deviation(found)["deviation"]) < 0.02


def test_only_widths_that_the_cell_can_have():
    found = solved("cell=mlstm", "cell.heads=4", "budget.parameters=3000")
    assert found["model"]["hidden_size"] % 4 == 0
    assert cells.find("mlstm").width_multiple(heads=4) == 4
    assert cells.find("lstm").width_multiple() == 1


def test_what_cannot_be_met_names_the_nearest():
    with pytest.raises(InputError, match=r"budget.parameters=30 .* lstm .* 18 \(width 1\) or 43 \(width 2\)"):
        solved("cell=lstm", "budget.parameters=30")


@pytest.mark.parametrize(
    "option", ["parameters=-5", "parameters=0", "flops_per_step=-1", "state_size=0", "seconds=0", "tolerance=-1"]
)
def test_budgets_are_positive(option):
    with pytest.raises(InputError, match=rf"budget.{option.partition('=')[0]}=.* must be (positive|at least 0)"):
        solved(f"budget.{option}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.hidden_size=64"], r"hidden_size=64 and a budget are both set"),
        (["model.hidden_size=256"], r"hidden_size=256 and a budget are both set"),
        (["+model.hidden_size=256"], "hidden_size=256 and a budget are both set"),
        (["experiment=acceptance/adding"], "~model.hidden_size removes"),
        (["budget.flops_per_step=1e6"], "budget.parameters and budget.flops_per_step are both set"),
        (["budget.state_size=100"], "budget.parameters and budget.state_size are both set"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        solved("budget.parameters=20000", *options)


def test_the_width_of_an_experiment_can_be_taken_back():
    found = config.compose(["experiment=acceptance/adding", "~model.hidden_size", "budget.parameters=20000"])
    assert abs(deviation(found)["deviation"]) < 0.02


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
    assert summary["state_size"] == 2 * width
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
