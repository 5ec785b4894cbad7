"""Own sequences with classes: what is read, how it is encoded and split, and the scores, counted by hand."""

import csv
from collections import Counter
from math import exp, log

import numpy as np
import pytest
import torch

import rnnlab
from rnnlab import config
from rnnlab.__main__ import main
from rnnlab.contracts import check_task
from rnnlab.heads import IGNORE
from rnnlab.interface import Batch, InputError
from rnnlab.tasks.classification import _confusion
from rnnlab.tasks.classification.table import Table
from rnnlab.training import evaluate_run, train

QUIET = ["logger.tensorboard=false", "logger.progress=false", "trainer.log_every=1000", "trainer.device=cpu"]


def write(path, count=20, separator=";"):
    """Sequences of 2 or 3 rows: a date, a number with a decimal comma and a category, in mixed order."""
    rows = [["id", "day", "x", "sky", "kind"]]
    for step in range(3):
        for i in range(count):
            if step < 2 + i % 2:
                value = f"{i % 4 + step / 2:.1f}".replace(".", "," if separator == ";" else ".")
                rows.append([f"s{i}", f"2024-01-0{step + 1}", value, ("dry", "wet")[i // 2 % 2], "ab"[i % 4 == 0]])
    path.write_text("\n".join(separator.join(row) for row in rows) + "\n")
    return {"file": str(path), "sequence": "id", "label": "kind"}


def test_a_table_with_semicolons_decimal_commas_and_dates(tmp_path):
    options = write(tmp_path / "own.csv")
    task = Table(**options)
    assert task.data.ids == [f"s{i}" for i in range(20)]
    assert task.data.lengths == [2, 3] * 10
    assert Counter(task.data.labels) == {"b": 5, "a": 15}
    assert task.data.left_out == {"day": "time"}
    assert task.data.columns["x"][:5] == ["0.0", "0.5", "1.0", "1.5", "2.0"]
    train = list(task.members["train"].tolist())
    values = np.array([i % 4 + step / 2 for i in train for step in range(2 + i % 2)])
    expected = (3 + np.array([0, 0.5, 1.0]) - values.mean()) / values.std()
    assert task.inputs[3][:, 0].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert task.inputs[3][:, 1:].tolist() == [[0, 1]] * 3  # wet
    comma = write(tmp_path / "comma.csv", separator=",")
    assert all(torch.equal(a, b) for a, b in zip(Table(**comma).inputs, task.inputs, strict=True))
    assert "column 'day': left out (time)" in task.describe()
    assert "class 'b': 5 sequences" in task.describe()


def test_the_splits_have_the_same_fractions_of_each_class(tmp_path):
    task = Table(**write(tmp_path / "own.csv", 40), split=[0.6, 0.2, 0.2])
    members = [i for split in task.splits for i in task.members[split].tolist()]
    assert sorted(members) == list(range(40))
    for split, expected in {"train": (18, 6), "valid": (6, 2), "test": (6, 2)}.items():
        found = Counter(task.data.labels[i] for i in task.members[split].tolist())
        assert (found["a"], found["b"]) == expected
    again = Table(7, **write(tmp_path / "own.csv", 40), split=[0.6, 0.2, 0.2])
    assert all(torch.equal(again.members[split], task.members[split]) for split in task.splits)


def test_missing_values_are_held_within_their_sequence(tmp_path):
    rows = ["sequence,label,x,c"]
    for i in range(12):
        rows += [f"{i},{'ab'[i % 2]},{cell},{c}" for cell, c in (("", "u"), (f"{i}", ""), ("NA", "v"))]
    (tmp_path / "own.csv").write_text("\n".join(rows))
    task = Table(file=str(tmp_path / "own.csv"))
    mean, deviation = task.encoding["numeric"]["x"]
    z = (5 - mean) / deviation
    expected = [[0, 1, 0, 0], [z, 0, 0, 1], [z, 0, 1, 0]]
    torch.testing.assert_close(task.inputs[5], torch.tensor(expected, dtype=torch.float32))


def test_a_folder_of_classes(tmp_path):
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "many.npz", *[np.full((i + 1, 2), i) for i in range(6)])
        np.save(tmp_path / name / "one.npy", np.zeros((1, 4, 2)))
    task = Table(file=str(tmp_path))
    assert task.data.labels == ["left"] * 7 + ["right"] * 7
    assert task.data.lengths == [1, 2, 3, 4, 5, 6, 4] * 2
    assert task.data.ids[0] == "left/many.npz#0"
    assert task.input.size == 2


def test_lines_of_text(tmp_path):
    lines = [f"good\tyes, yes {i}" for i in range(8)] + [f"bad,no, no {i}" for i in range(8)]
    (tmp_path / "own.txt").write_text("\n".join(lines))
    task = Table(file=str(tmp_path / "own.txt"))
    assert Counter(task.data.labels) == {"good": 8, "bad": 8}
    assert task.data.lengths == [10] * 8 + [8] * 8  # "yes, yes 0", "no, no 0"
    known = task.encoding["categories"]["character"]
    assert [known[i] for i in task.inputs[8].argmax(1).tolist()][:6] == list("no, no")
    (strange,) = task.encode("n#")
    assert strange.sum(1).tolist() == [1, 0]


def test_a_column_of_texts(tmp_path):
    rows = [f'{i};"good; {"very " * i}";1,5' if i % 2 else f"{i};bad;2" for i in range(12)]
    (tmp_path / "own.csv").write_text("\n".join(["number;review;stars", *rows]))
    task = Table(file=str(tmp_path / "own.csv"), text="review", label="stars")
    assert task.data.labels == ["2", "1.5"] * 6
    assert task.data.lengths == [3 if i % 2 == 0 else len(("good; " + "very " * i).strip()) for i in range(12)]
    (tmp_path / "new.csv").write_text("review\nbad\n")
    for given in (task.read_own(tmp_path / "new.csv"), Frame(review=["bad"]), "bad", ["bad"]):
        assert torch.equal(task.encode(given)[0], task.inputs[0])
    with pytest.raises(InputError, match=r"no column 'sequence'.*; name a column of texts in task.text"):
        Table(file=str(tmp_path / "own.csv"), label="stars").data  # noqa: B018
    with pytest.raises(InputError, match=r"no column 'words'; name the column of the text in task.text"):
        Table(file=str(tmp_path / "own.csv"), label="stars", text="words").data  # noqa: B018
    (tmp_path / "own.csv").write_text("review,label\ngood,1\n,0\n")
    with pytest.raises(InputError, match="line 3 has no text"):
        Table(file=str(tmp_path / "own.csv"), text="review").data  # noqa: B018


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("sequence,x\n1,2\n", "no column 'label'; name the column of the label in task.label"),
        ("label,x\na,2\n", "no column 'sequence'"),
        ("sequence,label,x\n1,a,2\n1,b,2\n", "sequence '1' has the classes 'a', 'b'"),
        ("sequence,label,x\n1,a,2\n2,a,2\n", "only the class 'a'"),
        ("sequence,label,x\n1,a,2\n2,b\n", "line 3 has 2 cells, expected 3"),
        ("sequence,label,day\n1,a,2024-01-01\n2,b,2024-01-02\n", "no column of values"),
        ("sequence,label,x\n1,a,2\n2,b,3\n", "too few for the valid part"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, content, sentence):
    (tmp_path / "own.csv").write_text(content)
    with pytest.raises(InputError, match=sentence):
        Table(file=str(tmp_path / "own.csv")).describe()


def test_scores_counted_by_hand():
    # true 0: predicted 0, 0, 1; true 1: predicted 1; true 2: predicted 0; class 3 neither occurs nor is predicted
    true, predicted = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 0, 1, 1, 0])
    outputs = torch.nn.functional.one_hot(predicted, 4).float().unsqueeze(0).repeat(2, 1, 1)
    targets = torch.stack([torch.full((5,), IGNORE), true])
    sums = _confusion.counts(outputs, targets)
    means = {name: float(mean.total) / float(mean.count) for name, mean in sums.items()}
    assert _confusion.f1_scores(_confusion.matrix(means, 4)) == [pytest.approx(2 / 3), pytest.approx(2 / 3), 0, None]
    assert _confusion.macro_f1(means, 4) == pytest.approx(4 / 9)
    lines = _confusion.report(means, list("abcd"), 5).splitlines()
    first, second, third = (line.split() for line in lines[1:4])
    assert first == ["a", "2", "1", "0", "0", "0.667", "0.667", "0.667"]
    assert second == ["b", "0", "1", "0", "0", "0.500", "1.000", "0.667"]
    assert third == ["c", "1", "0", "0", "0", "-", "0.000", "0.000"]


