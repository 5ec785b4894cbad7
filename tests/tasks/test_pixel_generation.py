"""Pixel generation: exact likelihoods, baselines, samples, completions, and what is refused."""

import gzip
import io
import itertools
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from rnnlab import cells
from rnnlab.contracts import check_task
from rnnlab.interface import Batch, InputError
from rnnlab.models.sequence_model import SequenceModel
from rnnlab.report.pictures import grid
from rnnlab.tasks import _image_sets
from rnnlab.tasks.images.pixel_generation import COLUMNS, PixelGeneration

WAYS = list(itertools.product(("pixel", "row"), (True, False)))


def tiny(images, side, **options):
    """A task over given images, rows of levels, in every split."""
    task = PixelGeneration(**options)
    task.side = side
    task.parts = dict.fromkeys(("train", "valid", "test"), torch.tensor(images, dtype=torch.uint8))
    return task


def model_of(task, cell="gru", seed=0, scale=3.0):
    """An untrained model in float64, scaled so that its probabilities differ clearly."""
    torch.manual_seed(seed)
    model = SequenceModel(task.input, task.output_size, cells.find(cell), hidden_size=9).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def nats_of(task, model, images):
    """The negative log-likelihood of each image."""
    batch = task.encoded(images)
    outputs = model(batch)[0].detach().double()
    found = [task.loss(outputs[:, n : n + 1], Batch(batch.inputs, batch.targets[:, [n]])) for n in range(len(images))]
    assert {int(count) for _, count in found} == {task.side**2}
    return torch.stack([total for total, _ in found])


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
@pytest.mark.parametrize(("by", "position"), WAYS)
@pytest.mark.parametrize(("side", "levels"), [(2, 2), (3, 2), (2, 4)])
def test_the_probabilities_of_all_images_sum_to_one(by, position, side, levels, cell):
    images = list(itertools.product(range(levels), repeat=side * side))
    task = tiny(images, side, by=by, position=position, levels=levels)
    nats = nats_of(task, model_of(task, cell), task.parts["test"])
    assert float(nats.neg().exp().sum()) == pytest.approx(1, abs=1e-5)
    assert float(nats.std()) > 0.1


@pytest.mark.parametrize(("by", "position"), WAYS)
def test_the_loss_is_the_chain_rule_step_by_step(by, position):
    """The likelihood from single steps, each given the values before it only."""
    task = tiny(np.random.default_rng(0).integers(3, size=(4, 16)).tolist(), 4, by=by, position=position, levels=3)
    model = model_of(task)
    images = task.parts["test"].tolist()
    width = 4 if by == "row" else 1
    for image, nats in zip(images, nats_of(task, model, task.parts["test"]), strict=True):
        state, total, previous = model.begin(batch_size=1), 0.0, [0.0] * (3 * width)
        for start in range(0, 16, width):
            row, column = divmod(start, 4)
            place = [float(row == n) for n in range(4)] + [float(column == n) for n in range(4)] * (by == "pixel")
            outputs, state = model.step(torch.tensor([previous + place * position]), state)
            values = image[start : start + width]
            logits = outputs[0].double().tolist()
            for n, value in enumerate(values):
                three = logits[3 * n : 3 * n + 3]
                total -= three[value] - math.log(sum(map(math.exp, three)))
            previous = [float(value == level) for value in values for level in range(3)]
        assert float(nats) == pytest.approx(total, rel=1e-4)


def test_the_example_of_the_docstring():
    image = [[0, 1, 1, 0]]
    batch = tiny(image, 2, position=False).batch("test", 0)
    assert batch.inputs[:, 0].tolist() == [[0, 0], [1, 0], [0, 1], [0, 1]]
    assert batch.targets[:, 0].tolist() == [[0], [1], [1], [0]]
    batch = tiny(image, 2, position=True, by="row").batch("test", 0)
    assert batch.inputs[:, 0].tolist() == [[0, 0, 0, 0, 1, 0], [1, 0, 0, 1, 0, 1]]
    assert batch.targets[:, 0].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(("levels", "expected"), [(2, lambda v: v >= 8), (16, lambda v: min(v, 15)), (17, lambda v: v)])
def test_pixels_are_rounded_down_to_levels(levels, expected):
    found = Counter(tuple(row) for part in PixelGeneration(levels=levels).parts.values() for row in part.tolist())
    assert found == Counter(tuple(int(expected(v)) for v in row) for row in load_digits().data.tolist())


