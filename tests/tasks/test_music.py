"""Polyphonic music: layouts of files, the conventions of the loss, baselines, generated chorales, continuations."""

import gc
import gzip
import io
import json
import sys
import tracemalloc
import wave
from itertools import pairwise
from pathlib import Path

import mido
import numpy as np
import pytest
import scipy.io
import torch

from rnnlab.__main__ import main
from rnnlab.cells import find
from rnnlab.contracts import check_task
from rnnlab.generation import generate
from rnnlab.heads import Bernoulli
from rnnlab.interface import InputError, Vectors
from rnnlab.models.sequence_model import SequenceModel
from rnnlab.tasks.music import _chorales, _corpora
from rnnlab.tasks.music.polyphonic_music import PolyphonicMusic, shifted

LENGTHS = {"train": [7, 200, 2], "valid": [5, 2, 30], "test": [200, 3]}


def random_pieces(seed=0):
    random = np.random.default_rng(seed)
    return {split: [random.random((length, 88)) < 0.05 for length in sizes] for split, sizes in LENGTHS.items()}


def as_lists(pieces):
    """The JSON layout, with a silent voice in every frame."""
    return {s: [[[int(k) + 21 for k in np.flatnonzero(f)] + [-1] for f in one] for one in p] for s, p in pieces.items()}


def save_mat(path, pieces):
    names = {"train": "traindata", "valid": "validdata", "test": "testdata"}
    cells = {}
    for split, found in pieces.items():
        cells[names[split]] = np.empty((1, len(found)), object)
        for number, one in enumerate(found):
            cells[names[split]][0, number] = one.astype(np.uint8)
    scipy.io.savemat(path, cells)


@pytest.fixture
def files(tmp_path):
    """The same pieces in the three layouts."""
    pieces = random_pieces()
    save_mat(tmp_path / "a.mat", pieces)
    (tmp_path / "a.json").write_text(json.dumps(as_lists(pieces)))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress((tmp_path / "a.json").read_bytes()))
    return [str(tmp_path / f"a{suffix}") for suffix in (".mat", ".json", ".json.gz")]


def model_for(task, seed=0, hidden_size=6):
    torch.manual_seed(seed)
    return SequenceModel(task.input, task.output_size, find("gru"), hidden_size=hidden_size).eval()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"transpose": 5, "seq_len": 20, "batch_size": 3}])
def test_the_task_keeps_the_contract(options):
    check_task("polyphonic_music", **options)


def test_all_layouts_give_the_same_pieces(files):
    expected = random_pieces()
    tasks = [PolyphonicMusic(corpus=file) for file in files]
    for task in tasks:
        for split, pieces in expected.items():
            assert all(np.array_equal(a, b) for a, b in zip(task.pieces[split], pieces, strict=True))
    assert len({task.data_digest() for task in tasks}) == 1
    save_mat(Path(files[0]), random_pieces(1))
    assert PolyphonicMusic(corpus=files[0]).data_digest() != tasks[0].data_digest()
    assert "train 3 pieces of 209 frames" in tasks[0].describe()[0]


def naive_scores(task, split, outputs_of):
    """The metrics, piece by piece, frame by frame and key by key, as documented; not vectorised."""
    sums = dict.fromkeys(("later", "frames", "all", "all_frames", "means", "tp", "either", "etp", "eeither"), 0.0)
    for piece in task.pieces[split]:
        piece = piece.numpy().astype(float)
        outputs = outputs_of(np.concatenate([np.zeros((1, 88)), piece[:-1]]))
        nats = []
        for y, z in zip(piece, outputs, strict=True):
            p = 1 / (1 + np.exp(-z))
            nats.append(-sum(np.log(a) if b else np.log(1 - a) for a, b in zip(p, y, strict=True)))
        sums["all"] += sum(nats)
        sums["all_frames"] += len(nats)
        sums["later"] += sum(nats[1:])  # Bai et al.: frames 2 to T from frames 1 to T - 1
        sums["frames"] += len(nats) - 1
        sums["means"] += np.mean(nats[1:]) / len(task.pieces[split])
        for y, z in zip(piece[1:], outputs[1:], strict=True):
            p = 1 / (1 + np.exp(-z))
            sums["tp"] += sum(1 for a, b in zip(z, y, strict=True) if a > 0 and b)
            sums["either"] += sum(1 for a, b in zip(z, y, strict=True) if a > 0 or b)
            sums["etp"] += (p * y).sum()
            sums["eeither"] += (p * y + p * (1 - y) + (1 - p) * y).sum()
    return {
        "loss": sums["later"] / sums["frames"],
        "loss_all": sums["all"] / sums["all_frames"],
        "loss_piece": sums["means"],
        "accuracy": sums["tp"] / sums["either"],
        "expected_accuracy": sums["etp"] / sums["eeither"],
    }


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_metrics_are_those_of_a_walk_over_all_pieces(files, split, batch_size):
    """With outputs that depend on the frame before; batches are padded."""
    task = PolyphonicMusic(corpus=files[0], batch_size=batch_size)
    weights = np.random.default_rng(3).normal(size=(88, 88))

    def outputs_of(inputs):
        return inputs @ weights - 1.5

    found = task._scores(split, lambda inputs: inputs.double() @ torch.from_numpy(weights) - 1.5)
    assert found == pytest.approx(naive_scores(task, split, outputs_of), rel=1e-6)


