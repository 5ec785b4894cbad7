"""Drawings as strokes: the likelihood, the batches, the files, generation and the generated digits."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from rnnlab.cells import find
from rnnlab.contracts import check_task
from rnnlab.formats.svg import GREY
from rnnlab.interface import InputError
from rnnlab.models.sequence_model import SequenceModel
from rnnlab.tasks.drawing import _digits, _npz, _show, strokes
from rnnlab.tasks.drawing.strokes import ENDED, SHOWN, Pen, Strokes

SMALL = {"train_size": 70, "eval_size": 12, "batch_size": 8, "components": 3}


def outputs_of(head, *shape, seed=0):
    return torch.randn(*shape, head.features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def archive(path, **parts):
    """Write an NPZ file as NumPy does, from lists of drawings."""
    objects = {}
    for split, drawings in parts.items():
        objects[split] = np.empty(len(drawings), object)
        objects[split][:] = drawings
    np.savez_compressed(path, **objects)
    return str(path)


def drawing(*points, dtype="int16"):
    return np.array(points, dtype)


LINE = drawing((0, 0, 0), (3, 4, 0), (-2, 5, 1))


def test_the_contract_holds():
    check_task("strokes", **SMALL)


def test_a_batch_has_the_points_shifted_by_one_and_noise_on_targets_only():
    task = Strokes(**SMALL)
    batch = task.batch("valid", 1)
    drawings = task.parts["valid"][8:]
    assert batch.batch_size == len(drawings) == 4
    for column, points in enumerate(drawings):
        length = len(points)
        assert int(batch.lengths[column]) == length
        inputs, targets = batch.inputs[:, column], batch.targets[:, column]
        assert not inputs[0].any()
        offsets = inputs[1:length, :2] * task.scale
        torch.testing.assert_close(offsets, points[:-1, :2].float(), atol=1e-4, rtol=0)
        assert torch.equal(inputs[1:length, 2], points[:-1, 2].float())
        noise = targets[:length, :2] * task.scale - points[:, :2]
        assert noise.abs().max() <= 0.5 + 1e-4
        assert noise.std() == pytest.approx(12**-0.5, abs=0.1)
        assert torch.equal(targets[:length, 2], points[:, 2].float())
        assert (points[:, 2] == ENDED).nonzero().flatten().tolist() == [length - 1]
        assert targets[length:].isnan().all()
    same = task.batch("train", 0).targets, Strokes(1, **SMALL).batch("train", 0).targets
    assert same[0].shape != same[1].shape or not torch.allclose(*same, equal_nan=True)


def test_an_epoch_has_each_drawing_once_and_similar_lengths_together():
    task = Strokes(**SMALL | {"train_size": 400})
    lengths = torch.tensor([len(points) for points in task.parts["train"]])
    assert task.num_batches("train") == 50
    for epoch in range(2):
        batches = [task.chosen("train", 50 * epoch + step) for step in range(50)]
        assert sorted(torch.cat(batches).tolist()) == list(range(400))
        spread = np.mean([float(lengths[batch].double().std()) for batch in batches])
        assert spread < 0.4 * float(lengths.double().std())


def test_metrics_of_a_drawing_and_of_the_pen_are_parts_of_the_loss():
    task = Strokes(**SMALL)
    batch = task.batch("test", 0)
    outputs = outputs_of(task.head, *batch.targets.shape[:2])
    drawing, pen = (task.measure(outputs, batch)[name] for name in ("drawing", "pen"))
    total, count = task.loss(outputs, batch)
    assert float(drawing.total / drawing.count) == pytest.approx(float(total) / 8)
    logits = torch.cat([torch.zeros(*outputs.shape[:2], 1), outputs[..., -2:] + task.start[-2:]], -1)
    kept = torch.arange(len(outputs)).unsqueeze(1) < batch.lengths
    expected = torch.nn.functional.cross_entropy(logits[kept], batch.targets[..., 2][kept].long())
    assert float(pen.total / pen.count) == pytest.approx(float(expected))
    assert int(count) == int(batch.lengths.sum())


def test_baselines_are_the_densities_that_scipy_computes():
    task = Strokes(**SMALL)
    train = torch.cat(task.parts["train"]).double().numpy()
    targets = [task.batch("test", step).targets.double().flatten(0, 1) for step in range(2)]
    targets = torch.cat(targets)[~torch.cat(targets).isnan().any(-1)].numpy()
    frequencies = (np.bincount(train[:, 2].astype(int)) + 1) / (len(train) + 3)
    pen = -np.log(frequencies[targets[:, 2].astype(int)]).mean()
    found = task.baselines("test")
    assert found["mixture"]["pen"] == found["one Gaussian"]["pen"] == pytest.approx(pen)
    assert found["mixture"]["drawing"] == pytest.approx(found["mixture"]["loss"] * len(targets) / 12)

    # The mixture, from the parameters that the head has.
    weights, means, deviations, slant, _ = np.split(task.start.numpy(), np.cumsum([3, 6, 6, 3]))
    logs = []
    for mean, deviation, rho in zip(means.reshape(3, 2), np.exp(deviations.reshape(3, 2)), np.tanh(slant), strict=True):
        cross = rho * deviation.prod()
        covariance = np.array([[deviation[0] ** 2, cross], [cross, deviation[1] ** 2]]) * task.scale**2
        logs.append(multivariate_normal(mean * task.scale, covariance).logpdf(targets[:, :2] * task.scale))
    expected = logsumexp(np.array(logs).T + weights, axis=1, b=1) - logsumexp(weights)
    assert found["mixture"]["loss"] == pytest.approx(pen - expected.mean())
    # One Gaussian has the moments of the training set; noise adds 1/12 to each variance.
    covariance = np.cov(train[:, :2].T, bias=True) + np.eye(2) / 12
    one = multivariate_normal(train[:, :2].mean(0), covariance).logpdf(targets[:, :2] * task.scale)
    assert found["one Gaussian"]["loss"] == pytest.approx(pen - one.mean(), abs=0.01)
    assert found["mixture"]["loss"] < found["one Gaussian"]["loss"]


def test_the_mixture_is_that_of_scikit_learn():
    points = torch.randn(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    fitted = GaussianMixture(4, reg_covar=1e-8, max_iter=200, random_state=0).fit(points.numpy())
    head = Pen(1.0, torch.cat([strokes._mixture(points, 4), torch.zeros(2, dtype=torch.float64)]))
    outputs = torch.zeros(head.features, dtype=torch.float64)
    targets = torch.cat([points, torch.zeros(300, 1)], -1)
    found = head.log_density(outputs.expand(300, -1), targets) + np.log(3)
    np.testing.assert_allclose(found.numpy(), fitted.score_samples(points.numpy()), rtol=1e-8)


@pytest.mark.parametrize("dtype", ["int8", "int16", ">i2", "int64", "float32", "float64"])
def test_files_are_read_without_their_start(tmp_path, dtype):
    raw = [drawing((0, 0, 0), (3, 4, 0), (-2, 5, 1), dtype=dtype), drawing((1, 2, 1), dtype=dtype)]
    raw.append(np.asfortranarray(drawing((0, 0, 0), (7, 8, 1), dtype=dtype)))
    path = archive(tmp_path / "a.npz", train=raw, valid=raw[:1], test=raw[1:])
    parts = _npz.read(Path(path).read_bytes(), "a")
    assert [one.tolist() for one in parts["train"]] == [[[3, 4, 0], [-2, 5, 1]], [[1, 2, 1]], [[7, 8, 1]]]
    assert [len(parts[split]) for split in parts] == [3, 1, 2]
    assert parts["train"][0].dtype == np.int32
    task = Strokes(corpus=path, components=2)
    assert task.parts["test"][1].tolist() == [[7, 8, ENDED]]
    assert "3 train, 1 valid, 2 test drawings with 8 points, offsets up to 8" in task.describe()[0]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (drawing((0, 0), (1, 1)), r"test drawing 1 has the shape \[2, 2\]; it must have 3 columns"),
        (np.zeros(3), r"shape \[3\]"),
        (drawing((0, 0, 0), (np.nan, 1, 1), dtype=float), "test drawing 1 has NaN or infinite"),
        (drawing((0, 0, 0), (1, -np.inf, 1), dtype=float), "NaN or infinite"),
        (drawing((0.5, 1, 1), dtype=float), "not integers"),
        (drawing((1, 1, 2)), "other pen states"),
        (drawing((1, -40_000, 1), dtype=int), "offset above 32767"),
        (drawing((1e300, 0, 1), dtype=float), "offset above 32767"),
        (drawing((0, 0, 0)), "test drawing 1 has no points"),
        (np.zeros((0, 3), np.int16), "test drawing 1 has no points"),
    ],
)
def test_invalid_drawings_are_refused(tmp_path, bad, says):
    path = archive(tmp_path / "a.npz", train=[LINE], valid=[LINE], test=[LINE, bad])
    with pytest.raises(InputError, match=says):
        Strokes(corpus=path).batch("train", 0)


class _Runs:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_a_program_is_refused(tmp_path):
    path = archive(tmp_path / "a.npz", train=[_Runs(tmp_path / "made"), LINE], valid=[LINE], test=[LINE])
    with pytest.raises(InputError, match=r"train\.npy would call posix\.mkdir; only arrays of numbers are allowed"):
        Strokes(corpus=path).batch("train", 0)
    assert not (tmp_path / "made").exists()
    np.load(path, allow_pickle=True)["train"]  # this is what an ordinary reader does
    assert (tmp_path / "made").exists()


def test_damaged_files_are_refused(tmp_path, monkeypatch):
    file = tmp_path / "a.npz"
    whole = Path(archive(file, train=[LINE] * 50, valid=[LINE], test=[LINE])).read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 255
    for content in (whole[:300], b"", b"PK\3\4", bytes(flipped)):
        with pytest.raises(InputError, match=r"not an intact NPZ file|cannot be read"):
            _npz.read(content, "a.npz")
    archive(file, train=[LINE], test=[LINE])
    with pytest.raises(InputError, match=r"has no member valid\.npy"):
        _npz.read(file.read_bytes(), "a.npz")
    archive(file, train=[], valid=[LINE], test=[LINE])
    with pytest.raises(InputError, match="train has no drawings"):
        _npz.read(file.read_bytes(), "a.npz")
    np.savez(file, train=np.zeros((4, 3)), valid=np.zeros(3), test=np.zeros(3))
    with pytest.raises(InputError, match="is an array of float64"):
        _npz.read(file.read_bytes(), "a.npz")
    archive(file, train=["words", LINE], valid=[LINE], test=[LINE])
    with pytest.raises(InputError, match=r"train\.npy cannot be read"):
        _npz.read(file.read_bytes(), "a.npz")
    monkeypatch.setattr(_npz, "_MOST_BYTES", 100)
    with pytest.raises(InputError, match=r"train\.npy has \d+ bytes, at most 100"):
        _npz.read(whole, "a.npz")


def test_any_damage_of_a_pickle_is_an_error_of_the_input(tmp_path):
    """Each byte of a pickle is changed; the reader either gives drawings or an InputError."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    objects = np.empty(1, object)
    objects[0] = LINE
    body = pickle.dumps(objects, protocol=2)
    for place in range(len(body)):
        changed = bytearray(body)
        changed[place] ^= 0x15
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for split in ("train", "valid", "test"):
                file.writestr(f"{split}.npy", header.getvalue() + bytes(changed if split == "train" else body))
        try:
            found = _npz.read(buffer.getvalue(), "a.npz")
        except InputError:
            continue
        assert found["train"][0].shape[1] == 3


