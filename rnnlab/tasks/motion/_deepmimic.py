"""The motion clips of DeepMimic (Peng, Abbeel, Levine and van de Panne, 2018, arXiv:1804.02717).

A frame has 44 numbers: its duration, the position of the root, and its rotation as a quaternion (w, x, y, z); then, for
each joint, a quaternion, or the angle about z of a knee or an elbow.
"""

from __future__ import annotations

import io
import json
import lzma
import tarfile
from pathlib import Path

import numpy as np

from rnnlab.data import files_in
from rnnlab.formats.skeleton import Motion, Skeleton, euler_matrices
from rnnlab.interface import InputError
from rnnlab.tasks.motion._clips import FRAME_TIME, Corpus, Part
from rnnlab.tasks.motion._rotations import resample

ARCHIVE = "deepmimic-motions.tar.xz"
FOLDER = "data"
LONG = ("long_", "stealthy_walk0", "stealthy_walk1")
"""Start of the names of the clips in the folder ``long``."""
AGAIN = "get it again from https://github.com/xbpeng/DeepMimic"

PARTS = (
    Part("long_walk1", "train", "walk"),
    Part("long_walk1_mirror", "train", "walk"),
    Part("long_walk3", "valid", "walk"),
    Part("long_walk3_mirror", "valid", "walk"),
    Part("long_walk2", "test", "walk"),
    Part("long_walk2_mirror", "test", "walk"),
    Part("walk", "test", "walk"),
    Part("stealthy_walk0", "train", "stealthy walk", 0, 0.78),
    Part("stealthy_walk0", "valid", "stealthy walk", 0.8, 1),
    Part("stealthy_walk1", "test", "stealthy walk"),
    Part("stealthy_walk", "test", "stealthy walk"),
    Part("long_zombie", "train", "zombie walk", 0, 0.6),
    Part("long_zombie", "valid", "zombie walk", 0.61, 0.74),
    Part("zombie_walk", "valid", "zombie walk"),
    Part("long_zombie", "test", "zombie walk", 0.75, 1),
    Part("dance_a", "train", "dance a", 0, 0.45),
    Part("dance_a", "test", "dance a", 0.47, 1),
    Part("dance_b", "train", "dance b", 0, 0.6),
    Part("dance_b", "test", "dance b", 0.62, 1),
    Part("dance_spin", "train", "dance spin"),
    Part("spin", "train", "spin", 0, 0.6),
    Part("spin", "test", "spin", 0.62, 1),
    *(
        Part(action, "unseen", action.replace("_", " "))
        for action in (
            "backflip",
            "cartwheel",
            "crawl",
            "getup_facedown",
            "getup_faceup",
            "jog",
            "jump",
            "kick",
            "punch",
            "roll",
            "run",
            "sideflip",
            "spinkick",
        )
    ),
)
"""The split, written down before any training.

Mirror images are in the split of their original: ``long_walkN_mirror`` of ``long_walkN``. Excerpts are in the split of
the frames that they repeat: ``zombie_walk`` are frames 684 to 785 of 1098 of ``long_zombie``, and ``stealthy_walk`` are
frames 672 to 763 of ``stealthy_walk1``. Actions with a single clip are split in time. ``dance_spin`` has one second and
cannot be split. The four clips of a dog have another skeleton and are not read.
"""


def read(root: str) -> Corpus:
    """All clips of `PARTS`, resampled, from an archive ``deepmimic-motions.tar.xz`` or from a clone of the repository.

    Args:
        root: directory of the public data sets.

    Raises:
        InputError: the clips are missing or damaged.
    """
    folder = Path(root).expanduser() / "deepmimic"
    archive = folder / ARCHIVE
    if archive.is_file():
        members = _members(archive.read_bytes(), str(archive))
        name = str(archive)
    else:
        members = {str(file.relative_to(folder)): file.read_bytes() for file in (folder / FOLDER).rglob("*3d*.txt")}
        name = str(folder)
    return corpus(members, name)