def test_training_scores_the_first_frame_too(files):
    task = PolyphonicMusic(corpus=files[0], batch_size=3)
    batch = task.batch("train", 0)
    found = task.loss(torch.zeros(*batch.targets.shape), batch)
    assert int(found.count) == 209
    assert float(found.total) == pytest.approx(209 * 88 * np.log(2))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_baselines_count_keys(files, split):
    task = PolyphonicMusic(corpus=files[0], batch_size=2)
    frames = on = 0
    held, was, entered, was_not = np.zeros((4, 88))
    for piece in task.pieces["train"]:
        piece = piece.numpy()
        frames, on = frames + len(piece), on + piece.sum(0)
        for before, after in pairwise(piece):
            held, was = held + (before & after), was + before
            entered, was_not = entered + (~before & after), was_not + ~before
    probabilities = [(a + 0.5) / (b + 1) for a, b in ((on, frames), (held, was), (entered, was_not))]
    frequency, stay, enter = [np.log(p / (1 - p)) for p in probabilities]
    found = task.baselines(split)
    if split == "test":
        expected = naive_scores(task, split, lambda inputs: np.tile(frequency, (len(inputs), 1)))
        assert found["frequencies"] == pytest.approx(expected, rel=1e-4)
        expected = naive_scores(task, split, lambda inputs: np.where(inputs > 0, stay, enter))
        assert found["repeat"] == pytest.approx(expected, rel=1e-4)
    assert found["repeat"].keys() == task.metrics.keys()


def test_silent_pieces_have_finite_scores(tmp_path):
    silent = {split: [[[], []]] for split in _corpora.SPLITS}
    (tmp_path / "s.json").write_text(json.dumps(silent))
    task = PolyphonicMusic(corpus=str(tmp_path / "s.json"))
    assert all(np.isfinite(list(scores.values())).all() for scores in task.baselines("test").values())


@pytest.mark.parametrize("seq_len", [2, 50, 199, 200])
def test_training_pieces_are_divided_without_loss(files, seq_len):
    """The frames of the sequences are those of the pieces, each with the frame before it; the others stay whole."""
    task = PolyphonicMusic(corpus=files[0], seq_len=seq_len)
    sequences = task.sequences["train"]
    assert max(len(one) - 1 for one in sequences) <= seq_len
    assert torch.equal(torch.cat([one[1:] for one in sequences]), torch.cat(task.pieces["train"]))
    begun = torch.cat([torch.cat([torch.zeros(1, 88, dtype=torch.bool), one[:-1]]) for one in task.pieces["train"]])
    assert torch.equal(torch.cat([one[:-1] for one in sequences]), begun)
    assert [len(one) - 1 for one in task.sequences["test"]] == LENGTHS["test"]


def test_a_transposition_shifts_all_keys_alike_and_stays_on_the_keyboard(tmp_path):
    piece = [[50, 60, 64], [62], [], [40, 62]]
    (tmp_path / "a.json").write_text(json.dumps({split: [piece] * 400 for split in _corpora.SPLITS}))
    options = {"corpus": str(tmp_path / "a.json"), "batch_size": 400}
    task, plain = PolyphonicMusic(transpose=30, **options), PolyphonicMusic(**options)
    inputs = task.batch("train", 3).inputs
    shifts = set()
    for moved, fixed in zip(inputs.unbind(1), plain.batch("train", 3).inputs.unbind(1), strict=True):
        (by,) = {tuple(row) for row in (moved.nonzero() - fixed.nonzero()).tolist()}
        assert by[0] == 0
        shifts.add(by[1])
    assert shifts == set(range(-19, 31)), "note 40 may go down by 19 semitones, and 30 is the largest shift"
    assert not torch.equal(inputs, task.batch("train", 4).inputs)
    assert not torch.equal(inputs, PolyphonicMusic(1, transpose=30, **options).batch("train", 3).inputs)
    assert torch.equal(task.batch("test", 0).inputs, plain.batch("test", 0).inputs)
    edge = torch.zeros(2, 88, dtype=torch.bool)
    edge[:, [0, 87]] = True
    assert torch.equal(shifted(edge, 12, torch.Generator()), edge)


