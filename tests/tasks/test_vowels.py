"""Classification of sequences of different lengths, and the files they come from."""

from collections import Counter
from math import log
from pathlib import Path

import pytest
import torch

from rnnlab.contracts import check_task
from rnnlab.interface import InputError
from rnnlab.outputs import IGNORE
from rnnlab.tasks.classification._ts import read_ts
from rnnlab.tasks.classification.vowels import JAPANESE_VOWELS, Vowels

HEADER = "# a comment\n@problemName Toy\n@timeStamps false\n@CLASSLABEL true up down\n@dimensions 2\n\n@DATA\n"
CASES = ["1,2:3,4:up", "5, 6, 7 : 8, ?, NaN : down", "-1e-1:0:up"]


def write(tmp_path, cases=CASES, header=HEADER, part="TRAIN"):
    path = tmp_path / f"Toy_{part}.ts"
    path.write_text(header + "\n".join(cases) + "\n", encoding="utf-8")
    return path


def toy(tmp_path, **options):
    for part in ("TRAIN", "TEST"):
        write(tmp_path, [*CASES, *CASES, "9:9:down", "8:8:down", "7:7:down", "6:6:down"], part=part)
    return Vowels(source=str(tmp_path), **options)


def everything(task, split):
    """Every sequence of a split: its inputs up to its own end, its target there, and what comes after the end."""
    for step in range(task.num_batches(split)):
        batch = task.batch(split, step)
        assert task.lengths(split, step).tolist() == batch.lengths.tolist()
        assert batch.inputs.shape[0] == int(batch.lengths.max())
        for i, length in enumerate(batch.lengths.tolist()):
            targets = batch.targets[:, i].tolist()
            assert [t for t, target in enumerate(targets) if target != IGNORE] == [length - 1]
            assert not batch.inputs[length:, i].any()
            yield batch.inputs[:length, i], targets[length - 1]


def test_the_batch_is_that_of_the_docstring(tmp_path):
    lines = [line.strip() for line in Vowels.__doc__.splitlines()]
    rows = [next(line for line in lines if line.startswith(f"{row}  ")).split() for row in ("inputs", "targets")]
    header = "@classLabel true " + " ".join(map(str, range(9))) + "\n@data\n"
    for part in ("TRAIN", "TEST"):
        write(tmp_path, ["0.3,0.5:7", "0.1,0.2,0.3:4"] * 5, header, part)
    batch = Vowels(source=str(tmp_path), batch_size=2).batch("test", 0)
    assert batch.inputs.permute(1, 0, 2).flatten().tolist() == pytest.approx([float(x) for x in rows[0][1:]])
    found = ["-" if target == IGNORE else str(target) for target in batch.targets.t().flatten().tolist()]
    assert found == rows[1][1:7]


def test_the_reader_reads_what_the_format_allows(tmp_path):
    path = write(tmp_path, ["", "# another", *CASES, ""])
    cases = read_ts(path)
    assert cases.classes == ["up", "down"]
    assert cases.labels == [0, 1, 0]
    assert [series.shape for series in cases.series] == [(2, 2), (3, 2), (1, 2)]
    assert cases.series[0].tolist() == [[1, 3], [2, 4]]
    assert cases.series[1].isnan().tolist() == [[False, False], [False, True], [False, True]]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_ts(path).labels == cases.labels


def test_missing_values_are_the_last_seen(tmp_path):
    write(tmp_path, ["1,?,3,?:?,?,2,?:up"] * 5)
    write(tmp_path, ["1,?,3,?:?,?,2,?:up"], part="TEST")
    (found,) = [inputs.tolist() for inputs, _ in everything(Vowels(source=str(tmp_path)), "test")]
    assert found == [[1, 0], [1, 0], [3, 2], [3, 2]]