def test_balanced_weights_give_each_class_the_same_weight(tmp_path):
    task = Table(**write(tmp_path / "own.csv", 40), class_weights="balanced", split=[0.6, 0.2, 0.2])
    assert task.weights.tolist() == pytest.approx([24 / 2 / 18, 24 / 2 / 6])
    outputs = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])  # [T=1, B=2, C]
    total, count = task.loss(outputs, Batch(outputs, torch.tensor([[0, 1]])))
    a, b = 24 / 36, 24 / 12
    assert float(total) == pytest.approx(a * log(2) + b * log(exp(2) + 1), rel=1e-5)
    assert float(count) == pytest.approx(a + b)


def test_from_a_csv_to_a_prediction(tmp_path, capsys):
    options = [f"task.{name}={value}" for name, value in write(tmp_path / "own.csv").items()]
    run = tmp_path / "run"
    small = ["model.hidden_size=8", "trainer.steps=60", "trainer.eval_every=60", "task.batch_size=8"]
    train(config.compose(["task=table", *options, *small, "optimizer.lr=0.02", f"run_dir={run}", *QUIET]))
    confusion = (run / "written" / "test" / "confusion.txt").read_text()
    values = evaluate_run(run, "test", "cpu")
    assert f"macro F1 {values['macro_f1']:.4f}" in confusion
    assert not any(name.startswith("confusion") for name in values)

    loaded = rnnlab.load(run, "cpu")
    test = loaded.task.members["test"].tolist()
    lines = (tmp_path / "own.csv").read_text().splitlines()
    kept = [line for line in lines[1:] if int(line.split(";")[0][1:]) in test]
    new = [line.rpartition(";")[0] for line in [lines[0], *kept]]  # without the class
    (tmp_path / "new.csv").write_text("\n".join(new) + "\n")
    capsys.readouterr()
    assert main(["predict", str(run), f"data={tmp_path}/new.csv"]) == 0
    header, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert header == ["sequence", "class", "p(a)", "p(b)"]
    assert [row[0] for row in rows] == [f"s{i}" for i in test]
    right = [row[1] == loaded.task.data.labels[i] for row, i in zip(rows, test, strict=True)]
    assert sum(right) / len(right) == pytest.approx(values["accuracy"])
    with pytest.raises(InputError, match="the model needs the columns x, sky"):
        loaded.predict(np.zeros((4, 2)))