def test_generated_chorales_keep_the_rules():
    """Read off the frames: four voices in their ranges, triads on the root, cadences, one key, small steps."""
    scales = [(0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 11)]
    generator = torch.Generator().manual_seed(5)
    parallels = chords = 0
    for _ in range(12):
        piece = _chorales.chorale(generator)
        frames = [(one.nonzero().flatten() + 21).tolist() for one in piece]
        used = {note % 12 for frame in frames for note in frame}
        keys = [(t, s) for s in scales for t in range(12) if used <= {(t + step) % 12 for step in s}]
        assert keys, "all notes are in one scale"
        tonic = frames[-1][0] % 12
        assert frames[0][0] % 12 == tonic
        assert tonic in {key for key, _ in keys}
        assert frames[-1] == frames[-2]
        for low, high, voice in ((40, 60, 0), (60, 81, -1)):
            assert all(low <= frame[voice] <= high for frame in frames)
        for before, after in pairwise(frames):
            assert abs(after[-1] - before[-1]) <= 12
            full = len(before) == len(after) == 4
            chords += full
            parallels += full and any(
                a != b and (a - before[0]) % 12 == (b - after[0]) % 12 == gap
                for a, b in zip(before[1:], after[1:], strict=True)
                for gap in (0, 7)
            )
        held = [f for f, g in pairwise(frames) if f == g and f[0] % 12 == tonic]
        assert len(held) >= 4, "every phrase ends with the tonic, twice"
        assert all(len({(note - f[0]) % 12 for note in f}) == 3 for f in held), "with all notes of its triad"
    assert parallels / chords < 0.05


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.mat", b"", "is not a MATLAB file"),
        ("a.mat", b"no MATLAB at all" * 50, "is not a MATLAB file"),
        ("a.json", b"", "cannot be read"),
        ("a.json", b"[1, 2]", "cannot be read"),
        ("a.json", b'{"train": [[[60], [60]]]', "cannot be read"),
        ("a.json", b'{"train": [[[60], [60]]], "valid": 3, "test": []}', "cannot be read"),
        ("a.json", b'{"train": [[60, 60]], "valid": [], "test": []}', "cannot be read"),
        ("a.json", b"[" * 100_000, "cannot be read"),
        ("a.json", b'{"train": [], "valid": [], "test": []}', "no pieces in the split train"),
        ("a.json", b'{"train": [[[60]]], "valid": [[[60]]], "test": [[[60]]]}', "piece of 1 frames in train"),
        ("a.json", b'{"train": [[[60], [109]]], "valid": [], "test": []}', "note 109; .* from 21 to 108"),
        ("a.json", b'{"train": [[[60], [NaN]]], "valid": [], "test": []}', "note nan; .* from 21 to 108"),
        ("a.json.gz", b"\x1f\x8b\x08 not a gzip file", "cannot be decompressed"),
        ("a.txt", b"", "must be generated, one of jsb_quarter"),
    ],
)
def test_a_bad_file_is_refused_in_a_sentence(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        PolyphonicMusic(corpus=str(tmp_path / name)).batch("train", 0)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.full((3, 88), 0.5), "other values than 0 and 1"),
        (np.full((3, 88), np.nan), "other values than 0 and 1"),
        (np.zeros((3, 87)), r"shape \[3, 87\]"),
        (np.zeros((3, 88, 2)), r"shape \[3, 88, 2\]"),
        (np.array(["x" * 88] * 3), "must be a matrix"),
    ],
)
def test_a_bad_matrix_is_refused(tmp_path, value, says):
    path = tmp_path / "a.mat"
    cell = np.empty((1, 1), object)
    cell[0, 0] = value
    scipy.io.savemat(path, {"traindata": cell, "validdata": cell, "testdata": cell})
    with pytest.raises(InputError, match=says):
        PolyphonicMusic(corpus=str(path)).batch("train", 0)
    scipy.io.savemat(path, {"traindata": cell})
    with pytest.raises(InputError, match="no variable validdata"):
        PolyphonicMusic(corpus=str(path)).batch("train", 0)