@pytest.mark.parametrize(
    ("header", "cases", "says"),
    [
        ("", CASES, r"line 1 comes before @data and starts with neither @ nor #"),
        ("@classLabel true up\n", [], "has no @data line"),
        ("@classLabel false\n@data\n", CASES, "has no line '@classLabel true' followed by class names"),
        ("@targetLabel true\n@data\n", CASES, "has no line '@classLabel true' followed by class names"),
        ("@timestamps True\n@classLabel true up\n@data\n", CASES, "has time stamps, which are not supported"),
        (
            "@dimensions two\n@classLabel true up\n@data\n",
            CASES,
            "has @dimensions two; it must be an integer of at least 1",
        ),
        (HEADER, [], "has no series after @data"),
        (HEADER, ["1:2:left"], "line 8 has the class 'left', which is not in @classLabel"),
        (HEADER, ["1:up"], "line 8 has 1 dimensions, expected 2"),
        (HEADER, ["1,2:3:up"], r"line 8 has dimensions of \[1, 2\] steps; all must have the same length"),
        (HEADER, ["1:2:up", "1:x:up"], "line 9 has 'x', which is not a number"),
        (HEADER, ["1::up"], "line 8 has '', which is not a number"),
        ("@classLabel true up\n@data\n", ["1:2:up", "1:up"], "line 4 has 1 dimensions, expected 2"),
        ("@univariate true\n@classLabel true up\n@data\n", ["1:2:up"], "line 4 has 2 dimensions, expected 1"),
        ("@seriesLength 3\n@classLabel true up\n@data\n", ["1,2:up"], "line 4 has 2 steps, @seriesLength says 3"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, header, cases, says):
    with pytest.raises(InputError, match=says):
        read_ts(write(tmp_path, cases, header))


def test_a_length_that_varies_is_not_checked(tmp_path):
    header = "@equalLength FALSE\n@seriesLength 3\n@classLabel true up\n@data\n"
    assert len(read_ts(write(tmp_path, ["1,2:up"], header)).series) == 1


def test_every_sequence_comes_once(tmp_path):
    task = toy(tmp_path, batch_size=3)
    found = Counter(label for split in ("train", "valid") for _, label in everything(task, split))
    assert found.keys() == {0, 1}
    assert [len(task.parts[split].labels) for split in task.splits] == [8, 2, 10]
    assert [label for _, label in everything(task, "test")] == [0, 1, 0, 0, 1, 0, 1, 1, 1, 1]
    check_task(Vowels, source=str(tmp_path), batch_size=3)


def test_labels_go_by_their_names(tmp_path):
    write(tmp_path, ["1:1:up", "2:2:down"] * 5)
    write(tmp_path, ["1:1:up"], HEADER.replace("up down", "down up"), part="TEST")
    assert [label for _, label in everything(Vowels(source=str(tmp_path)), "test")] == [0]


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"task\.batch_size=0 must be at least 1"):
        Vowels(batch_size=0)
    with pytest.raises(InputError, match=r"task\.source='vowel' is neither a folder nor one of generated, japanese"):
        Vowels(source="vowel").input  # noqa: B018
    task = Vowels(source=str(tmp_path))
    with pytest.raises(InputError, match=r"has 0 files NAME_TRAIN\.ts; give a folder with one"):
        task.input  # noqa: B018
    write(tmp_path, ["1:1:up"])
    with pytest.raises(InputError, match=r"Toy_TEST\.ts does not exist; put the file into"):
        task.input  # noqa: B018
    write(tmp_path, ["1:up"], "@classLabel true up\n@data\n", "TEST")
    with pytest.raises(InputError, match=r"Toy_TRAIN\.ts has 2 dimensions, .*Toy_TEST\.ts has 1"):
        task.input  # noqa: B018
    write(tmp_path, ["1:1:left"], "@classLabel true left\n@data\n", "TEST")
    with pytest.raises(InputError, match=r"Toy_TEST\.ts has a class 'left', which .*Toy_TRAIN\.ts does not have"):
        task.input  # noqa: B018
    write(tmp_path, ["1:1:up"], part="TEST")
    with pytest.raises(InputError, match="has 1 training sequences, too few for a validation set"):
        task.batch("train", 0)


def test_sizes_travel_with_a_model(tmp_path):
    elsewhere = Vowels(source="gone")
    elsewhere.restore(toy(tmp_path).memory())
    assert (elsewhere.input.size, elsewhere.output_size) == (2, 2)


def test_the_names_of_classes_travel_with_a_model(tmp_path):
    """So that output 0 means the same class where the file lists the classes in another order."""
    first = toy(tmp_path)
    memory = first.memory()
    assert memory["classes"] == first.classes == ["up", "down"]
    away = tmp_path / "away"
    away.mkdir()
    for file in tmp_path.glob("*.ts"):
        (away / file.name).write_text(file.read_text().replace("true up down", "true down up"))
    elsewhere = Vowels(source=str(away))
    elsewhere.restore(memory)
    labels = [[label for _, label in everything(task, "test")] for task in (elsewhere, first)]
    assert labels[0] == labels[1]
    assert elsewhere.data_digest() == first.data_digest() != Vowels(source=str(away)).data_digest()
    write(away, ["1:1:left"] * 10, "@classLabel true left\n@data\n")
    write(away, ["1:1:left"], "@classLabel true left\n@data\n", "TEST")
    unknown = Vowels(source=str(away))
    unknown.restore(memory)
    with pytest.raises(InputError, match=r"has a class 'left'; the model was trained on up, down only"):
        unknown.batch("test", 0)
    older = Vowels(source=str(tmp_path))
    older.restore({"sizes": memory["sizes"]})  # a checkpoint from before
    assert older.classes == first.classes


def test_the_generated_classes_are_the_oscillations_they_say():
    """Each from its class's mean amplitude and sign changes, over many."""
    task = Vowels()
    sequences = [pair for split in task.splits for pair in everything(task, split)]
    assert len(sequences) == 640 - 216 % task.batch_size
    assert {len(inputs) for inputs, _ in sequences} == set(range(7, 30))
    long = [(inputs[:, 0], label) for inputs, label in sequences if len(inputs) >= 20]
    for kind, frequency in enumerate((0.08, 0.16, 0.3)):
        undamped = torch.stack([inputs[:20] for inputs, label in long if label == 3 * kind])
        crossings = (undamped[:, 1:] * undamped[:, :-1] < 0).double().mean()
        assert float(crossings) == pytest.approx(2 * frequency, abs=0.04)
        for damping, rate in enumerate((0.0, 0.1, 0.25)):
            energy = [
                torch.stack([inputs[part] for inputs, label in long if label == 3 * kind + damping]).square().mean()
                for part in (slice(0, 5), slice(5, 10))
            ]
            assert float(energy[1] / energy[0]) == pytest.approx(2.718 ** (-10 * rate), abs=0.25)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_trivial_answers_have_the_errors_stated(tmp_path, split):
    task = toy(tmp_path, batch_size=1)
    stated = task.baselines(split)
    assert stated["chance"] == {"loss": pytest.approx(log(2)), "accuracy": 0.5}
    labels = [label for _, label in everything(task, split)]
    assert stated["most frequent"] == {"accuracy": pytest.approx(labels.count(1) / len(labels))}


def test_japanese_vowels_are_the_published_ones(data_root):
    task = Vowels(data_root=data_root, source="japanese_vowels", batch_size=1)
    assert (task.input.size, task.output_size) == (12, 9)
    counts = {split: torch.bincount(part.labels).tolist() for split, part in task.parts.items()}
    assert counts == {"train": [24] * 9, "valid": [6] * 9, "test": [31, 35, 88, 44, 29, 24, 40, 50, 29]}
    found = [sequence for split in ("train", "valid") for sequence in everything(task, split)]
    path = Path(data_root) / JAPANESE_VOWELS[0].path
    expected = set()
    for line in path.read_text().splitlines():
        if line[:1] not in "@#":
            *channels, label = line.split(":")
            steps = zip(*(map(float, channel.split(",")) for channel in channels), strict=True)
            expected.add((int(label) - 1, tuple(tuple(f"{x:.6f}" for x in step) for step in steps)))
    assert len(expected) == 270
    rows = {(label, tuple(tuple(f"{x:.6f}" for x in step) for step in inputs.tolist())) for inputs, label in found}
    assert rows == expected
    lengths = {len(inputs) for inputs, _ in everything(task, "test")}
    assert (min(lengths), max(lengths)) == (7, 29)