def test_inspect_prints_what_was_read(tmp_path, capsys):
    options = write(tmp_path / "own.csv")
    assert main(["inspect", f"data={options['file']}", "sequence=id", "label=kind"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == Table(**options).describe()


class Frame:
    """The part of a DataFrame that a prediction uses."""

    def __init__(self, **columns):
        self.parts, self.columns = columns, list(columns)

    def __getitem__(self, name):
        part = self.parts[name]
        values = part if isinstance(part, np.ndarray) else np.array(part, dtype=object)
        return type("Column", (), {"to_numpy": lambda _: values})()


def test_a_frame_is_encoded_as_the_file_is(tmp_path):
    task = Table(**write(tmp_path / "own.csv"))
    frame = Frame(sky=["wet", "dry", "wet", "hail"], x=[3, 0.0, 3.5, None], id=["s3", "s0", "s3", "s0"])
    third, first = task.encode(frame)
    assert torch.equal(third, task.inputs[3][:2])
    assert first[1].tolist() == [first[0, 0], 0, 0]  # held, and an unknown category
    assert task.decode(torch.zeros(2, 2), frame).rows()[1:] == [["s3", "a", 0.5, 0.5], ["s0", "a", 0.5, 0.5]]
    (whole,) = task.encode([Frame(x=[3], sky=["wet"])])
    assert torch.equal(whole, task.inputs[3][:1])
    with pytest.raises(InputError, match="the DataFrame has no column 'sky'"):
        task.encode(Frame(x=[3]))


@pytest.mark.parametrize("values", [[[[1, 2], [3, 4]], [[5, 6]]], [np.array([[1, 2], [3, 4]]), np.array([[5, 6]])]])
def test_arrays_are_read_by_position(tmp_path, values):
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "many.npz", *[np.random.default_rng(i).normal(size=(3, 2)) for i in range(8)])
    task = Table(file=str(tmp_path))
    (mean, deviation) = task.encoding["numeric"]["x1"]
    first, second = task.encode(values)
    assert first[:, 1].tolist() == pytest.approx([(2 - mean) / deviation, (4 - mean) / deviation], rel=1e-5)
    assert second.shape == (1, 2)


def write_times(path, count=40, dates=False):
    """Sequences of one column whose class is whether the rows of 1 are closer in time than the rows of 0."""
    rows = [["id", "when", "x", "kind"]]
    for i in range(count):
        now = 0
        for step in range(4 + i % 3):
            now += (0 if not step else 2 if (step % 2) == (i % 2) else 6) * 3600
            day, hour = divmod(now // 3600, 24)
            when = f"2024-01-{day + 1:02} {hour:02}:00" if dates else str(now / 3600)
            rows.append([f"s{i}", when, str(step % 2), "ab"[i % 2]])
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    return {"file": str(path), "sequence": "id", "label": "kind", "elapsed": "when"}


@pytest.mark.parametrize("dates", [False, True])
def test_a_column_of_times_gives_elapsed_times(tmp_path, dates):
    task = Table(**write_times(tmp_path / "own.csv", dates=dates), batch_size=40, split=[0.8, 0.2])
    assert list(task.data.columns) == ["x"]
    unit = 3600 * task.encoding["time_unit"] if not dates else task.encoding["time_unit"]
    assert unit in (2 * 3600, 6 * 3600)
    batch = task.batch("valid", 0)
    hours = unit / 3600
    for place, i in enumerate(task.members["valid"].tolist()):
        expected = [1.0, *((2 if step % 2 == i % 2 else 6) / hours for step in range(1, 4 + i % 3))]
        found = batch.elapsed[:, place].tolist()
        assert found[: len(expected)] == pytest.approx(expected)
        assert not any(found[len(expected) :])
    tell = f"column 'when': elapsed times, median {task.encoding['time_unit']:g} in training"
    assert tell in task.describe()
    assert "column 'when': left out (time)" not in task.describe()
    if not dates:
        check_task(Table, **write_times(tmp_path / "own.csv"), batch_size=8)


def test_times_reach_a_prediction(tmp_path):
    options = write_times(tmp_path / "own.csv", dates=True)
    task = [f"task.{name}={value}" for name, value in options.items()]
    run = tmp_path / "run"
    train(config.compose([
        "task=table", *task, "task.batch_size=16", "cell=cfc", "model.hidden_size=8", "trainer.steps=60",
        "trainer.eval_every=60", "optimizer.lr=0.03", f"run_dir={run}", *QUIET,
    ]))  # fmt: skip
    trained = rnnlab.load(run)
    found = trained.predict(trained.task.read_own(tmp_path / "own.csv"))
    assert found.labels == ["ab"[i % 2] for i in range(40)]  # the values alone do not tell the class
    rows = list(csv.DictReader((tmp_path / "own.csv").read_text().splitlines()))
    columns = {name: [row[name] for row in rows] for name in ("id", "when", "x")}
    torch.testing.assert_close(trained.predict(Frame(**columns)).probabilities, found.probabilities)
    columns["when"] = np.array(columns["when"], dtype="datetime64[s]")
    torch.testing.assert_close(trained.predict(Frame(**columns)).probabilities, found.probabilities)
    with pytest.raises(InputError, match=r"the data has no column 'when' of times, which task\.elapsed names"):
        trained.predict(np.zeros((5, 1)))
    assert main(["export", f"run={run}", f"out={tmp_path / 'm.onnx'}", "lengths=true"]) == 0
    assert main(["export", f"run={run}", "format=safetensors", f"out={tmp_path / 'm.safetensors'}"]) == 0


def test_times_that_cannot_be_used_are_refused(tmp_path):
    path = tmp_path / "own.csv"
    options = write_times(path)
    text = path.read_text()
    for found, other, sentence in (
        ("s3,2.0", "s3,9.5", "sequence 's3' is not in the order of its times in column 'when'"),
        ("s3,2.0", "s3,noon", "column 'when' has cells that are neither numbers nor dates"),
        ("id,when", "id,then", "has no column 'when' of times, which task.elapsed names"),
    ):
        path.write_text(text.replace(found, other))
        with pytest.raises(InputError, match=sentence):
            Table(**options).batch("train", 0)
