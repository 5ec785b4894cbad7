"""Motion: rotations against SciPy, the split, batches against a naive transcription, angles, generation, and files."""

import gzip
import io
import itertools
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation, Slerp

from rnnlab.cells import find
from rnnlab.contracts import check_task
from rnnlab.formats import bvh
from rnnlab.formats.skeleton import Motion as Clip
from rnnlab.formats.skeleton import joint_positions
from rnnlab.interface import InputError
from rnnlab.models.sequence_model import SequenceModel
from rnnlab.tasks.motion import _deepmimic, _files, _generated
from rnnlab.tasks.motion._clips import FRAME_TIME, Corpus, mirrored
from rnnlab.tasks.motion._features import frame_of, frames_of, walked
from rnnlab.tasks.motion._rotations import angle_of, exponential, from_six_numbers, logarithm, resample, six_numbers
from rnnlab.tasks.motion.motion import AHEAD, HORIZONS, Motion
from rnnlab.training.device import autocast
from rnnlab.training.evaluation import evaluate

DATA = Path(os.environ.get("RNNLAB_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def task():
    """One clip of each action in each split."""
    task = Motion(noise=0.05, mirror=False)
    task.data = task.data._replace(parts=tuple(part for part in task.data.parts if part.clip.endswith("_1")))
    return task


@pytest.fixture(scope="module")
def model(task):
    torch.manual_seed(0)
    return SequenceModel(task.input, task.output_size, find("gru"), hidden_size=8).eval()


def assert_close(found, expected, atol=1e-5, rtol=1e-4):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=atol, rtol=rtol)


def scipy_of(rotations):
    return Rotation.from_matrix(np.asarray(rotations, float).reshape(-1, 3, 3))


def test_rotation_vectors_and_angles_are_those_of_scipy():
    vectors = np.random.default_rng(0).normal(size=(200, 3))
    vectors *= np.random.default_rng(1).uniform(0, 2.9, (200, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[:3] = [[0, 0, 0], [1e-9, 0, 0], [0, -1e-4, 0]]
    rotations = exponential(torch.from_numpy(vectors))
    expected = Rotation.from_rotvec(vectors)
    np.testing.assert_allclose(rotations, expected.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(angle_of(rotations), expected.magnitude(), atol=1e-7)
    np.testing.assert_allclose(logarithm(rotations), expected.as_rotvec(), atol=1e-9)


def test_six_numbers_are_two_columns_and_any_six_numbers_are_a_rotation():
    rotations = torch.from_numpy(Rotation.random(50, random_state=0).as_matrix())
    assert_close(six_numbers(rotations)[3], torch.cat([rotations[3, :, 0], rotations[3, :, 1]]))
    assert_close(from_six_numbers(six_numbers(rotations)), rotations)
    found = from_six_numbers(torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    assert_close(found @ found.transpose(-1, -2), torch.eye(3, dtype=torch.float64).expand(50, 3, 3))
    assert_close(torch.linalg.det(found), torch.ones(50, dtype=torch.float64))


def test_resampling_is_spherical_interpolation():
    generator = np.random.default_rng(1)
    times = np.cumsum(generator.uniform(0.01, 0.09, 30))
    steps = Rotation.from_rotvec(generator.normal(size=(30, 3)) * 0.3)
    turns = [steps[0]]
    for step in steps[1:]:
        turns.append(turns[-1] * step)
    rotations = Rotation.concatenate(turns)
    positions = generator.normal(size=(30, 3))
    clip = Clip(None, rotations.as_matrix()[:, None], positions, 0.0)
    found = resample(clip, times, 0.04)
    wanted = times[0] + 0.04 * np.arange(len(found.positions))
    assert wanted[-1] <= times[-1] < wanted[-1] + 0.04
    np.testing.assert_allclose(found.rotations[:, 0], Slerp(times, rotations)(wanted).as_matrix(), atol=1e-12)
    expected = [np.interp(wanted, times, positions[:, axis]) for axis in range(3)]
    np.testing.assert_allclose(found.positions, np.transpose(expected), atol=1e-12)


def test_frames_and_steps_are_those_of_a_naive_transcription(task):
    clip = next(iter(task.data.clips.values()))
    rotations, positions = clip.rotations[:6], clip.positions[:6]
    frame, steps = frames_of(torch.from_numpy(rotations), torch.from_numpy(positions))
    vectors = frame.vector()
    for t in range(5):
        joints = [rotations[t, j] for j in range(1, 11)]
        six = [value for joint in joints for column in (0, 1) for value in joint[:, column]]
        up = rotations[t, 0].T @ [0, 1, 0]
        pairs = [
            (scipy_of(rotations[s, j]), scipy_of(rotations[s + 1, j])) for s in (t - 1, t) for j in range(11) if s >= 0
        ]
        turns = [(a.inv() * b).as_rotvec()[0] for a, b in pairs]
        moves = [rotations[s, 0].T @ (positions[s + 1] - positions[s]) for s in (t - 1, t) if s >= 0]
        last = np.concatenate([*turns[:11], moves[0]]) if t else np.zeros(36)
        np.testing.assert_allclose(vectors[t], [*six, *up, positions[t, 1], *last], atol=1e-9)
        np.testing.assert_allclose(steps[t], np.concatenate([*turns[-11:], moves[-1]]), atol=1e-9)


@pytest.mark.parametrize("frames", [2, 30, 100])
def test_the_steps_of_a_motion_lead_through_it(task, frames):
    """From its first frame, and the root anywhere: frames do not depend on place and direction."""
    clip = list(task.data.clips.values())[-1]
    rotations, positions = (torch.from_numpy(one[:frames]) for one in (clip.rotations, clip.positions))
    frame, steps = frames_of(rotations, positions)
    here, found = type(frame)(*(part[0] for part in frame)), []
    for step in steps:
        here = here.stepped(step)
        found.append(here.vector())
    again = frame_of(torch.stack(found), 11)
    turned, places = walked(again, Clip(clip.skeleton, clip.rotations[:1], clip.positions[:1], FRAME_TIME))
    assert_close(turned, rotations[1:])
    assert_close(places, positions[1:])
    turn = torch.from_numpy(Rotation.from_rotvec([0, 1.2, 0]).as_matrix())
    moved = frames_of(
        torch.cat([turn @ rotations[:, :1], rotations[:, 1:]], 1), positions @ turn.T + torch.tensor([3, 0, 1])
    )
    assert_close(moved[0].vector(), frame.vector())
    assert_close(moved[1], steps)


def test_a_disturbed_frame_leads_back_to_the_true_one(task):
    rotations, positions = next(iter(task.tensors.values()))
    noise = 0.1 * torch.randn(9, 11, 3, generator=torch.Generator().manual_seed(0))
    frame, steps = frames_of(rotations[:10], positions[:10], noise)
    after = frame.stepped(steps)
    assert_close(after.rotations, rotations[1:10, 1:], atol=1e-5, rtol=0)
    assert_close(after.up, rotations[1:10, 0, 1], atol=1e-5, rtol=0)
    assert_close(after.height, positions[1:10, 1:2], atol=1e-5, rtol=0)
    assert 0.1 < angle_of(frame.rotations.transpose(-1, -2) @ rotations[:9, 1:]).mean() < 0.25
    clean = frames_of(rotations[:10], positions[:10])[0]
    assert_close(frame.turns, clean.turns)


@pytest.mark.parametrize("seq_len", [20, 200])
def test_batches_are_windows_of_training_clips(seq_len):
    """Undisturbed inputs are a run of frames of one clip; clips have 100 frames, so that 200 steps do not fit."""
    task = Motion(noise=0.0, seq_len=seq_len, batch_size=5)
    batch = task.batch("train", 3)
    assert batch.lengths.tolist() == [min(seq_len, 99)] * 5
    trained = {name: frames_of(*task.tensors[name])[0] for name in task.trained}
    for b in range(5):
        frame = task.layout.frame(batch.inputs[:, b])
        fits = []
        for name, whole in trained.items():
            same = (whole.rotations - frame.rotations[:1]).abs().amax((1, 2, 3)) < 1e-4
            fits += [(name, int(start)) for start in same.nonzero().flatten()]
        ((name, start),) = fits
        expected = trained[name].rotations[start : start + len(batch.inputs)]
        assert_close(frame.rotations, expected, atol=1e-4, rtol=0)
    moved = batch.targets * task.layout.scale
    nexts = frame.stepped(torch.zeros(len(moved), 36).index_copy(1, task.layout.moving, moved[:, -1]))
    assert_close(nexts.rotations[:-1], frame.rotations[1:], atol=1e-4, rtol=0)


def test_short_clips_are_padded():
    task = Motion(noise=0.1, seq_len=30, batch_size=16)
    clips = dict(itertools.islice(task.data.clips.items(), 4))
    parts = tuple(part for part in task.data.parts if part.clip in clips)
    task.data = Corpus(clips, tuple(part._replace(end=0.12 if n == 1 else 1) for n, part in enumerate(parts)))
    batch = task.batch("train", 0)
    assert set(batch.lengths.tolist()) == {11, 30}
    scored = ~batch.targets.isnan().any(-1)
    assert torch.equal(scored.sum(0), batch.lengths)
    assert batch.inputs.isfinite().all()


def test_evaluation_windows_are_within_their_parts_and_do_not_touch_other_splits(task):
    for split in ("valid", "test"):
        inside = {part.clip: task.data.frames(part) for part in task.data.parts if part.split == split}
        for clip, start in task.windows[split]:
            assert start in inside[clip]
            assert start + task.prompt_steps + AHEAD - 1 in inside[clip]
    batches = [task.batch("test", step) for step in range(task.num_batches("test"))]
    assert sum(batch.batch_size for batch in batches) == len(task.windows["test"])


@pytest.mark.parametrize("parts", [_deepmimic.PARTS, *_files.CMU.values()])
def test_no_frame_is_in_two_splits(parts):
    for a, b in itertools.combinations(parts, 2):
        if a.clip == b.clip:
            assert a.end < b.start or b.end < a.start, f"{a} and {b} overlap or have no gap"
    assert len({(part.clip, part.split) for part in parts}) == len(parts)
    seen = {part.action for part in parts if part.split == "train"}
    assert {part.action for part in parts if part.split in ("valid", "test")} <= seen
    assert not seen & {part.action for part in parts if part.split == "unseen"}


def test_mirror_images_and_excerpts_are_in_the_split_of_their_original():
    splits = {}
    for part in _deepmimic.PARTS:
        splits.setdefault(part.clip, []).append(part)
    for clip, parts in splits.items():
        if clip.endswith("_mirror"):
            assert [part.split for part in parts] == [part.split for part in splits[clip.removesuffix("_mirror")]]
    for excerpt, original, first, last, count in (
        ("zombie_walk", "long_zombie", 684, 785, 1098),
        ("stealthy_walk", "stealthy_walk1", 672, 763, 1595),
    ):
        (part,) = splits[excerpt]
        assert any(p.split == part.split and p.start * count <= first < last <= p.end * count for p in splits[original])


def naive_angles(task, split, predicted):
    """Mean angle in degrees of all joints except the root at each horizon, with SciPy."""
    means = []
    for steps in HORIZONS.values():
        ends = [(clip, start + task.prompt_steps - 1 + steps) for clip, start in task.windows[split]]
        true = scipy_of(np.stack([task.data.clips[clip].rotations[end, 1:] for clip, end in ends]))
        found = scipy_of(np.stack([rotations[steps - 1] for rotations in predicted]))
        means.append(np.degrees((true.inv() * found).magnitude().mean()))
    return means


def test_baselines_and_scores_are_those_of_their_definitions(task):
    clips = [(task.data.clips[clip].rotations, start + task.prompt_steps - 1) for clip, start in task.windows["valid"]]
    still = naive_angles(task, "valid", [[r[last, 1:]] * AHEAD for r, last in clips])
    moving = []
    for r, last in clips:
        before, now = scipy_of(r[last - 1, 1:]), scipy_of(r[last, 1:])
        step = before.inv() * now
        moving.append([])
        for _ in range(AHEAD):
            now = now * step
            moving[-1].append(now.as_matrix())
    moving = naive_angles(task, "valid", moving)
    batches = [task.batch("valid", step).targets for step in range(task.num_batches("valid"))]
    steps = torch.cat([targets.flatten(0, 1) for targets in batches])
    steps = steps[~steps.isnan().any(1)].double()
    nats = 0.5 * (steps.square() + np.log(2 * np.pi)).sum(1).mean()
    found = task.baselines("valid")
    assert found["independent"]["loss"] == pytest.approx(float(nats), rel=1e-5)
    for name, expected in (("zero velocity", still), ("constant velocity", moving)):
        angles = [found[name][f"angle_{ms}"] for ms in HORIZONS]
        assert angles == pytest.approx(expected, rel=1e-4)
        assert found[name]["ratio"] == pytest.approx(max(a / b for a, b in zip(expected, still, strict=True)), rel=1e-4)


def test_the_true_motion_has_no_error(task):
    whole = [
        frames_of(*(torch.cat([one[s : s + 20], one[:1]]) for one in task.tensors[clip]))[0]
        for clip, s in task.windows["test"][::-1]
    ]
    written = [task.layout.inputs(frame)[10:20] for frame in whole][::-1]
    found = task.judge("test", written)
    assert max(found.values()) < 0.05
    lines = [line.split("\t") for line in task.transcripts("test", written)["angles.txt"].splitlines()]
    assert {line[0] for line in lines[1:]} == set(_generated.ACTIONS)
    assert all(float(value) < 0.05 for line in lines if line[2] == "model" for value in line[3:])


def test_evaluation_generates_from_the_given_frames(task, model):
    """Step by step, with the model's mean as the next step; angles with SciPy."""
    written = []
    with torch.inference_mode():
        for number in range(task.num_batches("valid")):
            batch = task.batch("valid", number)
            state = model.begin(batch_size=batch.batch_size)
            for one in batch.inputs[:10]:
                outputs, state = model.step(one, state)
            for _ in range(AHEAD):
                step = torch.zeros(len(one), 36)
                step[:, task.layout.moving] = outputs[:, : task.head.size] * task.layout.scale
                step = torch.minimum(torch.maximum(step, task.layout.low[:-1]), task.layout.high[:-1])
                one = task.layout.inputs(task.layout.frame(one).stepped(step))
                written.append((number, task.layout.frame(one).rotations))
                outputs, state = model.step(one, state)
    batches = [[frames for owner, frames in written if owner == number] for number in range(task.num_batches("valid"))]
    predicted = torch.cat([torch.stack(frames, 1) for frames in batches]).numpy()
    expected = naive_angles(task, "valid", predicted)
    found = evaluate(model, task, "valid", torch.device("cpu"), autocast(torch.device("cpu"), "fp32")).values
    assert [found[f"angle_{ms}"] for ms in HORIZONS] == pytest.approx(expected, rel=1e-3)
    still = task.baselines("valid")["zero velocity"]
    ratios = [angle / still[f"angle_{ms}"] for ms, angle in zip(HORIZONS, expected, strict=True)]
    assert found["ratio"] == pytest.approx(max(ratios), rel=1e-3)


def test_a_continued_motion_ends_where_its_steps_lead(task, model):
    """The root adds up its steps, in the frame of the root, from the last given frame."""
    given = task._cut(next(iter(task.data.clips.values())), 0, 12)
    whole = task.continued(model, given, 30)
    frame, _ = frames_of(torch.from_numpy(whole.rotations), torch.from_numpy(whole.positions))
    low, high = task.layout.low[:-1].reshape(-1, 3) - 1e-3, task.layout.high[:-1].reshape(-1, 3) + 1e-3
    assert (frame.turns[12:] > low[:-1]).all()
    assert (frame.turns[12:] < high[:-1]).all()
    assert (frame.move[12:, ::2] > low[-1, ::2] - 0.05).all(), "the height is limited, so that moves differ a little"
    assert (frame.move[12:, ::2] < high[-1, ::2] + 0.05).all()
    np.testing.assert_array_equal(whole.positions[:12], given.positions)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_long_generation_stays_a_figure(task, model, temperature):
    given = next(iter(task.data.clips.values()))
    whole = task.continued(model, given, 200, temperature=temperature, seed=3)
    assert len(whole.rotations) == 300
    identity = whole.rotations.swapaxes(-1, -2) @ whole.rotations
    assert np.abs(identity - np.eye(3)).max() < 1e-5
    assert np.linalg.det(whole.rotations).min() > 0.999
    assert np.isfinite(whole.positions).all()
    height = whole.positions[100:, 1]
    assert task.layout.low[-1] - 1e-5 < height.min() < height.max() < task.layout.high[-1] + 1e-5
    again = task.continued(model, given, 9, temperature=temperature, seed=4)
    assert np.allclose(whole.rotations[:109], again.rotations, atol=1e-6) == (temperature == 0)


def test_a_mirror_image_by_hand():
    clip = next(iter(_generated.corpus().clips.values()))
    image = mirrored(clip)
    (points, _), (reflected, _) = joint_positions(clip), joint_positions(image)
    sides = clip.skeleton.names
    for joint, name in enumerate(sides):
        swapped = name.translate(str.maketrans({})).replace("left", "?").replace("right", "left").replace("?", "right")
        np.testing.assert_allclose(reflected[:, sides.index(swapped)], points[:, joint] * [1, 1, -1], atol=1e-12)
    np.testing.assert_allclose(mirrored(image).rotations, clip.rotations, atol=1e-12)
    one_sided = Clip(clip.skeleton.__class__(("a", "b"), (-1, 0), np.zeros((2, 3)), {}), None, None, 0.04)
    with pytest.raises(InputError, match=r"task\.mirror=true"):
        mirrored(one_sided)


def test_files_are_written_for_a_clip_and_for_the_users_file(task, model, tmp_path):
    first = task.generate(model, "walk_train_2", 7, 0.5, 0, 1)
    assert [sample.suffix for sample in first] == [".bvh", ".gif"]
    clip = bvh.read(first[0].content)
    assert clip.frame_time == FRAME_TIME
    order = [clip.skeleton.names.index(name) for name in task.layout.skeleton.names]
    np.testing.assert_allclose(clip.rotations[:25, order], task.data.clips["walk_train_2"].rotations[:25], atol=1e-6)
    picture = Image.open(io.BytesIO(first[1].content))
    assert (picture.n_frames, picture.info["duration"]) == (32, 40)
    darkest = []
    for number in (0, 24, 25, 31):
        picture.seek(number)
        darkest.append(int(np.array(picture.convert("L")).min()))
    assert darkest[0] == darkest[1] > darkest[2] == darkest[3], "given frames are grey"
    path = tmp_path / "mine.bvh"
    path.write_text(first[0].content)
    fresh = Motion(data_root="nowhere", corpus="deepmimic")  # a trained model needs no data to continue a file
    fresh.restore(task.memory())
    again = fresh.generate(model, str(path), 3, 0.0, 0, 0)
    assert len(bvh.read(again[0].content).rotations) == 35
    assert task.generate(model, str(path), 3, 0.0, 0, 0) == again


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.bvh", None, "is not a file"),
        ("moonwalk", None, "neither the path of a .bvh file nor one of the clips"),
        ("other.bvh", lambda text: text.replace("left_knee", "tail"), "expected root, chest, neck"),
        ("nan.bvh", lambda text: text.rsplit(" ", 1)[0] + " nan", "is not a finite number"),
        ("short.bvh", lambda text: text.replace("Frames: 25", "Frames: 1").rsplit("\n", 24)[0], "has 1 frame"),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_refused(task, model, tmp_path, name, text, message):
    if text:
        written = bvh.write(task._cut(next(iter(task.data.clips.values())), 0, 25))
        (tmp_path / name).write_text(text(written))
    prompt = str(tmp_path / name) if name.endswith(".bvh") else name
    with pytest.raises(InputError) as caught:
        task.generate(model, prompt, 3, 0.0, 0, 0)
    assert message in str(caught.value)


def test_options_that_cannot_be_are_refused(task, model, monkeypatch):
    for name, value in (("held_out", "joints"), ("noise", -1.0), ("seed_frames", 0), ("components", 0), ("seq_len", 0)):
        with pytest.raises(InputError, match=rf"task\.{name}="):
            Motion(**{name: value})
    with pytest.raises(InputError, match="out=FOLDER"):
        task.speaker(model, 1.0, 0, 0)
    with pytest.raises(InputError, match="top_k=3"):
        task.generate(model, "", 3, 1.0, 3, 0)
    with pytest.raises(InputError, match=r"task\.corpus='waltz' is not a folder"):
        _ = Motion(corpus="waltz").data
    with pytest.raises(InputError, match="shorter than a window of 510 frames"):
        _ = Motion(seed_frames=500).windows
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    assert [sample.suffix for sample in task.sample(model)] == [".bvh"]
    with pytest.raises(InputError, match=r"pip install 'rnnlab\[media\]'"):
        task.generate(model, "", 3, 1.0, 0, 0)


def test_actions_that_are_not_in_training_are_a_test_set():
    task = Motion(held_out="actions")
    names = {part.split: {p.action for p in task.data.parts if p.split == part.split} for part in task.data.parts}
    assert names["test"] == set(_generated.UNSEEN)
    assert names["train"] == set(_generated.ACTIONS)
    assert "test: 4 clips, 16.0 s: dance 6, dance 7" in task.describe()
    mixed = Motion(components=3)
    assert mixed.head.features == 3 * (1 + 2 * mixed.head.size)


def frame_text(count, **changed):
    """A clip of DeepMimic as JSON: the root moves by 1 per second, joints turn about z."""
    frames = []
    for n in range(count):
        turn = [np.cos(0.05 * n), 0, 0, np.sin(0.05 * n)]
        frames.append(
            [0.02, 0.02 * n, 1, 0, *turn, *turn, *turn, *turn, 0.1 * n, *turn, *turn, 0, *turn, 0, *turn, *turn, 0]
        )
    return json.dumps({"Loop": "none", "Frames": frames, **changed})


CLIP = frame_text(80)


def archive(changes=None):
    """An archive in the layout of DeepMimic, with short clips."""
    joints = [{"Name": "root", "Type": "none", "Parent": -1}]
    kinds = "spherical spherical spherical revolute spherical spherical revolute fixed spherical revolute spherical"
    for n, kind in enumerate(f"{kinds} spherical revolute fixed".split()):
        joints.append({"Name": f"joint{n}", "Type": kind, "Parent": [0, 1, 0, 3, 4, 1, 6, 7, 0, 9, 10, 1, 12, 13][n]})
    joints = [{**joint, **{f"Attach{axis}": 0.1 for axis in "XYZ"}} for joint in joints]
    bodies = [{"ID": 2, **{f"Attach{axis}": 0.2 for axis in "XYZ"}}]
    files = {"data/characters/humanoid3d.txt": json.dumps({"Skeleton": {"Joints": joints}, "BodyDefs": bodies})}
    for part in _deepmimic.PARTS:
        folder = "motions/long/" if part.clip.startswith(_deepmimic.LONG) else "motions/"
        files[f"data/{folder}humanoid3d_{part.clip}.txt"] = CLIP
    files.update(changes or {})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=0) as target:
        for name, text in files.items():
            info = tarfile.TarInfo(f"DeepMimic/{name}")
            info.size = len(text)
            target.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def installed(content, root):
    (root / "deepmimic").mkdir(exist_ok=True)
    (root / "deepmimic" / _deepmimic.ARCHIVE).write_bytes(content)
    return _deepmimic.read(str(root))


def test_the_numbers_of_a_deepmimic_clip(tmp_path):
    corpus = installed(archive(), tmp_path)
    clip = corpus.clips["dance_a"]
    assert len(clip.positions) == 40, "79 steps of 0.02 s are 39 steps of 0.04 s"
    names = clip.skeleton.names
    assert len(names) == 13
    expected = Rotation.from_rotvec([[0, 0, 2 * 0.05 * 2 * n] for n in range(40)]).as_matrix()
    np.testing.assert_allclose(clip.rotations[:, 5], expected, atol=1e-9)
    knee = Rotation.from_rotvec([[0, 0, 0.1 * 2 * n] for n in range(40)]).as_matrix()
    np.testing.assert_allclose(clip.rotations[:, 4], knee, atol=1e-9)
    np.testing.assert_allclose(clip.positions[:, 0], 0.04 * np.arange(40), atol=1e-12)
    assert clip.skeleton.ends[2] == (0.4, 0.4, 0.4)
    with tarfile.open(fileobj=io.BytesIO(archive())) as packed:
        packed.extractall(tmp_path, filter="data")
    (tmp_path / "deepmimic" / _deepmimic.ARCHIVE).unlink()
    (tmp_path / "DeepMimic" / "data").rename(tmp_path / "deepmimic" / "data")  # a clone instead of the archive
    np.testing.assert_array_equal(_deepmimic.read(str(tmp_path)).clips["dance_a"].rotations, clip.rotations)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: archive()[:-2000], "cannot be read"),
        (lambda: b"PK\x03\x04", "cannot be read"),
        (lambda: archive({"../../../etc/passwd": "x"}), "outside its folder"),
        (lambda: archive({"data/motions/humanoid3d_spin.txt": frame_text(5)[:-4]}), "is not JSON"),
        (lambda: archive({"data/motions/humanoid3d_spin.txt": "{}"}), "no valid Frames"),
        (lambda: archive({"data/motions/humanoid3d_spin.txt": frame_text(1)}), r"expected two or more of 44 finite"),
        (lambda: archive({"data/motions/humanoid3d_spin.txt": frame_text(5).replace("0.04,", "NaN,")}), "44 finite"),
        (lambda: archive({"data/motions/humanoid3d_spin.txt": frame_text(5).replace("[0.02,", "[-1,")}), "duration"),
        (lambda: archive({"data/motions/humanoid3d_spin.txt": frame_text(5).replace("1.0", "0.0")}), "quaternion"),
        (lambda: archive({"data/characters/humanoid3d.txt": "{}"}), "is not a character"),
    ],
)
def test_a_damaged_archive_is_refused_in_one_sentence(content, message, tmp_path):
    with pytest.raises(InputError, match="deepmimic-motions") as caught:
        installed(content(), tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_corpus_says_where_to_get_it(tmp_path):
    with pytest.raises(InputError, match="git clone"):
        _ = Motion(data_root=str(tmp_path), corpus="deepmimic").data
    with pytest.raises(InputError, match="contains cmu_mocap/"):
        _ = Motion(data_root=str(tmp_path), corpus="cmu_amc").data


def test_a_folder_of_bvh_files_is_a_corpus(tmp_path):
    clips = list(_generated.corpus().clips.values())
    for n, clip in enumerate(clips[:2]):
        longer = Clip(
            clip.skeleton, np.concatenate([clip.rotations] * 2), np.concatenate([clip.positions] * 2), FRAME_TIME
        )
        (tmp_path / f"dance{n}.bvh.gz").write_bytes(gzip.compress(bvh.write(longer).replace("\n", "\r\n").encode()))
    task = Motion(corpus=str(tmp_path), mirror=True)
    assert task.splits == ("train", "valid", "test")
    assert {part.clip for part in task.data.parts} == {"dance0", "dance1", "dance0 mirrored", "dance1 mirrored"}
    assert {part.split for part in task.data.parts if "mirrored" in part.clip} == {"train"}
    assert task.batch("test", 0).inputs.shape == (19, 2 * 9, task.input.size)
    with pytest.raises(InputError, match="held_out=actions"):
        _ = Motion(corpus=str(tmp_path), held_out="actions").data
    (tmp_path / "dance0.bvh.gz").write_bytes((tmp_path / "dance0.bvh.gz").read_bytes()[:-200])
    with pytest.raises(InputError, match=r"dance0\.bvh\.gz cannot be read"):
        _ = Motion(corpus=str(tmp_path)).data
    (tmp_path / "dance0.bvh.gz").write_text("")
    (tmp_path / "dance0.bvh.gz").unlink()
    (tmp_path / "still.bvh").write_text(bvh.write(task._cut(clips[0], 0, 1)).replace("chest", "trunk"))
    with pytest.raises(InputError, match="clip still has other joints than dance1"):
        _ = Motion(corpus=str(tmp_path)).data


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"components": 2, "mirror": True, "held_out": "actions"}])
def test_the_contract_holds(options):
    check_task(Motion, **options)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "deepmimic").is_dir(), reason="needs the clips of DeepMimic")
