"""ASF and AMC files: a skeleton and its motion, as in the CMU Graphics Lab Motion Capture Database.

The format is described by M. Meredith and S. Maddock (2001), "Motion capture file formats explained".

A bone b starts at the end of its parent p. With the rotation C of the ``axis`` of a bone, and M of its ``dof`` values:

    G_b = G_p C M C⁻¹
    end_b = end_p + G_b direction_b length_b

so that ``C M C⁻¹`` is the rotation of a joint at the start of the bone, relative to the rest pose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rnnlab.formats.skeleton import Motion, Skeleton, euler_matrices, numbers
from rnnlab.interface import InputError

FRAME_TIME = 1 / 120
"""Seconds of a frame of the CMU database; an AMC file does not state it."""


@dataclass
class _Bone:
    """The lines of a bone: ``axis`` and ``dof`` have the letters x, y and z in their order in the file."""

    end: np.ndarray
    angles: np.ndarray
    axis: str
    dof: tuple[str, ...] = ()


def read(asf: str, amc: str, name: str = "the AMC file") -> Motion:
    """The motion in the texts of an ASF and an AMC file, with any line ends; lengths are in the unit of the files.

    Each bone becomes a joint at its start, with the name of the bone.

    Args:
        asf: the skeleton.
        amc: the motion.
        name: name of the AMC file for errors.

    Raises:
        InputError: a file is incomplete, contains a value that is not a finite number, or the files do not match.
    """
    sections = _sections(asf)
    order, axis = _root(sections)
    bones = {"root": _Bone(np.zeros(3), np.zeros(3), axis, order), **_bones(sections.get("bonedata", []))}
    parents = _parents(sections.get("hierarchy", []), bones)
    names = list(parents)
    frames = _frames(amc, {one: bones[one].dof for one in names}, name)
    count = len(frames["root"])
    rotations, positions = np.empty((count, len(names), 3, 3)), np.zeros((count, 3))
    for joint, one in enumerate(names):
        bone, values = bones[one], frames[one]
        turns = np.zeros((count, 3))  # a missing angle is 0
        for place, letter in enumerate(bone.dof):
            (turns if letter[0] == "r" else positions)[:, "xyz".index(letter[1])] = values[:, place]
        # "XYZ" rotates about x first: the matrix of x is the rightmost factor.
        letters = bone.axis[::-1]
        columns = ["xyz".index(letter) for letter in letters]
        frame, moved = euler_matrices(bone.angles[columns], letters), euler_matrices(turns[:, columns], letters)
        rotations[:, joint] = frame @ moved @ frame.T
    places = [names.index(parents[one]) if parents[one] else -1 for one in names]
    offsets = np.array([bones[parents[one]].end if parents[one] else np.zeros(3) for one in names])
    leaves = [joint for joint in range(len(names)) if joint not in places]
    ends = {joint: tuple(bones[names[joint]].end.tolist()) for joint in leaves}
    return Motion(Skeleton(tuple(names), tuple(places), offsets, ends), rotations, positions, FRAME_TIME)


def _sections(asf: str) -> dict[str, list[list[str]]]:
    """The words of each line of an ASF file, by section."""
    found: dict[str, list[list[str]]] = {}
    rows: list[list[str]] = []
    for line in asf.splitlines():
        words = line.split("#")[0].split()
        if words and words[0].startswith(":"):
            rows = found.setdefault(words[0][1:].lower(), [])
        elif words:
            rows.append(words)
    missing = [name for name in ("root", "bonedata", "hierarchy") if name not in found]
    if missing:
        raise InputError(f"the ASF file has no section :{missing[0]}; give a complete ASF file")
    return found


def _root(sections: dict[str, list[list[str]]]) -> tuple[tuple[str, ...], str]:
    """The order of the root's values as ``("tx", ..., "rz")``, and its axis."""
    rows = {row[0].lower(): [word.lower() for word in row[1:]] for row in sections["root"]}
    order, axis = tuple(rows.get("order", ())), "".join(rows.get("axis", ()))
    if sorted(order) != ["rx", "ry", "rz", "tx", "ty", "tz"] or sorted(axis) != ["x", "y", "z"]:
        raise InputError(
            f"the ASF file has a root with order {' '.join(order).upper()!r} and axis {axis.upper()!r}; expected "
            "an order such as 'TX TY TZ RX RY RZ' and an axis such as 'XYZ'"
        )
    placed = numbers(rows.get("position", []) + rows.get("orientation", []), "the ASF file, root")
    if any(placed) or ["angle", "rad"] in sections.get("units", []):
        raise InputError("the ASF file has angles in radians, or a root away from 0; only degrees and 0 are possible")
    return order, axis


