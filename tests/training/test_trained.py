"""`rnnlab.load` and the command predict: predictions are the outputs of an evaluation, in the units of the data."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch

import rnnlab
from rnnlab import config
from rnnlab.__main__ import main
from rnnlab.interface import InputError
from rnnlab.training import train

QUIET = ["logger.tensorboard=false", "logger.progress=false", "trainer.log_every=1000", "trainer.device=cpu"]
TINY = ["model.hidden_size=8", "trainer.steps=2", "trainer.eval_every=2"]
ROWS = [[row % 7, 100 + 3 * (row % 5)] for row in range(60)]


class Frame:
    """The part of a DataFrame that a prediction uses: its columns, in another order, with one more."""

    columns = ("other", "b", "a")

    def __init__(self, rows):
        a, b = np.array(rows, dtype=float).T
        self.parts = {"a": a, "b": b, "other": np.array(["text"] * len(a))}

    def __getitem__(self, name):
        return type("Column", (), {"to_numpy": lambda _: self.parts[name]})()


def trained(folder, *options):
    train(config.compose([*options, *TINY, f"run_dir={folder}", *QUIET]))
    return rnnlab.load(folder, "cpu")


def outputs_of(loaded, split="valid"):
    """Each batch of a split with the model's outputs."""
    with torch.inference_mode():
        for step in range(loaded.task.num_batches(split)):
            batch = loaded.task.batch(split, step)
            yield batch, loaded.model(batch)[0]


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    (folder / "own.csv").write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in ROWS))
    options = [f"task.file={folder}/own.csv", "task.seq_len=6", "task.horizon=3", "task.targets=[b]"]
    return trained(folder / "run", "task=series", *options), folder


@pytest.fixture(scope="module")
def vowels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vowels")
    return trained(folder / "run", "task=vowels"), folder


def test_forecasts_are_those_of_the_evaluation_in_the_units_of_the_file(series):
    loaded, _ = series
    valid = loaded.task.rows["valid"]
    values = torch.tensor(ROWS, dtype=torch.float64)
    (batch, outputs), *_ = outputs_of(loaded)
    train_b = values[: valid.start, 1]
    expected = outputs[-1].double() * train_b.std(correction=0) + train_b.mean()
    ends = range(valid.start, valid.start + batch.batch_size)
    found = loaded.predict([values[:end].numpy() for end in ends])
    assert found.columns == ["b"]
    assert found.values.shape == (batch.batch_size, 3, 1)
    torch.testing.assert_close(found.values.squeeze(2), expected, rtol=1e-5, atol=1e-4)
    frame = loaded.predict(Frame(ROWS[: valid.start]))
    torch.testing.assert_close(frame.values, found.values[:1])


def test_the_command_writes_the_forecast_of_a_file_with_other_columns(series, capsys):
    loaded, folder = series
    (folder / "new.csv").write_text("date,b,a\n" + "".join(f"day {i},{b},{a}\n" for i, (a, b) in enumerate(ROWS)))
    assert main(["predict", f"run={loaded.run}", f"data={folder}/new.csv", f"out={folder}/out.csv"]) == 0
    header, *rows = csv.reader((folder / "out.csv").read_text().splitlines())
    assert header == ["sequence", "ahead", "b"]
    assert [row[:2] for row in rows] == [["0", "1"], ["0", "2"], ["0", "3"]]
    expected = loaded.predict(np.array(ROWS)).values.flatten().tolist()
    assert [float(row[2]) for row in rows] == pytest.approx(expected)
    capsys.readouterr()
    assert main(["predict", f"{loaded.run}", f"data={folder}/new.csv", f"out={folder}/out.csv"]) != 0
    assert "exists; give the name of a new file" in capsys.readouterr().err


def test_sequences_of_different_lengths_keep_their_order(vowels, tmp_path, capsys):
    loaded, _ = vowels
    sequences, probabilities = [], []
    for batch, outputs in outputs_of(loaded):
        for row, length in enumerate(batch.lengths.tolist()):
            sequences.append(batch.inputs[:length, row].numpy())
            probabilities.append(outputs[length - 1, row].softmax(0))
    found = loaded.predict(sequences, batch_size=7)
    torch.testing.assert_close(found.probabilities, torch.stack(probabilities), rtol=1e-4, atol=1e-5)
    assert found.labels == [str(int(p.argmax())) for p in probabilities]
    np.savez(tmp_path / "own.npz", *sequences[:3])
    assert main(["predict", f"{loaded.run}", f"data={tmp_path}/own.npz"]) == 0
    header, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert header == ["sequence", "class", *(f"p({name})" for name in range(9))]
    assert [row[1] for row in rows] == found.labels[:3]
    assert not len(loaded.predict([]).labels)


def test_a_missing_value_is_the_last_observed_one(vowels):
    loaded, _ = vowels
    gap, held = loaded.predict([[1.0, float("nan"), 0.5], [1.0, 1.0, 0.5]]).probabilities
    assert torch.equal(gap, held)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.zeros((4, 2)), r"sequence 0 has the shape \[4, 2\]; it must be \[steps, 1\]"),
        ([[1.0], ["x"]], "sequence 1 is not an array of numbers"),
        ([np.zeros((0, 1))], "at least one step"),
        ([[1.0, float("inf")]], "infinite"),
    ],
)
def test_values_that_do_not_fit_are_refused(vowels, values, sentence):
    with pytest.raises(InputError, match=sentence):
        vowels[0].predict(values)


@pytest.mark.slow
def test_images_are_classified_as_in_the_evaluation(tmp_path):
    loaded = trained(tmp_path / "run", "task=pixels", "task.by=row", "task.permuted=true")
    (batch, outputs), *_ = outputs_of(loaded)
    images = loaded.task.parts["valid"].pixels[: batch.batch_size]
    torch.testing.assert_close(loaded.predict(images.numpy()).probabilities, outputs[-1].softmax(1))
    with pytest.raises(InputError, match="divide 8-bit pixels by 255"):
        loaded.predict(images.numpy() * 255)


def test_log_probabilities_of_a_text_sum_to_its_loss(tmp_path):
    (tmp_path / "own.txt").write_text("to be or not to be\n" * 40)
    options = [f"task.corpus={tmp_path}/own.txt", "task.batch_size=2", "task.seq_len=16"]
    loaded = trained(tmp_path / "run", "task=char_lm", *options)
    text = "not to be or"
    (values,) = loaded.predict(text).log_probabilities
    assert values.isnan().tolist() == [True] + [False] * (len(text) - 1)
    tokens, speaker = loaded.task.vocabulary.encode(text), loaded.task.speaker(loaded.model, 1, 0, 0)
    for place in range(1, len(text)):  # one character at a time
        speaker.read(text[place - 1])
        expected = speaker.stream.outputs[0].log_softmax(0)[tokens[place]]
        assert float(values[place]) == pytest.approx(float(expected), abs=1e-5)
    assert loaded.generate("to be", length=3).startswith("to be")
    (tmp_path / "own.txt").unlink()  # a trained model needs no corpus
    assert rnnlab.load(tmp_path / "run", "cpu").predict(["to", "be"]).texts == ["to", "be"]


def test_a_task_without_the_contract_refuses(tmp_path):
    loaded = trained(tmp_path / "run", "task=adding")
    with pytest.raises(InputError, match="the task adding does not predict on own data"):
        loaded.predict([1.0])


@pytest.mark.slow
def test_the_package_loads_no_pytorch():
    code = "import sys, rnnlab; assert 'torch' not in sys.modules; rnnlab.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