def test_256_levels_are_the_bytes_of_an_image():
    pixels = (torch.arange(256).float() / 255).view(1, 16, 16)
    assert PixelGeneration(levels=256).quantised(pixels).tolist() == [list(range(256))]


@pytest.mark.parametrize("levels", [2, 16])
def test_baselines_are_what_they_say(levels):
    task = PixelGeneration(levels=levels)
    train, test = (task.parts[split].numpy() for split in ("train", "test"))
    nats = 0.0
    for pixel in range(64):
        for level in range(levels):
            share = ((train[:, pixel] == level).sum() + 1) / (len(train) + levels)
            nats -= (test[:, pixel] == level).mean() * math.log(share)
    found = task.baselines("test")
    assert found["independent"]["nll"] == pytest.approx(nats)
    assert found["independent"]["bpd"] == pytest.approx(nats / 64 / math.log(2))
    assert found["chance"] == pytest.approx(
        {"loss": math.log(levels), "nll": 64 * math.log(levels), "bpd": math.log2(levels)}
    )
    if levels == 2:
        assert nats == pytest.approx(25.10, abs=0.005)


@pytest.mark.slow  # the default options are those of the contract suite
@pytest.mark.parametrize("options", [{"by": "row", "position": False}, {"levels": 16, "batch_size": 400}])
def test_the_contract_holds(options):
    check_task("pixel_generation", **options)


@pytest.mark.parametrize(
    "options",
    [{"images": "cifar"}, {"by": "column"}, {"levels": 1}, {"levels": 257}, {"batch_size": 0}],
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match=rf"task\.{next(iter(options))}="):
        PixelGeneration(**options)


def test_construction_reads_nothing():
    task = PixelGeneration(images="mnist", data_root="/nowhere")
    assert (task.input.size, task.output_size) == (2 + 28 + 28, 2)
    task = PixelGeneration(images="mnist", data_root="/nowhere", by="row", levels=16, position=False)
    assert (task.input.size, task.output_size) == (28 * 16, 28 * 16)


def test_the_digest_is_that_of_the_levels():
    assert PixelGeneration().data_digest() == PixelGeneration(seed=1, by="row", batch_size=7).data_digest()
    changed = PixelGeneration()
    changed.parts["test"][0, 0] ^= 1
    assert len({task.data_digest() for task in (PixelGeneration(), PixelGeneration(levels=16), changed)}) == 3


@pytest.mark.parametrize("by", ["pixel", "row"])
def test_samples_follow_the_distribution_of_the_model(by):
    """The frequencies of all 16 images of 2x2 pixels are their probabilities."""
    images = list(itertools.product(range(2), repeat=4))
    task = tiny(images, 2, by=by)
    model = model_of(task, scale=2.0)
    probabilities = nats_of(task, model, task.parts["test"]).neg().exp().tolist()
    count = 1000
    drawn = task.continued(model, torch.zeros(count, 4, dtype=torch.uint8), 0, 1.0, 0, 0)
    found = Counter(map(tuple, drawn.tolist()))
    for image, probability in zip(images, probabilities, strict=True):
        deviation = math.sqrt(probability * (1 - probability) / count)
        assert abs(found[image] / count - probability) < 4 * deviation + 1e-6
    cold = task.continued(model, torch.zeros(3, 4, dtype=torch.uint8), 0, 1e-3, 0, 0)
    assert torch.equal(cold, task.continued(model, torch.zeros(3, 4, dtype=torch.uint8), 0, 0, 0, 5))


@pytest.mark.parametrize(("by", "position"), WAYS)
@pytest.mark.parametrize("given", [0, 3, 8])
def test_the_given_steps_are_kept_and_the_most_probable_value_follows(by, position, given):
    task = PixelGeneration(by=by, position=position)
    model, images = model_of(task), task.parts["test"][::50]
    done = task.continued(model, images, given, 0, 0, 0)
    kept = given * task.width
    assert torch.equal(done[:, :kept], images[:, :kept])
    best = model(task.encoded(done))[0].detach().unflatten(2, (task.width, 2)).argmax(3)  # [T, B, width]
    assert torch.equal(best.transpose(0, 1).flatten(1)[:, kept:], done[:, kept:].long())
    assert torch.equal(done[:1], task.continued(model, images[:1], given, 0, 0, 0))


