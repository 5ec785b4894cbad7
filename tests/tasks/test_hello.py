import pytest
import torch
from torch.nn.functional import cross_entropy

from rnnlab import config
from rnnlab.tasks.hello import Hello
from rnnlab.training import load, train
from rnnlab.training.build import build

QUIET = ["logger.tensorboard=false", "logger.progress=false"]


def test_the_experiment_is_the_lecture_exactly():
    task, model = build(config.compose(["experiment=hello"]))
    batch = task.batch("train", 0)
    characters = task.vocabulary.characters
    assert "".join(characters[token] for token in batch.inputs[:, 0]) == "hell"
    assert "".join(characters[token] for token in batch.targets[:, 0]) == "ello"
    torch.testing.assert_close(model.encoder(batch.inputs)[:, 0], torch.eye(4)[[0, 1, 2, 2]])
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        "stack.layers.0.cell.W": (3, 4),
        "stack.layers.0.cell.U": (3, 3),
        "readout.weight": (4, 3),
    }
    assert all(not state.any() for (state,) in model.begin())


def test_the_cost_is_the_sum_of_the_four_cross_entropies():
    task, model = build(config.compose(["experiment=hello"]))
    batch = task.batch("train", 0)
    outputs, _ = model(batch)
    total, count = task.loss(outputs, batch)
    by_hand = sum(cross_entropy(outputs[t], batch.targets[t]) for t in range(4))
    torch.testing.assert_close(total / count, by_hand)


def test_the_forward_pass_is_the_lecture_s_formula():
    task, model = build(config.compose(["experiment=hello"]))
    batch = task.batch("train", 0)
    w_xh, w_hh = model.stack.layers[0].cell.W, model.stack.layers[0].cell.U
    h = torch.zeros(3)
    for t in range(4):
        h = torch.tanh(w_hh @ h + w_xh @ torch.eye(4)[batch.inputs[t, 0]])
        torch.testing.assert_close(model(batch)[0][t, 0], model.readout.weight @ h)


def _says_hello(overrides, folder):
    train(config.compose([*overrides, *QUIET, f"run_dir={folder}"]))
    task, model, _ = load(folder, "cpu")
    assert "".join(task.speaker(model, temperature=0, top_k=0, seed=0).generate("h", 4)) == "hello"


def test_it_learns_to_say_hello(tmp_path):
    _says_hello(["experiment=hello"], tmp_path / "run")
    before, after = sorted((tmp_path / "run" / "samples").glob("*.txt"))
    rows = [line.split() for line in after.read_text().splitlines()[1:]]
    assert [row[1:4] for row in rows] == [["h", "e", "e"], ["e", "l", "l"], ["l", "l", "l"], ["l", "o", "o"]]
    assert before.read_text() != after.read_text()


@pytest.mark.slow
def test_every_seed_of_the_experiment_learns_it(tmp_path):
    for seed in range(1, 5):
        _says_hello(["experiment=hello", f"seed={seed}"], tmp_path / str(seed))


@pytest.mark.slow
def test_the_default_trainer_learns_it_too(tmp_path):
    _says_hello(["task=hello", "model=rnn"], tmp_path / "run")


def test_there_is_no_valid_and_no_test_split():
    assert Hello().splits == ("train",)
