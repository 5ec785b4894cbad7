import gzip
import struct
from collections import Counter
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from rnnlab.interface import InputError, Vectors
from rnnlab.outputs import IGNORE
from rnnlab.tasks import _image_sets
from rnnlab.tasks._image_sets import Pictures
from rnnlab.tasks.memory.pixels import Pixels


def rows(task, split, steps):
    """Pictures of some batches, a row of pixels and the class each."""
    found = []
    for step in steps:
        batch = task.batch(split, step)
        assert (batch.targets[:-1] == IGNORE).all()
        pictures = batch.inputs.transpose(0, 1).flatten(1)
        found += [(tuple(p), c) for p, c in zip(pictures.tolist(), batch.targets[-1].tolist(), strict=True)]
    return found


def every(task, split):
    return rows(task, split, range(task.num_batches(split)))


@pytest.mark.parametrize(("by", "steps"), [("pixel", [[0.0], [0.9], [0.4], [0.0]]), ("row", [[0.0, 0.9], [0.4, 0.0]])])
def test_the_docstring_s_example_is_read_row_by_row(by, steps):
    task = Pixels(by=by)
    task.side, task.input = 2, Vectors(len(steps[0]))
    task.parts = {"valid": Pictures(torch.tensor([[[0.0, 0.9], [0.4, 0.0]]]), torch.tensor([7]))}
    batch = task.batch("valid", 0)
    torch.testing.assert_close(batch.inputs[:, 0], torch.tensor(steps))
    assert batch.targets[:, 0].tolist() == [IGNORE] * (len(steps) - 1) + [7]


@pytest.mark.parametrize("by", ["pixel", "row"])
@pytest.mark.parametrize("batch_size", [1, 50, 64, 300])
def test_evaluation_shows_every_picture_once_and_the_splits_are_all_digits(by, batch_size):
    task, data = Pixels(by=by, batch_size=batch_size), load_digits()
    whole = Counter(zip(map(tuple, (data.data.astype(np.float32) / 16).tolist()), data.target.tolist(), strict=True))
    pixels, labels = task.parts["train"]
    train = zip(map(tuple, pixels.flatten(1).tolist()), labels.tolist(), strict=True)
    assert Counter([*train, *every(task, "valid"), *every(task, "test")]) == whole


def test_every_split_has_its_share_of_every_class():
    counts = {split: torch.bincount(part.labels) for split, part in Pixels().parts.items()}
    total = sum(counts.values())
    for split, share in {"train": 0.7, "valid": 0.15, "test": 0.15}.items():
        assert (counts[split] - share * total).abs().max() <= 1


def test_an_epoch_shows_a_picture_once_in_an_order_of_its_own():
    task, other = Pixels(batch_size=100), Pixels(seed=1, batch_size=100)
    whole = len(task.parts["train"].labels) // 100
    first, second = (rows(task, "train", range(epoch * whole, (epoch + 1) * whole)) for epoch in range(2))
    for epoch in (first, second):
        assert len({picture for picture, _ in epoch}) == len(epoch) == whole * 100
    assert first != second
    assert first != rows(other, "train", range(whole))
    assert rows(task, "train", [0]) == first[:100]  # and back to an earlier epoch


def test_a_batch_larger_than_the_data_is_all_of_them():
    task = Pixels(batch_size=5000)
    assert task.batch("train", 3).batch_size == len(task.parts["train"].labels)
    assert task.num_batches("train") == task.num_batches("test") == 1


def test_permuted_is_one_order_for_all_pictures_and_runs():
    plain, permuted, other = (Pixels(permuted=p, seed=s) for p, s in ((False, 0), (True, 0), (True, 1)))
    a, b = (task.batch("test", 0).inputs[:, :, 0] for task in (plain, permuted))
    assert sorted(permuted.order.tolist()) == list(range(64))
    assert not torch.equal(a, b)
    torch.testing.assert_close(b, a[permuted.order])
    torch.testing.assert_close(b, other.batch("test", 0).inputs[:, :, 0])


def test_the_digest_is_that_of_the_data():
    assert Pixels().data_digest() == Pixels(seed=1, batch_size=7, by="row").data_digest()
    changed = Pixels()
    changed.parts["test"].pixels[0, 0, 0] += 1
    assert len({Pixels().data_digest(), Pixels(permuted=True).data_digest(), changed.data_digest()}) == 3


def test_baselines_are_what_they_say():
    task = Pixels()
    common = Counter(task.parts["train"].labels.tolist()).most_common(1)[0][0]
    labels = task.parts["test"].labels.tolist()
    stated = task.baselines("test")
    assert stated["chance"] == {"loss": pytest.approx(log(10)), "accuracy": pytest.approx(0.1)}
    assert stated["most frequent"]["accuracy"] == pytest.approx(labels.count(common) / len(labels))