def test_an_image_is_drawn_from_its_own_seed():
    task = PixelGeneration()
    model, blank = model_of(task, scale=1.0), torch.zeros(5, 64, dtype=torch.uint8)
    together = task.continued(model, blank, 0, 1.0, 0, 7)
    assert torch.equal(together[3:4], task.continued(model, blank[:1], 0, 1.0, 0, 10))
    assert len(together.unique(dim=0)) == 5
    task.continued(model, blank, 0, 1.0, 0, 2**64 - 1)  # the largest seed


def tiles(sample, side):
    """The images of a PNG of a grid, as shades ``[rows, columns, side, side]``, read with Pillow."""
    sheet = np.array(Image.open(io.BytesIO(sample.content)))
    size = max(1, 64 // side) * side + 2
    rows, columns = ((n - 2) // size for n in sheet.shape)
    inner = sheet[2:, 2:].reshape(rows, size, columns, size).swapaxes(1, 2)[..., : size - 2, : size - 2]
    step = (size - 2) // side
    assert (inner == inner[..., ::step, ::step].repeat(step, 2).repeat(step, 3)).all()
    return inner[..., ::step, ::step]


def test_a_sample_shows_drawn_images_and_completions():
    task = PixelGeneration(levels=16, by="row")
    model = model_of(task)
    shown = tiles(task.sample(model), 8)
    assert shown.shape == (6, 8, 8, 8)
    originals = (task.parts["valid"][[0, 89, 178, 268]].view(-1, 8, 8).float() * 255 / 15).numpy()
    np.testing.assert_array_equal(shown[2:, 0], originals.astype(int))
    np.testing.assert_array_equal(shown[2:, 1, :4], shown[2:, 0, :4])
    assert (shown[2:, 1, 4:] == 128).all()
    for column in range(2, COLUMNS):
        np.testing.assert_array_equal(shown[2:, column, :4], shown[2:, 0, :4])
    assert len(np.unique(shown[:2].reshape(16, -1), axis=0)) == 16
    assert len(np.unique(shown[2, 2:].reshape(6, -1), axis=0)) == 6


def test_the_command_writes_the_images_that_are_asked_for(tmp_path):
    task = PixelGeneration(by="row")
    model = model_of(task)

    def made(prompt, length):
        (sample,) = task.generate(model, prompt, length, 1.0, 0, 0)
        assert sample.suffix == ".png"
        return tiles(sample, 8)

    assert made("", 3).shape[:2] == (1, 3)
    assert made("", 500).shape[:2] == (8, 8)
    drawn = task.continued(model, torch.zeros(9, 64, dtype=torch.uint8), 0, 1.0, 0, 0)
    nine = made("", 9).reshape(16, 64)
    np.testing.assert_array_equal(nine[:9], drawn.numpy() * 255)
    assert (nine[9:] == 96).all()
    assert made("complete", 500).shape[:2] == (8, 8)
    np.testing.assert_array_equal(made("complete", 2)[:, 0].reshape(2, 64), task.parts["test"][[0, -1]] * 255)
    np.testing.assert_array_equal(made("valid 3 7", 500)[:, 0].reshape(2, 64), task.parts["valid"][[3, 7]] * 255)
    assert made("train", 1).shape[:2] == (1, 8)
    path = tmp_path / "mine.png"
    Image.fromarray(task.parts["valid"][5].view(8, 8).numpy() * 255).save(path)
    np.testing.assert_array_equal(made(str(path), 500), made("valid 5", 500))


def test_prompts_that_cannot_be_are_refused(tmp_path):
    task = PixelGeneration()
    model = model_of(task)

    def refused(prompt, says, length=5):
        with pytest.raises(InputError, match=says):
            task.generate(model, prompt, length, 1.0, 0, 0)

    refused("", "length=0 must be at least 1", length=0)
    refused("comple", "prompt='comple' is not a file; give complete, a split and numbers")
    refused("x" * 5000, "is not a file")
    refused("valid 3 269", "must have numbers below 269, the number of images of valid")
    picture = tmp_path / "wide.png"
    Image.new("L", (9, 8)).save(picture)
    refused(str(picture), r"wide\.png' has 9x8 pixels; give a picture of 8x8 pixels")
    Image.effect_noise((8, 8), 50).save(picture)
    picture.write_bytes(picture.read_bytes()[:-40])
    refused(str(picture), r"wide\.png cannot be read as a picture")
    picture.write_text("no picture")
    refused(str(picture), r"wide\.png is not a picture")
    with pytest.raises(InputError, match="out=FOLDER"):
        task.speaker(model, 1.0, 0, 0)


@pytest.mark.parametrize(("count", "columns", "scale"), [(1, 1, 1), (5, 3, 2), (8, 8, 4)])
def test_a_grid_has_its_pictures_row_by_row(count, columns, scale):
    pictures = np.random.default_rng(0).integers(256, size=(count, 3, 5)).astype(np.uint8)
    sheet = grid(pictures, columns, scale)
    assert sheet.shape == (-(-count // columns) * (3 * scale + 2) + 2, columns * (5 * scale + 2) + 2)
    expected = np.full(sheet.shape, 96)
    for n, picture in enumerate(pictures):
        top, left = n // columns * (3 * scale + 2) + 2, n % columns * (5 * scale + 2) + 2
        for y, x in itertools.product(range(3 * scale), range(5 * scale)):
            expected[top + y, left + x] = picture[y // scale, x // scale]
    np.testing.assert_array_equal(sheet, expected)


@pytest.fixture
def small_mnist(tmp_path):
    """A folder with a small MNIST whose images are random."""
    random, folder = np.random.default_rng(0), tmp_path / "mnist"
    folder.mkdir()
    for part, count in (("train", 30), ("t10k", 9)):
        for name, array in (
            ("images-idx3", random.integers(256, size=(count, 28, 28))),
            ("labels-idx1", np.zeros(count)),
        ):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            content = gzip.compress(header + array.astype(np.uint8).tobytes())
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("by", ["pixel", "row"])
def test_a_step_by_step_loss_equals_the_compiled_one_over_784_steps(small_mnist, by, monkeypatch):
    monkeypatch.setattr(_image_sets, "VALID", 5)
    task = PixelGeneration(images="mnist", data_root=str(small_mnist), by=by, batch_size=3)
    model = model_of(task, "lstm", scale=1.0)
    batch = task.batch("train", 0)
    assert batch.inputs.shape[:2] == (784 if by == "pixel" else 28, 3)
    outputs, _ = model(batch)
    state, single = model.begin(batch_size=3), []
    with torch.inference_mode():
        for one in batch.inputs:
            output, state = model.step(one, state)
            single.append(output)
    torch.testing.assert_close(torch.stack(single), outputs.detach(), atol=1e-4, rtol=1e-3)
    total, count = task.loss(outputs, batch)
    total.backward()
    assert int(count) == 784 * 3
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.slow
def test_mnist_5k_is_tested_on_the_test_set_of_mnist(data_root):
    task = PixelGeneration(images="mnist_5k", data_root=data_root, levels=256)
    assert {split: len(part) for split, part in task.parts.items()} == {"train": 4500, "valid": 500, "test": 10000}
    known = {row.tobytes() for split in ("train", "valid") for row in task.parts[split].numpy()}
    assert len(known) == 5000
    assert not known & {row.tobytes() for row in task.parts["test"].numpy()}
    with gzip.open(Path(data_root) / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        assert task.parts["test"].numpy().tobytes() == file.read()[16:]
    assert "mnist_5k, 28x28 pixels of 256 levels: train 4,500, valid 500, test 10,000 images" in task.describe()[0]


def test_damaged_files_are_refused(tmp_path, data_root):
    folder = tmp_path / "mnist"
    folder.mkdir()

    def refused(images, says):
        with pytest.raises(InputError, match=says):
            PixelGeneration(images=images, data_root=str(tmp_path)).batch("train", 0)

    table = folder / "mnist_5k.csv.gz"
    table.write_bytes((Path(data_root) / "mnist" / table.name).read_bytes()[:-100])
    refused("mnist_5k", "SHA-256 .* expected 846f6cad")
    images = folder / "train-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(bytes(5000))[:-9])
    refused("mnist", r"ubyte\.gz cannot be read .*; delete it and download it again")


@pytest.mark.slow
def test_the_test_images_of_mnist_5k_are_needed(tmp_path, data_root):
    (tmp_path / "mnist").mkdir()
    shutil.copyfile(Path(data_root) / "mnist" / "mnist_5k.csv.gz", tmp_path / "mnist" / "mnist_5k.csv.gz")
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte\(\.gz\) does not exist; download it from"):
        PixelGeneration(images="mnist_5k", data_root=str(tmp_path)).batch("train", 0)
