"""BVH files: a skeleton and its motion as text.

The format is described by M. Meredith and S. Maddock (2001), "Motion capture file formats explained".

A joint has channels: rotations in degrees about axes, applied from right to left in the order of the file, and for the
root also positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rnnlab.formats.skeleton import Motion, Skeleton, euler_angles, euler_matrices, numbers
from rnnlab.interface import InputError

_ORDER = "zxy"
"""Order of the rotations in the files that `write` makes."""


@dataclass
class _Tree:
    """The joints of a hierarchy, in the order of the file."""

    names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    offsets: list[list[float]] = field(default_factory=list)
    channels: list[list[str]] = field(default_factory=list)
    ends: dict[int, tuple[float, float, float]] = field(default_factory=dict)


def read(text: str, name: str = "the BVH file") -> Motion:
    """The motion in the text of a BVH file, with any line ends.

    Args:
        text: content of the file.
        name: name of the file for errors.

    Raises:
        InputError: the text is not a complete BVH file, or contains a value that is not a finite number.
    """
    head, found, motion = text.partition("MOTION")
    if head.lstrip("\ufeff").split()[:1] != ["HIERARCHY"] or not found:
        missing = "MOTION" if not found else "HIERARCHY"
        raise InputError(f"{name} has no section {missing}; give a BVH file, which starts with HIERARCHY")
    tree = _hierarchy(head.split()[1:], name)
    frames, frame_time = _frames(motion.splitlines(), sum(map(len, tree.channels)), name)
    rotations = np.empty((len(frames), len(tree.names), 3, 3))
    positions, column = np.zeros((len(frames), 3)), 0
    for joint, channels in enumerate(tree.channels):
        values = frames[:, column : column + len(channels)]
        column += len(channels)
        turns = [place for place, channel in enumerate(channels) if channel.endswith("rotation")]
        rotations[:, joint] = euler_matrices(values[:, turns], "".join(channels[place][0].lower() for place in turns))
        for place, channel in enumerate(channels) if joint == 0 else ():
            if channel.endswith("position"):
                positions[:, "XYZ".index(channel[0])] = values[:, place]
    positions += tree.offsets[0]
    skeleton = Skeleton(tuple(tree.names), tuple(tree.parents), np.array(tree.offsets), tree.ends)
    return Motion(skeleton, rotations, positions, frame_time)


def write(motion: Motion) -> str:
    """The text of a BVH file, with rotations in the order Z, X, Y and six decimals.

    `read` gives the same motion; the offset of the root becomes part of its positions.
    """
    skeleton = motion.skeleton
    lines = ["HIERARCHY"]
    order: list[int] = []

    def describe(joint: int, depth: int) -> None:
        order.append(joint)
        indent = "  " * depth
        turns = " ".join(f"{axis.upper()}rotation" for axis in _ORDER)
        channels = f"3 {turns}" if depth else f"6 Xposition Yposition Zposition {turns}"
        offset = skeleton.offsets[joint] if depth else np.zeros(3)
        lines.extend([f"{indent}{'JOINT' if depth else 'ROOT'} {skeleton.names[joint]}", f"{indent}{{"])
        lines.extend([f"{indent}  OFFSET {_join(offset)}", f"{indent}  CHANNELS {channels}"])
        children = [child for child, parent in enumerate(skeleton.parents) if parent == joint]
        for child in children:
            describe(child, depth + 1)
        if joint in skeleton.ends or not children:
            end = _join(skeleton.ends.get(joint, (0.0, 0.0, 0.0)))
            lines.extend([f"{indent}  End Site", f"{indent}  {{", f"{indent}    OFFSET {end}", f"{indent}  }}"])
        lines.append(f"{indent}}}")

    describe(0, 0)
    angles = euler_angles(motion.rotations[:, order], _ORDER).reshape(len(motion.rotations), -1)
    lines += ["MOTION", f"Frames: {len(angles)}", f"Frame Time: {motion.frame_time:.8f}"]
    return "\n".join([*lines, *map(_join, np.concatenate([motion.positions, angles], 1))])


def _join(values: object) -> str:
    return " ".join(f"{value:.6f}" for value in values)


def _hierarchy(words: list[str], name: str) -> _Tree:
    """The joints of the words between HIERARCHY and MOTION."""
    tree, rest = _Tree(), iter(words)
    open_joints: list[int] = []
    here: int | None = None  # the joint whose brace comes next; None for the end of a limb
    ending = False
    try:
        for word in rest:
            if word in ("ROOT", "JOINT"):
                tree.names.append(next(rest))
                tree.parents.append(open_joints[-1] if open_joints else -1)
                tree.offsets.append([0.0, 0.0, 0.0])
                tree.channels.append([])
                here = len(tree.names) - 1
            elif word == "End":
                next(rest)
                here = None
            elif word == "{":
                open_joints.append(open_joints[-1] if here is None else here)
                ending = here is None
            elif word == "}":
                open_joints.pop()
                ending = False
            elif word == "OFFSET":
                offset = numbers([next(rest) for _ in range(3)], f"{name}, OFFSET of {tree.names[open_joints[-1]]}")
                if ending:
                    tree.ends[open_joints[-1]] = tuple(offset)
                else:
                    tree.offsets[open_joints[-1]] = offset
            elif word == "CHANNELS":
                count = next(rest)
                channels = [next(rest) for _ in range(int(count) if count.isdigit() else 0)]
                tree.channels[open_joints[-1]] = channels
                _check_channels(channels, f"{name}, joint {tree.names[open_joints[-1]]}")
            else:
                raise InputError(f"{name}: {word!r} is not allowed in HIERARCHY; correct the file")
    except (StopIteration, IndexError) as error:
        raise InputError(f"{name}: the HIERARCHY is incomplete or its braces do not match; correct the file") from error
    if open_joints or not tree.names or tree.parents.count(-1) != 1:
        raise InputError(f"{name}: the HIERARCHY must have one ROOT and matching braces; correct the file")
    return tree


def _check_channels(channels: list[str], name: str) -> None:
    known = {f"{axis}{kind}" for axis in "XYZ" for kind in ("position", "rotation")}
    if not set(channels) <= known or len(set(channels)) < len(channels):
        raise InputError(f"{name}: CHANNELS {' '.join(channels)} must be distinct names such as Xposition or Zrotation")


def _frames(lines: list[str], columns: int, name: str) -> tuple[np.ndarray, float]:
    """The values ``[N, columns]`` of the lines after MOTION, and the seconds of a frame."""
    rows = [line.split() for line in lines if line.strip()]
    if len(rows) < 2 or rows[0][0] != "Frames:" or rows[1][:2] != ["Frame", "Time:"] or len(rows[1]) != 3:
        raise InputError(f"{name}: MOTION must start with the lines 'Frames: N' and 'Frame Time: SECONDS'")
    (frame_time,) = numbers(rows[1][2:], f"{name}, Frame Time")
    stated = numbers(rows[0][1:], f"{name}, Frames")
    if frame_time <= 0:
        raise InputError(f"{name}: Frame Time {frame_time} must be positive; correct the file")
    frames = rows[2:]
    if stated != [len(frames)] or not frames:
        raise InputError(f"{name}: it says Frames: {' '.join(rows[0][1:])}, but has {len(frames)}; get a complete file")
    for number, row in enumerate(frames, 1):
        if len(row) != columns:
            raise InputError(f"{name}: frame {number} has {len(row)} values, expected {columns}; get a complete file")
    return np.array([numbers(row, f"{name}, frame {number}") for number, row in enumerate(frames, 1)]), frame_time