def test_options_and_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="must be generated, omniglot or the path"):
        Strokes(corpus="mnist")
    with pytest.raises(InputError, match=r"task\.components=0 must be at least 1"):
        Strokes(components=0)
    still = drawing((0, 0, 0), (0, 0, 1))
    path = archive(tmp_path / "a.npz", train=[still], valid=[still], test=[still])
    with pytest.raises(InputError, match="all offsets of the training drawings are 0"):
        Strokes(corpus=path).head  # noqa: B018


@pytest.mark.slow
def test_omniglot_equals_what_numpy_reads(data_root):
    task = Strokes(corpus="omniglot", data_root=data_root)
    file = np.load(Path(data_root) / strokes.OMNIGLOT.path, allow_pickle=True, encoding="latin1")
    for split, count in (("train", 30_000), ("valid", 1000), ("test", 1000)):
        assert len(task.parts[split]) == count
        for ours, theirs in zip(task.parts[split], file[split], strict=True):
            assert not theirs[0].any()
            assert theirs[-1, 2] == 1
            expected = theirs[1:].copy()
            expected[-1, 2] = ENDED
            np.testing.assert_array_equal(ours.numpy(), expected)


class Fixed(torch.nn.Module):
    """A model with constant outputs."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = torch.nn.Parameter(outputs)

    def begin(self, source=None, source_lengths=None, batch_size=1):
        return ()

    def step(self, inputs, state):
        return self.outputs.expand(len(inputs), -1), state


def fixed(task, ended):
    """A model that draws the offset (2, -1) at temperature 0, and always or never ends."""
    outputs = torch.zeros(task.head.features)
    outputs[task.components : task.components + 2] = torch.tensor([2.0, -1.0]) / task.scale
    outputs[0], outputs[-1] = 5.0, 50.0 if ended else -50.0
    task.start = torch.zeros_like(outputs)
    return Fixed(outputs)


def test_a_drawing_ends_where_the_model_ends_it_or_at_the_length():
    task = Strokes(**SMALL)
    start = torch.zeros(0, 3)
    for one in task.draw(fixed(task, ended=True), start, 3, 20, 0.0, 0, 0):
        assert one.tolist() == [[2, -1, ENDED]]
    for one in task.draw(fixed(task, ended=False), start, 3, 7, 0.0, 0, 0):
        assert one.tolist() == [[2, -1, 0]] * 7
    for one in task.draw(fixed(task, ended=False), torch.tensor([[5, 6, 1]]), 3, 2, 0.0, 0, 0):
        assert one.tolist() == [[5, 6, 1], [2, -1, 0], [2, -1, 0]]


@pytest.mark.parametrize("length", [1, 200])
def test_generated_files_have_the_drawings(length):
    task = Strokes(**SMALL)
    torch.manual_seed(0)
    model = SequenceModel(task.input, task.output_size, find("gru"), hidden_size=6).eval()
    files = {sample.suffix: sample.content for sample in task.generate(model, "", length, 0.7, 0, 3)}
    drawings = [
        np.array([[int(number) for number in line.split()] for line in block.split("\n")])
        for block in files[".txt"].split("\n\n")
    ]
    assert len(drawings) == SHOWN
    for one in drawings:
        assert 1 <= len(one) <= length
        assert (one[:-1, 2] < ENDED).all()
    assert Image.open(io.BytesIO(files[".png"])).size == (800, 200)
    count = sum(len(_show.lines(one)) for one in drawings)
    assert files[".svg"].count("<path") == count


def test_files_depend_on_the_seed_only():
    task = Strokes(**SMALL)
    torch.manual_seed(0)
    model = SequenceModel(task.input, task.output_size, find("gru"), hidden_size=6).eval()
    first, again, other = (task.generate(model, "", 4, 0.7, 0, seed) for seed in (2**64 - 1, 2**64 - 1, 4))
    assert first == again
    assert not {sample.content for sample in first} & {sample.content for sample in other}


def test_a_prompt_is_the_first_stroke_or_half_of_a_test_drawing(tmp_path):
    two = drawing((0, 0, 0), (1, 2, 0), (3, 4, 1), (5, 6, 0), (7, 8, 1))
    one = drawing((0, 0, 0), (1, 2, 0), (3, 4, 0), (5, 6, 0), (7, 8, 1))
    path = archive(tmp_path / "a.npz", train=[one], valid=[one], test=[two, one])
    task = Strokes(corpus=path, components=2)
    model = fixed(task, ended=True)
    for prompt in ("0", "1"):
        given = "1 2 0\n3 4 " + ("1" if prompt == "0" else "0")
        svg, _, text = task.generate(model, prompt, 10, 0.0, 0, 0)
        assert text.content.split("\n\n") == [f"{given}\n2 -1 2"] * SHOWN
        assert svg.content.count(f'stroke="{GREY}"') == SHOWN
    for prompt in ("2", "-1", "x", "1.0", "٣"):
        with pytest.raises(InputError, match="must be the number of a test drawing, 0 to 1, or empty"):
            task.generate(model, prompt, 10, 0.0, 0, 0)
    with pytest.raises(InputError, match="length=0 draws no points"):
        task.generate(model, "", 0, 1.0, 0, 0)
    with pytest.raises(InputError, match="top_k=5"):
        task.generate(model, "", 5, 1.0, 5, 0)


def test_lines_are_split_where_the_pen_is_lifted_and_where_the_given_part_ends():
    points = np.array([[1, 0, 0], [1, 0, 1], [0, 5, 0], [0, 1, 0], [1, 1, 2]], float)

    def found(given):
        return [(line.points.tolist(), line.colour == GREY) for line in _show.lines(points, given)]

    first, second = [[0, 0], [1, 0], [2, 0]], [[2, 5], [2, 6], [3, 7]]
    assert found(0) == [(first, False), (second, False)]
    assert found(2) == [(first, True), (second, False)]
    assert found(1) == [(first[:2], True), (first[1:], False), (second, False)]
    assert found(3) == [(first, True), (second[:1], True), (second, False)]
    assert found(5) == [(first, True), (second, True)]


def test_a_lifted_pen_leaves_a_gap_and_a_dot_is_drawn():
    points = np.array([[0, 0, 1], [10, 0, 2]], float)
    assert [line.points.tolist() for line in _show.lines(points)] == [[[0, 0], [0, 0]], [[10, 0]]]


def test_digits_have_their_strokes_sizes_and_directions():
    found = _digits.digits(300, np.random.default_rng(5))
    assert len({one.tobytes() for one in found}) == 300
    strokes_of = np.array([one[:, 2].sum() for one in found])
    assert set(strokes_of) == {1, 2}
    assert (strokes_of == 2).mean() == pytest.approx(0.3, abs=0.08)  # 4, 5 and 7
    for one in found:
        places = one[:, :2].cumsum(0)
        assert one[-1, 2] == 1
        assert not one[0].any()
        assert 60 < np.ptp(places[:, 1]) < 190
        assert len(one) < 60
    # Any digit begins near its top, and y points down.
    assert np.mean([one[:, 1].cumsum()[-1] for one in found]) > 20


def test_curves_pass_through_their_points_at_equal_distances():
    corners = np.array([[0, 0], [1, 2], [3, 1], [4, 4.0]])
    curve = _digits._smooth(corners, parts=8)
    np.testing.assert_allclose(curve[::8], corners)
    line = np.array([[0, 0], [3, 4], [6, 8.0]])
    np.testing.assert_allclose(_digits.spaced(line, 2.5), np.linspace([0, 0], [6, 8], 5), atol=1e-12)
    steps = np.diff(_digits.spaced(_digits._smooth(corners, 200), 0.05), axis=0)
    assert np.hypot(*steps.T) == pytest.approx(0.05, rel=0.02)
