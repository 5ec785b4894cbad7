"""Rotations: rotation vectors, the six numbers of Zhou et al. (2019, arXiv:1812.07035), angles, resampling."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from rnnlab.formats.skeleton import Motion


def exponential(vectors: Tensor) -> Tensor:
    """The rotation matrices ``[..., 3, 3]`` of rotation vectors ``[..., 3]`` in radians (formula of Rodrigues)."""
    angle = vectors.norm(dim=-1)[..., None, None]
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    sine = torch.sinc(angle / torch.pi)  # sin(angle) / angle
    cosine = 0.5 * torch.sinc(angle / (2 * torch.pi)).square()  # (1 - cos(angle)) / angle²
    return torch.eye(3, dtype=vectors.dtype) + sine * cross + cosine * (cross @ cross)


def logarithm(rotations: Tensor) -> Tensor:
    """The rotation vectors ``[..., 3]`` in radians of rotation matrices ``[..., 3, 3]`` with angles well below pi."""
    sine = _sine(rotations)
    angle = angle_of(rotations).unsqueeze(-1)
    return sine / torch.sinc(angle / torch.pi)


def angle_of(rotations: Tensor) -> Tensor:
    """The angles ``[...]`` of rotation matrices ``[..., 3, 3]``, from 0 to pi."""
    cosine = 0.5 * (rotations.diagonal(dim1=-2, dim2=-1).sum(-1) - 1)
    return torch.atan2(_sine(rotations).norm(dim=-1), cosine)


def _sine(rotations: Tensor) -> Tensor:
    """The axis times the sine of the angle."""
    pairs = ((2, 1), (0, 2), (1, 0))
    return 0.5 * torch.stack([rotations[..., a, b] - rotations[..., b, a] for a, b in pairs], -1)


def six_numbers(rotations: Tensor) -> Tensor:
    """The first two columns ``[..., 6]`` of rotation matrices ``[..., 3, 3]``."""
    return rotations[..., :2].transpose(-1, -2).flatten(-2)


def from_six_numbers(six: Tensor) -> Tensor:
    """Rotation matrices ``[..., 3, 3]`` from two columns ``[..., 6]``, orthonormalised (Gram-Schmidt)."""
    first = normalize(six[..., :3], dim=-1)
    second = six[..., 3:]
    second = normalize(second - (first * second).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)


def resample(motion: Motion, times: np.ndarray, frame_time: float) -> Motion:
    """The motion at even times from the first frame, by spherical interpolation of rotations between frames.

    Args:
        motion: the motion; its own ``frame_time`` is not used.
        times: seconds of each of its frames, increasing.
        frame_time: seconds between the new frames.
    """
    wanted = np.arange(int((times[-1] - times[0]) / frame_time + 1e-6) + 1) * frame_time + times[0]
    left = np.clip(np.searchsorted(times, wanted, "right") - 1, 0, max(len(times) - 2, 0))
    right = np.minimum(left + 1, len(times) - 1)
    part = (wanted - times[left]) / np.maximum(times[right] - times[left], 1e-12)
    start, end = (torch.from_numpy(motion.rotations[index]) for index in (left, right))
    way = logarithm(start.transpose(-1, -2) @ end) * torch.from_numpy(part)[:, None, None]
    positions = motion.positions[left] + part[:, None] * (motion.positions[right] - motion.positions[left])
    return Motion(motion.skeleton, (start @ exponential(way)).numpy(), positions, frame_time)
