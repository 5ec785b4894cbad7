"""Skeletons and their motion: what the files of motion capture have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rnnlab.interface import InputError


@dataclass(frozen=True)
class Skeleton:
    """A tree of joints; a joint comes after its parent, and joint 0 is the root.

    names: name of each joint.
    parents: index of the parent of each joint; -1 for the root.
    offsets: position of each joint relative to its parent in the rest pose, ``[J, 3]``; y points up.
    ends: positions of the ends of limbs relative to their joint, such as the tip of a foot, by the index of the joint.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: np.ndarray
    ends: dict[int, tuple[float, float, float]]

    @property
    def tree(self) -> dict[str, str]:
        """The name of the parent of each joint; that of the root is empty. The order of the joints does not matter."""
        return {
            name: self.names[parent] if parent >= 0 else ""
            for name, parent in zip(self.names, self.parents, strict=True)
        }


@dataclass(frozen=True)
class Motion:
    """The motion of a skeleton.

    skeleton: the joints.
    rotations: rotation matrices relative to the parent, float64 ``[N, J, 3, 3]``; those of the root are relative to the
        world.
    positions: position of the root, ``[N, 3]``, in the unit of the offsets.
    frame_time: seconds from one frame to the next.
    """

    skeleton: Skeleton
    rotations: np.ndarray
    positions: np.ndarray
    frame_time: float


def joint_positions(motion: Motion) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The positions of all joints and ends of limbs in the world (forward kinematics).

    Returns:
        positions ``[N, P, 3]``, the joints first, and the bones as pairs of indices of points.
    """
    skeleton = motion.skeleton
    turned, points, bones = [motion.rotations[:, 0]], [motion.positions], []
    for joint in range(1, len(skeleton.names)):
        parent = skeleton.parents[joint]
        points.append(points[parent] + turned[parent] @ skeleton.offsets[joint])
        turned.append(turned[parent] @ motion.rotations[:, joint])
        bones.append((parent, joint))
    for joint, end in skeleton.ends.items():
        bones.append((joint, len(points)))
        points.append(points[joint] + turned[joint] @ np.array(end))
    return np.stack(points, 1), bones


def euler_matrices(angles: np.ndarray, axes: str) -> np.ndarray:
    """The product of rotations about the axes, the first one leftmost: ``R_a(first) R_b(second) ...``.

    Args:
        angles: in degrees, ``[..., len(axes)]``.
        axes: letters x, y and z; an axis may be missing.

    Returns:
        rotation matrices ``[..., 3, 3]``.
    """
    product = np.broadcast_to(np.eye(3), (*angles.shape[:-1], 3, 3))
    for place, axis in enumerate(axes):
        cosine, sine = np.cos(np.radians(angles[..., place])), np.sin(np.radians(angles[..., place]))
        one = np.zeros_like(product)
        a, b, c = ((("xyz".index(axis) + shift) % 3) for shift in range(3))
        one[..., a, a] = 1
        one[..., b, b] = one[..., c, c] = cosine
        one[..., c, b], one[..., b, c] = sine, -sine
        product = product @ one
    return product


def euler_angles(rotations: np.ndarray, axes: str) -> np.ndarray:
    """Angles in degrees, ``[..., 3]``, such that ``euler_matrices(angles, axes)`` are the rotations ``[..., 3, 3]``.

    The middle angle is between -90 and 90 degrees. Where it is -90 or 90, the last angle is 0.

    Args:
        rotations: rotation matrices.
        axes: three different letters x, y and z.
    """
    first, middle, last = ("xyz".index(axis) for axis in axes)
    sign = 1 if (middle - first) % 3 == 1 else -1  # whether the order of the axes is cyclic
    sine = np.clip(sign * rotations[..., first, last], -1, 1)
    cosine = np.hypot(rotations[..., first, first], rotations[..., first, middle])
    locked = cosine < 1e-9
    angles = [
        np.arctan2(
            sign * np.where(locked, rotations[..., last, middle], -rotations[..., middle, last]),
            np.where(locked, rotations[..., middle, middle], rotations[..., last, last]),
        ),
        np.arctan2(sine, cosine),
        np.where(locked, 0.0, np.arctan2(-sign * rotations[..., first, middle], rotations[..., first, first])),
    ]
    return np.degrees(np.stack(angles, -1))


def numbers(words: list[str], name: str) -> list[float]:
    """Words of a file as finite numbers.

    Args:
        words: the words.
        name: file and line for errors.

    Raises:
        InputError: a word is not a finite number.
    """
    for word in words:
        try:
            finite = np.isfinite(float(word))
        except ValueError:
            finite = False
        if not finite:
            raise InputError(f"{name}: {word!r} is not a finite number; correct the file")
    return [float(word) for word in words]
