"""ASF and AMC files: positions against a naive transcription of the format's equations, and bad input."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rnnlab.formats import asf
from rnnlab.formats.skeleton import joint_positions
from rnnlab.interface import InputError

ASF = """# comment
:version 1.10
:units
  mass 1.0
  angle deg
:root
   order TX TY TZ RX RY RZ
   axis XYZ
   position 0 0 0
   orientation 0 0 0
:bonedata
  begin
     id 1
     name thigh
     direction 0.6 -0.8 0
     length 2
     axis 10 20 30 XYZ
    dof rx ry rz
    limits (-160.0 20.0)
           (-70.0 70.0)
           (-60.0 70.0)
  end
  begin
     id 2
     name shin
     direction 0 -1 0
     length 3
     axis 0 45 -20 ZYX
    dof rz rx
  end
  begin
     id 3
     name foot
     direction 0 0 1
     length 1
     axis 0 0 0 XYZ
  end
:hierarchy
  begin
    root thigh
    thigh shin
    shin foot
  end
"""
AMC = """#!OML:ASF
:FULLY-SPECIFIED
:DEGREES
1
root 1 2 3 10 20 30
thigh 15 -25 35
shin 50 5
2
root 1.5 2 3 -100 20 80
shin 0 0
thigh 1 2 3
"""
AXES = {"thigh": ("XYZ", [10, 20, 30]), "shin": ("ZYX", [-20, 45, 0]), "foot": ("XYZ", [0, 0, 0])}
"""Axes with their angles in the order of the letters; a file gives the angles as x, y, z."""
BONES = {"thigh": np.array([1.2, -1.6, 0]), "shin": np.array([0, -3.0, 0]), "foot": np.array([0, 0, 1.0])}


def turned(order, angles):
    """Rotations about fixed axes, one after the other: SciPy's extrinsic angles (lower case)."""
    return Rotation.from_euler(order.lower(), angles, degrees=True).as_matrix()


@pytest.mark.parametrize(
    ("frame", "root", "angles"),
    [
        (0, ([1, 2, 3], [10, 20, 30]), {"thigh": [15, -25, 35], "shin": [50, 0, 5], "foot": [0, 0, 0]}),
        (1, ([1.5, 2, 3], [-100, 20, 80]), {"thigh": [1, 2, 3], "shin": [0, 0, 0], "foot": [0, 0, 0]}),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_positions_are_those_of_the_equations(frame, root, angles, end):
    """The shin has the axis ZYX: z first; its values in the file are z, then x."""
    motion = asf.read(ASF.replace("\n", end), AMC.replace("\n", end))
    points, bones = joint_positions(motion)
    place, world, expected = np.array(root[0], float), turned("XYZ", root[1]), []
    for name in ("thigh", "shin", "foot"):
        expected.append(place)
        order, axis = AXES[name]
        frame_of_bone = turned(order, axis)
        world = world @ frame_of_bone @ turned(order, angles[name]) @ np.linalg.inv(frame_of_bone)
        place = place + world @ BONES[name]
    np.testing.assert_allclose(points[frame, 1:4], expected, atol=1e-12)
    np.testing.assert_allclose(points[frame, 4], place, atol=1e-12)
    assert motion.skeleton.names == ("root", "thigh", "shin", "foot")
    assert bones[-1] == (3, 4)
    assert motion.frame_time == 1 / 120


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (":hierarchy", ":tree", "no section :hierarchy"),
        ("order TX TY TZ RX RY RZ", "order TX TY TZ", "a root with order 'TX TY TZ'"),
        ("angle deg", "angle rad", "only degrees and 0 are possible"),
        ("orientation 0 0 0", "orientation 0 90 0", "only degrees and 0 are possible"),
        ("length 3", "length three", "bone shin: 'three' is not a finite number"),
        ("direction 0 -1 0", "direction 0 -1", "bone shin: direction needs 3 numbers"),
        ("     length 2\n", "", "a bone without 'length'"),
        ("length 2", "length 2 2", "bone thigh: direction needs 3 numbers, length 1"),
        ("dof rz rx", "dof rz l", "bone shin: dof rz l must be rx, ry or rz"),
        ("thigh shin\n", "hip shin\n", "no valid place for bone shin below hip"),
    ],
)
def test_a_malformed_skeleton_is_refused(old, new, message):
    assert old in ASF
    with pytest.raises(InputError) as caught:
        asf.read(ASF.replace(old, new), AMC)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("shin 50 5", "shin 50", "frame 1: bone shin has 1 values, expected 2 values once"),
        ("shin 50 5\n", "", "frame 1 has no values of bone shin"),
        ("thigh 1 2 3\n", "", "frame 2 has no values of bone thigh"),
        ("shin 50 5", "shin 50 nan", "frame 1, bone shin: 'nan' is not a finite number"),
        ("shin 50 5", "arm 50 5", "bone arm has 2 values, not a bone of the ASF file"),
        ("shin 50 5", "shin 50 5\nshin 50 5", "bone shin has 2 values, expected 2 values once"),
        (AMC, "#!OML\n", "has no frames"),
    ],
)
def test_a_malformed_motion_is_refused(old, new, message):
    assert old in AMC
    with pytest.raises(InputError, match=r"07\.amc") as caught:
        asf.read(ASF, AMC.replace(old, new), "07.amc")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