def _bones(rows: list[list[str]]) -> dict[str, _Bone]:
    """The bones of the section ``bonedata`` by name."""
    found: dict[str, _Bone] = {}
    lines: dict[str, list[str]] = {}
    for word, *rest in rows:
        if word == "begin":
            lines = {}
        elif word == "end":
            name, bone = _bone(lines)
            found[name] = bone
        else:
            lines[word] = rest
    return found


def _bone(lines: dict[str, list[str]]) -> tuple[str, _Bone]:
    """The name of a bone, and the bone, from the words after the first word of each of its lines."""
    missing = [word for word in ("name", "direction", "length", "axis") if not lines.get(word)]
    if missing:
        raise InputError(f"the ASF file has a bone without {missing[0]!r}; get a complete file")
    name = lines["name"][0]
    label = f"the ASF file, bone {name}"
    *angles, axis = lines["axis"]
    direction, length, turns = (numbers(words, label) for words in (lines["direction"], lines["length"], angles))
    dof = tuple(word.lower() for word in lines.get("dof", ()))
    if (len(direction), len(length), len(turns), sorted(axis.lower())) != (3, 1, 3, ["x", "y", "z"]):
        raise InputError(f"{label}: direction needs 3 numbers, length 1, and axis 3 and an order such as XYZ")
    if not set(dof) <= {"rx", "ry", "rz"}:
        raise InputError(f"{label}: dof {' '.join(dof)} must be rx, ry or rz")
    return name, _Bone(np.array(direction) * length[0], np.array(turns), axis.lower(), dof)


def _parents(rows: list[list[str]], bones: dict[str, _Bone]) -> dict[str, str | None]:
    """The parent of each bone, in an order in which parents come first."""
    parents: dict[str, str | None] = {"root": None}
    for parent, *children in (row for row in rows if row[0] not in ("begin", "end")):
        for child in children:
            if parent not in parents or child in parents or child not in bones:
                raise InputError(f"the ASF file has no valid place for bone {child} below {parent} in :hierarchy")
            parents[child] = parent
    return parents


def _frames(amc: str, dofs: dict[str, tuple[str, ...]], name: str) -> dict[str, np.ndarray]:
    """The values of each bone, ``[N, number of dof]``."""
    values: dict[str, list[list[float]]] = {bone: [] for bone in dofs}
    moving = [bone for bone, dof in dofs.items() if dof]
    number = 0

    def check_complete() -> None:
        missing = [bone for bone in moving if len(values[bone]) != number]
        if missing:
            raise InputError(f"{name}: frame {number} has no values of bone {missing[0]}; get a complete file")

    for line in amc.splitlines():
        words = line.split()
        if not words or words[0][0] in "#:":
            continue
        if len(words) == 1 and words[0].isdigit():
            check_complete()
            number += 1
            continue
        bone, *rest = words
        if number == 0 or bone not in dofs or len(rest) != len(dofs[bone]) or len(values[bone]) == number:
            expected = f"expected {len(dofs[bone])} values once" if bone in dofs else "not a bone of the ASF file"
            raise InputError(f"{name}, frame {number}: bone {bone} has {len(rest)} values, {expected}")
        values[bone].append(numbers(rest, f"{name}, frame {number}, bone {bone}"))
    check_complete()
    if number == 0:
        raise InputError(f"{name} has no frames; give a complete AMC file")
    return {
        bone: np.array(rows).reshape(number, -1) if dofs[bone] else np.zeros((number, 0))
        for bone, rows in values.items()
    }