def test_truncated_files_are_refused(files):
    for file in files:
        content = Path(file).read_bytes()
        for size in range(1, len(content), max(1, len(content) // 12)):
            with pytest.raises(InputError):
                _corpora.read(_cut(file, content[:size]), ".")


def _cut(file, content):
    path = Path(file).with_name(Path(file).name.replace("a.", "cut."))
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"corpus": "jsb"}, "must be generated, one of"),
        ({"corpus": "nowhere.mat"}, "is not a file"),
        ({"seq_len": 1}, "task.seq_len=1 must be at least 2"),
        ({"batch_size": 0}, "task.batch_size=0"),
        ({"transpose": -1}, "task.transpose=-1"),
        ({"tempo": 0.0}, "task.tempo=0.0 must be from 10"),
        ({"tempo": float("nan")}, "task.tempo=nan must be from 10"),
        ({"frames_per_quarter": 65}, "task.frames_per_quarter=65 must be from 1 to 64"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        PolyphonicMusic(**options).batch("train", 0)


def test_a_public_file_that_is_damaged_is_refused(tmp_path):
    (tmp_path / "jsb_chorales").mkdir()
    (tmp_path / "jsb_chorales" / "jsb-chorales-quarter.json").write_bytes(b"{}")
    with pytest.raises(InputError, match="delete it and download https://raw"):
        PolyphonicMusic(corpus="jsb_quarter", data_root=str(tmp_path)).batch("train", 0)


def test_the_public_corpora_are_the_published_ones(data_root):
    """Counts of pieces and frames; the two quarter-note files are equal."""
    quarter, mat = (PolyphonicMusic(corpus=name, data_root=data_root) for name in ("jsb_quarter", "jsb_mat"))
    assert [len(quarter.pieces[split]) for split in quarter.splits] == [229, 76, 77]
    assert [sum(map(len, quarter.pieces[split])) for split in quarter.splits] == [13807, 4602, 4725]
    assert quarter.data_digest() == mat.data_digest()
    piano = PolyphonicMusic(corpus="piano_midi", data_root=data_root)
    assert [sum(map(len, piano.pieces[split])) for split in piano.splits] == [75911, 8540, 19036]


@pytest.mark.slow
def test_every_quarter_note_piece_is_a_sixteenth_note_piece_at_every_fourth_frame(data_root):
    """Transposed, of the same split, except for few frames: the counts are those of the page on music."""
    quarter, fine = (PolyphonicMusic(corpus=name, data_root=data_root) for name in ("jsb_quarter", "jsb_sixteenth"))
    equal = 0
    for split in quarter.splits:
        sampled = [_normal(one[offset::4]) for one in fine.pieces[split] for offset in range(4)]
        for piece in map(_normal, quarter.pieces[split]):
            agreement = max(
                sum(a == b for a, b in zip(piece, one, strict=False)) / max(len(piece), len(one)) for one in sampled
            )
            assert agreement > 0.83
            equal += agreement == 1
    assert equal == 228


def _normal(piece):
    """The notes of each frame in semitones from the highest note of the first frame that is not silent."""
    frames = [frame.nonzero().flatten().tolist() for frame in piece]
    top = next(frame[-1] for frame in frames if frame)
    return [tuple(note - top for note in frame) for frame in frames]


def test_a_continuation_begins_with_what_was_given(files, tmp_path):
    task = PolyphonicMusic(corpus=files[0], frames_per_quarter=1)
    model = model_for(task)
    assert len(task.given("")) == 0
    assert torch.equal(task.given("test:0"), task.pieces["test"][0][:16])
    assert torch.equal(task.given("test:1"), task.pieces["test"][1][:1])
    assert torch.equal(task.given("train:1:150"), task.pieces["train"][1][:150])
    found = {sample.suffix: sample.data() for sample in task.generate(model, "test:0", 20, 0.8, 0, 3)}
    (tmp_path / "x.mid").write_bytes(found[".mid"])
    roll = task.given(str(tmp_path / "x.mid"))
    assert torch.equal(roll, task.continued(model, roll[:16], 20, 0.8, 0, 3))
    assert not torch.equal(roll, task.continued(model, roll[:16], 20, 0.8, 0, 4))
    assert torch.equal(roll[:16], task.pieces["test"][0][:16])
    with wave.open(io.BytesIO(found[".wav"])) as sound:
        assert sound.getnframes() / sound.getframerate() == pytest.approx(36 * 0.6 + 0.15)
    marks = [m for m in mido.MidiFile(file=io.BytesIO(found[".mid"])) if m.type == "marker"]
    assert len(marks) == 1


def test_generation_reads_the_prompt_as_the_forward_pass_does(files):
    """Greedy continuation equals the keys with positive outputs of a forward pass over the whole result."""
    task = PolyphonicMusic(corpus=files[0])
    model = model_for(task, seed=2)
    with torch.no_grad():  # far from 0, and neither silent nor constant
        model.readout.bias.copy_(0.2 * torch.randn(88))
        model.readout.weight.mul_(6)
    given = task.given("train:1:12")
    roll = task.continued(model, given, 25, 0.0, 0, 0)
    inputs = torch.cat([torch.zeros(1, 88), roll.float()])[:-1].unsqueeze(1)
    with torch.no_grad():
        hidden, _ = model.stack(inputs)
        outputs = model.readout(hidden)[:, 0]
    assert torch.equal(roll[12:], outputs[12:] > 0)
    assert roll[12:].any()


@pytest.mark.parametrize(
    ("prompt", "length", "says"),
    [
        ("test:9", 4, "the pieces of test are 0 to 1"),
        ("test:1:4", 4, "the piece has 3 frames; give 1 to 3"),
        ("test:1:0", 4, "give 1 to 3"),
        ("song.mid", 4, "is not a file; give a MIDI file, or a piece such as test:3"),
        ("", 0, "length must be at least 1"),
    ],
)
def test_a_bad_prompt_is_refused(files, prompt, length, says):
    task = PolyphonicMusic(corpus=files[0])
    with pytest.raises(InputError, match=says):
        task.generate(model_for(task), prompt, length, 1.0, 0, 0)
    with pytest.raises(InputError, match="out=FOLDER"):
        task.speaker(model_for(task), 1.0, 0, 0)


def test_samples_of_training_need_no_package(files, monkeypatch):
    task = PolyphonicMusic(corpus=files[0], tempo=1000)
    model = model_for(task)
    monkeypatch.setitem(sys.modules, "mido", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert [one.suffix for one in task.sample(model)] == [".wav"]
    with pytest.raises(InputError, match=r"rnnlab\[media\]"):
        task.generate(model, "", 4, 1.0, 0, 0)


@pytest.mark.slow
def test_the_commands_train_and_continue(files, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    options = ["task=polyphonic_music", f"task.corpus={files[0]}", "model.hidden_size=8", "trainer.steps=2"]
    assert main(["train", *options, "trainer.eval_every=2", f"run_dir={run}"]) == 0
    assert main(["generate", f"run={run}", "prompt=test:0", "length=8", f"out={out}"]) == 0
    assert main(["generate", f"run={run}", f"prompt={out}/sample.mid", "length=8", f"out={tmp_path}/more"]) == 0
    assert {one.suffix for one in out.iterdir()} == {".mid", ".wav", ".png"}
    (tmp_path / "bad.mid").write_bytes((out / "sample.mid").read_bytes()[:40])
    capsys.readouterr()
    assert main(["generate", f"run={run}", f"prompt={tmp_path}/bad.mid", f"out={tmp_path}/no"]) != 0
    assert "is not an intact MIDI file" in capsys.readouterr().err


def held_by_generation(steps, keep):
    """Memory of Python objects in bytes that is held after ``steps`` steps, after a warm-up."""
    torch.manual_seed(0)
    model = SequenceModel(Vectors(4), 4, find("gru"), hidden_size=4, backend="reference").eval()
    stream = generate(model, Bernoulli(4), torch.zeros(1, 1, 4), steps=50 + steps, temperature=1.0)
    for _ in range(50):
        next(stream)
    gc.collect()
    tracemalloc.start()
    kept = [frame for frame in stream if keep]
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == (steps if keep else 0)
    return held


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps_of_generation():
    """Five times as many steps need no more memory; the measurement sees frames that are kept."""
    short, long = (held_by_generation(steps, keep=False) for steps in (100, 500))
    assert long < short + 5000
    assert held_by_generation(500, keep=True) > short + 5000


@pytest.mark.slow
def test_a_hundred_thousand_steps_hold_the_state_of_one():
    """Also the memory of the process, which includes that of tensors."""
    torch.manual_seed(0)
    model = SequenceModel(Vectors(4), 4, find("gru"), hidden_size=4).eval()
    stream = generate(model, Bernoulli(4), torch.zeros(1, 1, 4), steps=102_000, temperature=1.0)
    for _ in range(2000):
        next(stream)
    before = resident()
    assert sum(1 for _ in stream) == 100_000
    assert resident() - before < 4 << 20, "a tensor of 4 numbers for each step would take 30 MB"


def resident():
    """Memory of the process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
