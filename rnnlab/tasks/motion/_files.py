"""Clips from BVH files, or from an ASF file with AMC files, such as those of the CMU motion capture database.

Data of mocap.cs.cmu.edu, created with funding from NSF EIA-0196217.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from rnnlab.formats import asf, bvh
from rnnlab.formats.skeleton import Motion
from rnnlab.interface import InputError
from rnnlab.tasks.motion._clips import FRAME_TIME, Corpus, Part
from rnnlab.tasks.motion._rotations import resample

CMU = {
    "cmu_amc": (  # subject 07 walks
        Part("07_01", "train", "walk"),
        Part("07_09", "train", "walk"),
        Part("07_10", "train", "walk"),
        Part("07_11", "valid", "walk"),
        Part("07_02", "test", "walk"),
    ),
    "cmu_bvh": (  # subjects 10 and 11 kick a ball, subject 14 moves on the spot
        Part("10_01", "train", "kick a ball"),
        Part("10_03", "train", "kick a ball"),
        Part("11_01", "test", "kick a ball"),
        Part("14_19", "train", "exercise", 0, 0.6),
        Part("14_19", "valid", "exercise", 0.62, 0.8),
        Part("14_19", "test", "exercise", 0.82, 1),
    ),
}
"""The split of each CMU corpus, written down before any training."""
REST_FRAMES = {"cmu_bvh": 1}
"""Number of frames at the start of each clip that show the rest pose and are left out."""


def read(corpus: str, root: str) -> Corpus:
    """The clips of a CMU corpus below ``root``, or of the user's own folder, each split in time.

    Args:
        corpus: ``cmu_amc``, ``cmu_bvh``, or the path of a folder.
        root: directory of the public data sets.

    Raises:
        InputError: a file is missing or damaged, or the files have different skeletons.
    """
    known = corpus in CMU
    folder = Path(root).expanduser() / "cmu_mocap" / corpus[4:] if known else Path(corpus).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder; get the files as docs/motion.md says, or set data.root to the folder that "
            "contains cmu_mocap/"
            if known
            else f"task.corpus={corpus!r} is not a folder; give generated, deepmimic, {', '.join(CMU)} or a folder of "
            "BVH files"
        )
    clips = {}
    for path in sorted(folder.iterdir()):
        name = path.name.removesuffix(".gz")
        if name.endswith((".bvh", ".amc")) and not name.startswith("."):
            motion, skipped = read_motion(path), REST_FRAMES.get(corpus, 0)
            if len(motion.positions) <= skipped:
                raise InputError(f"{path} has no frame after the rest pose; get a complete file")
            clips[name[:-4]] = at_rate(motion, skipped)
    parts = CMU[corpus] if known else tuple(part for clip in clips for part in _in_time(clip))
    missing = {part.clip for part in parts} - clips.keys()
    if missing or not clips:
        raise InputError(f"{folder} has no clip {', '.join(sorted(missing)) or 'with the suffix .bvh or .amc'}")
    first = next(iter(clips.values())).skeleton
    for clip, motion in clips.items():
        if (motion.skeleton.names, motion.skeleton.parents) != (first.names, first.parents):
            raise InputError(f"{folder}: clip {clip} has other joints than {next(iter(clips))}; use one skeleton")
    return Corpus(clips, parts)


def read_motion(path: Path) -> Motion:
    """The motion in a BVH file, or in an AMC file with the only ASF file of its folder; either may have ``.gz``.

    Raises:
        InputError: a file is missing or damaged.
    """
    if path.name.removesuffix(".gz").endswith(".bvh"):
        return bvh.read(_text(path), str(path))
    skeletons = [file for file in path.parent.iterdir() if file.name.removesuffix(".gz").endswith(".asf")]
    if len(skeletons) != 1:
        raise InputError(f"{path.parent} has {len(skeletons)} ASF files; put the one that belongs to {path.name} there")
    return asf.read(_text(skeletons[0]), _text(path), str(path))


def at_rate(motion: Motion, skipped: int = 0) -> Motion:
    """The motion without its first ``skipped`` frames, at `FRAME_TIME`."""
    rotations, positions = motion.rotations[skipped:], motion.positions[skipped:]
    times = np.arange(len(positions)) * motion.frame_time
    return resample(Motion(motion.skeleton, rotations, positions, motion.frame_time), times, FRAME_TIME)


def _in_time(clip: str) -> list[Part]:
    return [Part(clip, "train", clip, 0, 0.7), Part(clip, "valid", clip, 0.71, 0.85), Part(clip, "test", clip, 0.86, 1)]


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8", "replace")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); get an intact file") from error
