"""The diagnostic report of a model: numbers, page, command, recording during training, and checkpoints."""

import json
import re
import subprocess
from math import inf, nan

import processes
import pytest
import tiers
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rnnlab import __main__, cells, config
from rnnlab.diagnostics import LIGHT, SCALARS, Effort, diagnose, draw, scalars
from rnnlab.diagnostics.reading import PARTS, TEXTS, power
from rnnlab.diagnostics.report import first_steps, page
from rnnlab.interface import InputError
from rnnlab.training import load, train
from rnnlab.training.build import build

TINY = ["model.hidden_size=6", "model.embedding_size=4", "task.batch_size=4", "task.seq_len=8", "trainer.steps=6"]
QUIET = ["logger.progress=false", "trainer.eval_every=3", "trainer.device=cpu"]
SMALL = Effort(steps=12, sequences=2, points=2, exponents=2, directions=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("diagnose")


def a_run(folder, name, *options):
    (folder / "corpus.txt").write_text("the cell reads one letter\nand writes one. " * 60)
    options = [f"task.corpus={folder / 'corpus.txt'}", *TINY, *QUIET, *options]
    return train(config.compose([*options, f"run_dir={folder / name}"]))


@pytest.fixture(scope="module")
def run(folder):
    """The run of a character model that recorded diagnostics during training."""
    a_run(folder, "watched", "cell=lstm", "logger.diagnostics=true")
    return folder / "watched"


def everything(name):
    """Return all diagnostics of a small model with the cell ``name`` on a small task."""
    resolved = config.compose([f"cell={name}", "model=rnn", f"cell={name}", "task=temporal_order", *TINY[:1]])
    resolved["task"] |= {"batch_size": 2, "lengths": [12, 12]}
    torch.manual_seed(0)
    task, model = build(resolved)
    return diagnose(model, task, "valid", SMALL)


@pytest.mark.parametrize("name", tiers.every(18, cells.available()))
def test_every_cell_can_be_diagnosed(name):
    found = everything(name)
    (layer,) = found["layers"].values()
    assert len(layer["state_norms"][next(iter(layer["state_norms"]))]) == found["steps"]
    assert json.dumps(found)  # plain containers and numbers
    assert set(scalars(found)) <= set(SCALARS)
    assert {"gradient_log10_ratio", "largest_lyapunov_exponent", "state_norm"} <= set(scalars(found))


@pytest.mark.slow
def test_the_model_is_unchanged(run):
    task, model, _ = load(run, "cpu")
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    diagnose(model, task, "valid", LIGHT)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(parameter.grad is None and parameter.dtype == torch.float32 for parameter in model.parameters())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.slow
def test_recording_diagnostics_does_not_change_training(folder, run):
    a_run(folder, "unwatched", "cell=lstm")
    last, other = (
        torch.load(folder / name / "checkpoints" / "last.pt", weights_only=True) for name in ("watched", "unwatched")
    )
    assert last["model"].keys() == other["model"].keys()
    assert all(torch.equal(last["model"][name], other["model"][name]) for name in last["model"])
    assert torch.equal(last["random"]["torch"], other["random"]["torch"])
    lines = [
        [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("watched", "unwatched")
    ]
    losses = [[line["loss"] for line in one if line["split"] != "diagnostics"] for one in lines]
    assert losses[0] == losses[1]
    seen = [line for line in lines[0] if line["split"] == "diagnostics"]
    assert [line["step"] for line in seen] == [3, 6]
    assert set(SCALARS) - {"memory_half_life"} <= set(seen[0])
    assert not any(line["split"] == "diagnostics" for line in lines[1])


def test_tensorboard_has_the_curves_and_the_figures(run):
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    curves = {tag for tag in events.Tags()["scalars"] if tag.startswith("diagnostics/")}
    assert {"diagnostics/spectral_radius", "diagnostics/gradient_log10_ratio"} <= curves
    pictures = {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}
    assert pictures["diagnostics/gradients"] == [3, 6]
    assert "diagnostics/units" in pictures


def test_streams_continue_across_batches_and_their_characters_label_the_heat_map(run):
    task, model, _ = load(run, "cpu")
    batch = first_steps(task, "valid", 20)
    assert batch.inputs.shape == (20, 4)
    (layer,) = diagnose(model, task, "valid", SMALL)["layers"].values()
    inputs = task.batch("valid", 0).inputs, task.batch("valid", 1).inputs
    expected = task.spell(torch.cat(inputs)[:12, 0])
    assert layer["units"]["inputs"] == expected
    assert all(len(letter) == 1 for letter in expected)


def test_the_initial_checkpoint_is_the_model_of_the_seed(run):
    random = torch.get_rng_state()
    _, model, content = load(run, "cpu", "initial")
    assert torch.equal(torch.get_rng_state(), random)
    torch.manual_seed(content["config"]["seed"])
    _, expected = build(content["config"], content["task"])
    assert all(map(torch.equal, model.state_dict().values(), expected.state_dict().values()))
    _, trained, _ = load(run, "cpu", "last")
    assert not torch.equal(next(trained.parameters()), next(model.parameters()))


def test_each_layer_has_its_own_section_and_figures(folder):
    a_run(folder, "deep", "cell=gru", "model.num_layers=2", "logger.tensorboard=false")
    task, model, _ = load(folder / "deep", "cpu")
    found = diagnose(model, task, "valid", SMALL)
    assert set(found["layers"]) == {"stack.layers.0", "stack.layers.1"}
    assert "stack.layers.1/spectral_radius" in scalars(found)
    assert {"stack-layers-0-gradients", "stack-layers-1-gradients"} <= set(draw(found))


@pytest.mark.slow
def test_the_step_jacobian_of_a_large_state_is_left_out_with_the_reason(run):
    task, model, _ = load(run, "cpu")
    found = diagnose(model, task, "valid", Effort(steps=12, largest=4, directions=8))
    (layer,) = found["layers"].values()
    assert "Above 4 the step Jacobian is not computed as a matrix" in layer["jacobian"]["left_out"]
    assert layer["memory"]["exact"] is False
    assert layer["jacobian"]["left_out"] in page(found, "a title", draw(found)).html()


def test_a_student_can_read_the_page(run):
    task, model, _ = load(run, "cpu")
    found = diagnose(model, task, "valid", SMALL)
    (layer,) = found["layers"].values()
    layer["gradients"]["log10_ratio"] = -12.5
    drawn = draw(found)
    shown = page(found, "a title", drawn).html()
    assert [text in shown for text in (f"<h3>{heading}</h3>" for heading in PARTS)] == [True] * len(PARTS)
    assert shown.count("<b>How to read this.</b>") == len(drawn) == sum(map(len, PARTS.values()))
    assert set(TEXTS) == {kind for kinds in PARTS.values() for kind in kinds}
    assert "is 3.2×10<sup>−13</sup> times the gradient at that step" in shown
    assert "{step}" not in shown


@pytest.mark.parametrize(
    ("exponent", "text"),
    [(0.0, "1"), (-0.3010, "0.5"), (2.5, "316"), (-12.5, "3.2×10⁻¹³"), (-400.0, "1×10⁻⁴⁰⁰"), (-inf, "0"), (nan, "–")],
)
def test_ratios_of_gradients_are_powers_of_ten(exponent, text):
    assert power(exponent) == text


def test_the_page_names_missing_gates_and_zero_gradients():
    found = everything("rnn")
    (layer,) = found["layers"].values()
    layer["gradients"]["log10_ratio"] = -inf
    shown = page(found, "a title", draw(found)).html()
    assert "This cell has no gate" in shown
    assert "is zero" in shown


@pytest.mark.usefixtures("undrawn")
def test_the_command_writes_a_page_and_does_not_overwrite(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "look").mkdir()
    assert __main__.main(["diagnose", f"run={run}", "out=look", "steps=16", "sequences=1"]) == 0
    assert "Written: look-2/page.html" in capsys.readouterr().out
    assert not list((tmp_path / "look").iterdir())
    files = {path.name for path in (tmp_path / "look-2").iterdir()}
    assert {"page.html", "diagnostics.json", "gradients.png", "gradients.svg", "saturation.svg"} <= files
    shown = (tmp_path / "look-2" / "page.html").read_text()
    assert "char_lm with lstm, step" in shown
    assert not re.search(r"(src|href)=\"(?!#|data:)", shown), "the page must not refer to other files"
    assert shown.count("<svg") == 10
    assert json.loads((tmp_path / "look-2" / "diagnostics.json").read_text())["checkpoint"] == "best"


def test_without_matplotlib_only_the_numbers_are_written(run, tmp_path):
    code = (
        "import sys; sys.modules |= dict.fromkeys(('matplotlib', 'matplotlib.figure'))\n"
        "from rnnlab.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["diagnose", f"run={run}", "steps=16", "out=numbers"]
    done = subprocess.run(
        [processes.programs() / "python", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "No page: figures need matplotlib, which is not installed" in done.stdout
    assert [path.name for path in (tmp_path / "numbers").iterdir()] == ["diagnostics.json"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run=nowhere"], "nowhere is not the directory of a run"),
        ([], "run= is missing"),
        (["split=tset"], "the task has no split 'tset'; did you mean 'test'?"),
        (["checkpoint=first"], "checkpoint='first' is not one of best, last, initial"),
        (["steps=0"], "steps=0 must be at least 1"),
        (["stpes=9"], "unknown option 'stpes=9'; did you mean 'steps'?"),
    ],
)
def test_invalid_arguments_give_one_line_and_write_nothing(arguments, says, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = arguments if not arguments or arguments[0].startswith("run=") else [f"run={run}", *arguments]
    assert __main__.main(["diagnose", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not list(tmp_path.iterdir())


def test_help_lists_the_options(capsys):
    assert __main__.main(["diagnose", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"{name}=" in said for name in ("run", "out", "split", "checkpoint", "steps", "sequences", "device"))


def test_an_unknown_split_is_refused(run):
    task, model, _ = load(run, "cpu")
    with pytest.raises(InputError, match="has no split 'future'"):
        diagnose(model, task, "future")
