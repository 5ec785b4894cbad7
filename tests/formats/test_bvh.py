"""BVH files: rotations and positions against SciPy and a naive transcription, round trips, and bad input."""

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rnnlab.formats import bvh
from rnnlab.formats.skeleton import Motion, Skeleton, euler_angles, euler_matrices, joint_positions
from rnnlab.interface import InputError

ORDERS = ["".join(order) for order in itertools.permutations("xyz")]

TWO_BONES = """HIERARCHY
ROOT hip
{
  OFFSET 1 0 0
  CHANNELS 6 Xposition Yposition Zposition Yrotation Zrotation Xrotation
  JOINT knee
  {
    OFFSET 0 -2 0
    CHANNELS 1 Zrotation
    End Site
    {
      OFFSET 0 -1 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.04
0 5 0 0 0 0 90
0 5 2 90 0 0 0
"""


@pytest.mark.parametrize("order", ORDERS)
def test_rotations_are_those_of_scipy_in_every_order(order):
    angles = np.random.default_rng(1).uniform(-180, 180, (40, 3))
    expected = Rotation.from_euler(order.upper(), angles, degrees=True)  # upper case: intrinsic, first leftmost
    found = euler_matrices(angles, order)
    np.testing.assert_allclose(found, expected.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(euler_angles(found, order), expected.as_euler(order.upper(), degrees=True), atol=1e-7)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("middle", [-90, 90])
def test_angles_in_gimbal_lock_give_the_same_rotation(order, middle):
    rotations = euler_matrices(np.array([[20.0, middle, 70.0], [-100.0, middle, 0.0]]), order)
    np.testing.assert_allclose(euler_matrices(euler_angles(rotations, order), order), rotations, atol=1e-7)


def test_positions_of_a_figure_by_hand():
    points, bones = joint_positions(bvh.read(TWO_BONES))
    # The knee is 2 below the hip. In the first frame it bends by 90 degrees about z, so that the shin points to x.
    np.testing.assert_allclose(points[0], [[1, 5, 0], [1, 3, 0], [2, 3, 0]], atol=1e-12)
    np.testing.assert_allclose(points[1], [[1, 5, 2], [1, 3, 2], [1, 2, 2]], atol=1e-12)
    assert bones == [(0, 1), (1, 2)]


def figure(generator, joints, frames):
    """A random skeleton and motion; a parent comes before its children."""
    parents = (-1, *(int(generator.integers(joint)) for joint in range(1, joints)))
    offsets = generator.normal(size=(joints, 3)) * (np.arange(joints) > 0)[:, None]
    ends = {joint: tuple(generator.normal(size=3)) for joint in range(joints) if joint not in parents}
    rotations = Rotation.random(frames * joints, random_state=int(generator.integers(1000))).as_matrix()
    skeleton = Skeleton(tuple(f"joint{joint}" for joint in range(joints)), parents, offsets, ends)
    return Motion(skeleton, rotations.reshape(frames, joints, 3, 3), generator.normal(size=(frames, 3)), 0.04)


def naive_position(motion, frame, joint):
    """The position of a joint by recursion to the root, with 4 x 4 matrices."""
    transform = np.eye(4)
    while joint >= 0:
        local = np.eye(4)
        local[:3, :3] = motion.rotations[frame, joint]
        local[:3, 3] = motion.skeleton.offsets[joint] if joint else motion.positions[frame]
        transform = local @ transform
        joint = motion.skeleton.parents[joint]
    return transform[:3, 3]


@pytest.mark.parametrize(("joints", "frames"), [(1, 1), (4, 3), (20, 2)])
def test_positions_are_those_of_a_naive_transcription(joints, frames):
    motion = figure(np.random.default_rng(joints), joints, frames)
    points, _ = joint_positions(motion)
    expected = [[naive_position(motion, frame, joint) for joint in range(joints)] for frame in range(frames)]
    np.testing.assert_allclose(points[:, :joints], expected, atol=1e-12)


@pytest.mark.parametrize(("joints", "frames"), [(1, 1), (6, 5), (17, 200)])
def test_a_written_file_reads_again(joints, frames):
    motion = figure(np.random.default_rng(joints), joints, frames)
    again = bvh.read(bvh.write(motion))
    order = [again.skeleton.names.index(name) for name in motion.skeleton.names]
    difference = Rotation.from_matrix((motion.rotations.swapaxes(-1, -2) @ again.rotations[:, order]).reshape(-1, 3, 3))
    assert np.degrees(difference.magnitude()).max() < 1e-4
    np.testing.assert_allclose(again.positions, motion.positions, atol=1e-6)
    np.testing.assert_allclose(again.skeleton.offsets[order], motion.skeleton.offsets, atol=1e-6)
    for name, parent in zip(again.skeleton.names, again.skeleton.parents, strict=True):
        expected = motion.skeleton.parents[motion.skeleton.names.index(name)]
        assert parent == expected == -1 or again.skeleton.names[parent] == motion.skeleton.names[expected]
    assert again.frame_time == motion.frame_time
    third = bvh.read(bvh.write(again))
    assert np.abs(third.rotations - again.rotations).max() < 1e-7


def test_line_ends_and_spaces_do_not_matter():
    expected = bvh.read(TWO_BONES)
    for text in (TWO_BONES.replace("\n", "\r\n"), TWO_BONES.replace("Frames: 2", "Frames:\t2"), "\ufeff" + TWO_BONES):
        np.testing.assert_array_equal(bvh.read(text).rotations, expected.rotations)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("MOTION", "", "no section MOTION"),
        ("HIERARCHY", "", "no section HIERARCHY"),
        ("Frames: 2", "Frames: 3", "says Frames: 3, but has 2"),
        ("0 5 2 90 0 0 0", "0 5 2 90 0 0", "frame 2 has 6 values, expected 7"),
        ("0 5 2 90 0 0 0", "0 5 2 nan 0 0 0", "frame 2: 'nan' is not a finite number"),
        ("0 5 2 90 0 0 0", "0 5 2 left 0 0 0", "'left' is not a finite number"),
        ("0.04", "-0.04", "Frame Time -0.04 must be positive"),
        ("Frame Time: 0.04", "Frame rate 25", "MOTION must start with"),
        ("OFFSET 0 -2 0", "OFFSET 0 -2", "OFFSET of knee: 'CHANNELS' is not a finite number"),
        ("CHANNELS 1 Zrotation", "CHANNELS 1 Wrotation", "joint knee: CHANNELS Wrotation"),
        ("CHANNELS 1 Zrotation", "CHANNELS one Zrotation", "'Zrotation' is not allowed in HIERARCHY"),
        ("}\nMOTION", "MOTION", "one ROOT and matching braces"),
        ("JOINT knee\n  {", "JOINT knee", "HIERARCHY"),
        ("ROOT hip", "ROOT", "HIERARCHY"),
        ("JOINT", "LIMB", "'LIMB' is not allowed in HIERARCHY"),
    ],
)
def test_a_malformed_file_is_refused_in_one_sentence(old, new, message):
    assert old in TWO_BONES
    with pytest.raises(InputError, match=r"dance\.bvh") as caught:
        bvh.read(TWO_BONES.replace(old, new), "dance.bvh")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