def corpus(members: dict[str, bytes], name: str) -> Corpus:
    """The clips in the files ``members`` by name; ``name`` is the name of their folder or archive for errors."""
    character = f"{FOLDER}/characters/humanoid3d.txt"
    try:
        skeleton, joints = _skeleton(_json(members, character, name))
    except (KeyError, TypeError) as error:
        raise InputError(f"{name}, {character} is not a character ({error!r}); {AGAIN}") from error
    clips = {}
    for clip in dict.fromkeys(part.clip for part in PARTS):
        file = f"{FOLDER}/motions/{'long/' * clip.startswith(LONG)}humanoid3d_{clip}.txt"
        clips[clip] = _motion(_json(members, file, name), skeleton, joints, f"{name}, {file}")
    return Corpus(clips, PARTS)


def _members(content: bytes, name: str) -> dict[str, bytes]:
    """The files of a tar archive, read in memory, by their path below the archive's single folder.

    Raises:
        InputError: the archive is damaged, or a member is outside its folder.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:xz") as archive:
            return {"/".join(path.parts[1:]): file for path, file in files_in(archive, name, AGAIN)}
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise InputError(f"{name} cannot be read ({error}); {AGAIN}") from error


def _json(members: dict[str, bytes], file: str, name: str) -> dict:
    if file not in members:
        raise InputError(
            f"{name} has no file {file}; git clone https://github.com/xbpeng/DeepMimic {name}, or set data.root to the "
            "folder that contains deepmimic/"
        )
    try:
        return json.loads(members[file])
    except ValueError as error:
        raise InputError(f"{name}, {file} is not JSON ({error}); {AGAIN}") from error


def _skeleton(character: dict) -> tuple[Skeleton, list[str]]:
    """The joints that move, with wrists, feet and head as ends of limbs, and the type of each joint."""
    joints = character["Skeleton"]["Joints"]
    offsets = np.array([[joint[f"Attach{axis}"] for axis in "XYZ"] for joint in joints], float)
    moving = [number for number, joint in enumerate(joints) if joint["Type"] != "fixed"]
    place = {number: index for index, number in enumerate(moving)}
    parents = tuple(place.get(joints[number]["Parent"], -1) for number in moving)
    ends = {place[joint["Parent"]]: offsets[n] for n, joint in enumerate(joints) if joint["Type"] == "fixed"}
    for body in character["BodyDefs"]:  # the end of the last body of a limb is twice as far away as its centre
        joint = place.get(body["ID"], 0)
        if joint and joint not in parents and joint not in ends:
            ends[joint] = 2 * np.array([body[f"Attach{axis}"] for axis in "XYZ"])
    names = tuple(joints[number]["Name"] for number in moving)
    kept = {joint: tuple(map(float, end)) for joint, end in ends.items()}
    return Skeleton(names, parents, offsets[moving], kept), [joints[number]["Type"] for number in moving]


def _motion(clip: dict, skeleton: Skeleton, joints: list[str], name: str) -> Motion:
    try:
        frames = np.array(clip["Frames"], float)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name} has no valid Frames; {AGAIN}") from error
    width = 8 + sum(1 if kind == "revolute" else 4 for kind in joints[1:])
    if frames.ndim != 2 or frames.shape[1] != width or len(frames) < 2 or not np.isfinite(frames).all():
        raise InputError(
            f"{name} has frames of shape {list(frames.shape)}; expected two or more of {width} finite numbers each"
        )
    column, rotations = 4, []
    for kind in joints:
        size = 1 if kind == "revolute" else 4
        values = frames[:, column : column + size]
        if size == 4 and np.linalg.norm(values, axis=1).min() < 0.5:
            raise InputError(f"{name} has a quaternion that is not of length 1; {AGAIN}")
        rotations.append(euler_matrices(values * 180 / np.pi, "z") if size == 1 else _from_quaternions(values))
        column += size
    times = np.concatenate([[0], np.cumsum(frames[:-1, 0])])
    if not (np.diff(times) > 0).all():
        raise InputError(f"{name} has a frame with a duration of 0 or less; {AGAIN}")
    return resample(Motion(skeleton, np.stack(rotations, 1), frames[:, 1:4], FRAME_TIME), times, FRAME_TIME)


def _from_quaternions(quaternions: np.ndarray) -> np.ndarray:
    """Rotation matrices ``[N, 3, 3]`` of quaternions (w, x, y, z) ``[N, 4]`` of any length but 0."""
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)