def test_mirror_images_and_excerpts_of_deepmimic_are_what_the_split_says():
    corpus = _deepmimic.read(str(DATA))
    for name in ("long_walk1", "long_walk2", "long_walk3"):
        image = mirrored(corpus.clips[name])
        np.testing.assert_allclose(image.rotations, corpus.clips[f"{name}_mirror"].rotations, atol=1e-4)
    path = DATA / "deepmimic" / _deepmimic.ARCHIVE
    files = {name.split("3d_")[-1]: text for name, text in _deepmimic._members(path.read_bytes(), "").items()}
    for excerpt, original, first, last in (
        ("zombie_walk", "long_zombie", 684, 785),
        ("stealthy_walk", "stealthy_walk1", 672, 763),
    ):
        short, whole = (np.array(json.loads(files[f"{name}.txt"])["Frames"])[:, 8:] for name in (excerpt, original))
        count = last - first + 1
        assert len(short) - count in (0, 5), "stealthy_walk ends with five frames that close its loop"
        np.testing.assert_allclose(np.abs(short[:count]), np.abs(whole[first : last + 1]), atol=1e-4)  # q and -q
    check_task(Motion, data_root=str(DATA), corpus="deepmimic")


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "cmu_mocap").is_dir(), reason="needs clips of the CMU database")
@pytest.mark.parametrize(("corpus", "joints", "metre"), [("cmu_amc", 31, 17.5), ("cmu_bvh", 43, 100.0)])
def test_the_cmu_clips_show_a_person(corpus, joints, metre):
    task = Motion(data_root=str(DATA), corpus=corpus)
    for clip in task.data.clips.values():
        points, _ = joint_positions(clip)
        assert points.shape[1] > joints == len(clip.skeleton.names)
        tall = np.ptp(points[..., 1], 1) / metre
        assert 0.9 < tall.min() < tall.max() < 2.2, "from bent forward to arms raised, in metres"
    check_task(Motion, data_root=str(DATA), corpus=corpus)