@pytest.mark.parametrize("options", [{"images": "cifar"}, {"by": "column"}, {"batch_size": 0}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match=rf"task\.{next(iter(options))}"):
        Pixels(**options)


def test_construction_reads_nothing():
    task = Pixels(images="mnist", data_root="/nowhere")
    assert (task.input.size, task.output_size) == (1, 10)


def test_mnist_5k_is_what_everybody_has(data_root):
    task = Pixels(images="mnist_5k", data_root=data_root, by="row")
    assert {split: torch.bincount(part.labels).tolist() for split, part in task.parts.items()} == {
        "train": [350] * 10,
        "valid": [75] * 10,
        "test": [75] * 10,
    }
    assert task.batch("train", 0).inputs.shape == (28, 64, 28)
    every_pixel = torch.cat([part.pixels for part in task.parts.values()])
    assert (every_pixel.min(), every_pixel.max()) == (0, 1)
    assert every_pixel[:, 9:19, 9:19].mean() > 4 * every_pixel.mean(0)[[0, -1]].mean()  # digits stand in the middle


def test_the_test_set_of_mnist_is_read(data_root):
    found = _image_sets.read_idx(Path(data_root) / "mnist", "t10k")
    assert torch.bincount(found.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert found.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert float(found.pixels.mean()) == pytest.approx(0.1325, abs=1e-4)


def write_idx(folder, name, array, magic=None, packed=False):
    folder.mkdir(exist_ok=True)
    header = struct.pack(f">{array.ndim + 1}I", magic or 0x800 + array.ndim, *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    (folder / f"{name}.gz" if packed else folder / name).write_bytes(gzip.compress(content) if packed else content)


def write_set(folder, packed=False, train=30, test=10):
    random = np.random.default_rng(0)
    written = {}
    for part, count in (("train", train), ("t10k", test)):
        written[part] = random.integers(256, size=(count, 28, 28)), random.integers(10, size=count)
        for name, array in zip(("images-idx3-ubyte", "labels-idx1-ubyte"), written[part], strict=True):
            write_idx(folder, f"{part}-{name}", array, packed=packed)
    return written


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("images", ["mnist", "fashion_mnist"])
def test_idx_files_are_read_and_the_last_training_pictures_are_for_validation(tmp_path, monkeypatch, images, packed):
    monkeypatch.setattr(_image_sets, "VALID", 5)
    written = write_set(tmp_path / images, packed)
    task = Pixels(images=images, data_root=str(tmp_path), batch_size=4)
    for split, (array, labels) in {
        "train": (written["train"][0][:25], written["train"][1][:25]),
        "valid": (written["train"][0][25:], written["train"][1][25:]),
        "test": written["t10k"],
    }.items():
        expected = [
            (tuple(picture), int(label))
            for picture, label in zip((array.reshape(-1, 784).astype(np.float32) / 255).tolist(), labels, strict=True)
        ]
        if split == "train":
            assert set(rows(task, "train", range(6))) < set(expected)
        else:
            assert every(task, split) == expected


@pytest.mark.parametrize("images", ["mnist", "fashion_mnist"])
def test_what_is_missing_is_named_with_its_address_and_folder(tmp_path, images):
    write_set(tmp_path / images)
    (tmp_path / images / "train-images-idx3-ubyte").unlink()
    with pytest.raises(InputError) as error:
        Pixels(images=images, data_root=str(tmp_path)).parts  # noqa: B018
    for part in ("train-images-idx3-ubyte", _image_sets.ADDRESSES[images], str(tmp_path / images)):
        assert part in str(error.value)


def test_broken_idx_files_are_refused(tmp_path):
    folder, picture = tmp_path / "mnist", np.zeros((3, 28, 28))

    def fails(says):
        with pytest.raises(InputError, match=says):
            Pixels(images="mnist", data_root=str(tmp_path)).parts  # noqa: B018

    write_set(folder)
    fails("task.images=mnist has 30 training images; it must have more than 5000")
    write_idx(folder, "train-images-idx3-ubyte", picture, magic=0x901)
    fails("is not an IDX file of bytes with 3 axes")
    write_idx(folder, "train-images-idx3-ubyte", picture)
    fails("3, 28, 28.* 30 labels")
    write_idx(folder, "train-labels-idx1-ubyte", np.array([1, 10, 2]))
    fails("labels up to 10; they must have")
    write_idx(folder, "train-images-idx3-ubyte", picture[:0])
    write_idx(folder, "train-labels-idx1-ubyte", np.zeros(0))
    fails("0, 28, 28.* 0 labels")
    write_idx(folder, "train-images-idx3-ubyte", picture)
    whole = (folder / "train-images-idx3-ubyte").read_bytes()
    for content in (whole[:-1], whole[:10], b""):
        (folder / "train-images-idx3-ubyte").write_bytes(content)
        fails("cannot be read")
    (folder / "train-images-idx3-ubyte").unlink()
    packed = gzip.compress(whole)
    for content in (packed[:-20], packed[:12] + b"\xff" * 28 + packed[40:], whole):
        (folder / "train-images-idx3-ubyte.gz").write_bytes(content)
        fails("cannot be read")
