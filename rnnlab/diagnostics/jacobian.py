"""Propagation of small changes of the state: step Jacobians, their spectra, Lyapunov exponents, memory half-life.

The state of one sequence is one vector of N real numbers: all tensors of the state, flattened, in the cell's order,
with complex numbers as real and imaginary part. Integer tensors, such as a counter, are not part of the vector and
stay constant.

All measures describe the trajectory of the network on its inputs, not a fixed point. They are exact up to rounding,
except that `influence` is estimated from random directions if N exceeds its ``directions``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vmap

from rnnlab.cells import Cell
from rnnlab.diagnostics.trajectory import Trajectory
from rnnlab.interface import InputError
from rnnlab.trees import State, map_state, tensors_of

CHUNK = 128
"""Directions that are propagated through a step at once; more need more memory and are not faster."""


def flatten(state: State) -> Tensor:
    """Return the continuous numbers of a state as real vectors ``[B, N]``."""
    parts = [torch.view_as_real(t) if t.is_complex() else t for t in tensors_of(state) if _is_continuous(t)]
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)


def unflatten(vector: Tensor, like: State) -> State:
    """Return the state with the continuous numbers ``vector`` ``[B, N]`` and the other tensors of ``like``."""
    place = 0

    def take(tensor: Tensor) -> Tensor:
        nonlocal place
        if not _is_continuous(tensor):
            return tensor
        shape = torch.view_as_real(tensor).shape if tensor.is_complex() else tensor.shape
        size = shape[1:].numel()
        part = vector[:, place : place + size].unflatten(1, shape[1:]) if len(shape) > 1 else vector[:, place]
        place += size
        return torch.view_as_complex(part.contiguous()) if tensor.is_complex() else part

    return map_state(take, like)


def state_size(trajectory: Trajectory) -> int:
    """Return N, the number of real numbers in the state of one sequence."""
    return flatten(trajectory.before[0]).shape[1]


def pushes(trajectory: Trajectory) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield for every step a function that maps small changes ``[K, B, N]`` of the state before it to those after it.

    The function multiplies the changes by the step Jacobian ∂s_t/∂s_{t-1} with forward-mode differentiation, without
    computing the matrix.
    """
    with torch.no_grad():
        constants, inputs = trajectory.prepared()
    with warnings.catch_warnings(action="ignore"):  # torch warns at the first use of forward mode
        jvp(torch.sin, (torch.zeros(1),), (torch.zeros(1),))
    for step_inputs, before in zip(inputs, trajectory.before, strict=True):
        yield partial(_push, trajectory.cell, constants, step_inputs, before)


def _push(cell: Cell, constants: Any, inputs: Any, before: State, changes: Tensor) -> Tensor:
    def step(vector: Tensor) -> Tensor:
        return flatten(cell.step(constants, inputs, unflatten(vector, before))[1])

    at = flatten(before).detach()
    with torch.no_grad():
        return vmap(lambda change: jvp(step, (at,), (change,))[1], chunk_size=CHUNK)(changes)


def step_jacobian(trajectory: Trajectory, step: int) -> Tensor:
    """Return ∂s_t/∂s_{t-1} of every sequence at step ``step`` (from 0), ``[B, N, N]``; rows belong to s_t."""
    for number, push in enumerate(pushes(trajectory)):
        if number == step:
            return push(_basis(trajectory)).permute(1, 2, 0)
    raise InputError(f"step={step} must be between 0 and {len(trajectory) - 1}")


class Spectrum(NamedTuple):
    """Spectra of step Jacobians.

    steps: indices of the P steps.
    singular: singular values, largest first, ``[P, B, N]``.
    eigenvalues: complex eigenvalues in no particular order, ``[P, B, N]``.
    """

    steps: list[int]
    singular: Tensor
    eigenvalues: Tensor

    @property
    def radius(self) -> Tensor:
        """Spectral radii, the largest magnitudes of the eigenvalues, ``[P, B]``."""
        return self.eigenvalues.abs().amax(-1)


def spectrum(trajectory: Trajectory, points: int = 8) -> Spectrum:
    """Return singular values and eigenvalues of step Jacobians (Pascanu, Mikolov and Bengio, 2013, arXiv:1211.5063).

    Args:
        trajectory: trajectory of T steps.
        points: number of steps, spread evenly over the trajectory; at most T are used.

    Returns:
        the spectra; NaN for Jacobians that are not finite.
    """
    last = len(trajectory) - 1
    steps = sorted({round(last * (point + 1) / points) for point in range(points)}) if points <= last else None
    steps = list(range(last + 1)) if steps is None else steps
    basis, singular, eigenvalues = _basis(trajectory), [], []
    for number, push in enumerate(pushes(trajectory)):
        if number in steps:
            matrix = push(basis).permute(1, 2, 0)
            known = matrix.isfinite().all(-1).all(-1)
            safe = matrix.where(known[:, None, None], 0)
            singular.append(torch.linalg.svdvals(safe).masked_fill(~known[:, None], torch.nan))
            eigenvalues.append(torch.linalg.eigvals(safe).masked_fill(~known[:, None], torch.nan))
    return Spectrum(steps, torch.stack(singular), torch.stack(eigenvalues))


def lyapunov_exponents(trajectory: Trajectory, count: int = 8, skip: int = 0) -> Tensor:
    """Return the largest Lyapunov exponents along a trajectory in nats per step, largest first.

    The exponents are the mean growth rates of orthogonal directions. The directions are propagated through every step
    and orthonormalised by a QR decomposition, and the logarithms of the diagonal of R are averaged (Benettin et al.,
    1980, doi:10.1007/BF02128236; for recurrent networks Engelken et al., 2020, arXiv:2006.02427, and Vogt et al., 2020,
    arXiv:2006.14123). The exponents of a driven network depend on its inputs. They are averages over finite time, not
    limits.

    Args:
        trajectory: trajectory of T steps.
        count: number of exponents; at most N are computed.
        skip: number of initial steps that are not averaged, in which the directions align with the growing ones.

    Returns:
        the exponents, ``[count, B]``; minus infinity for directions that a step maps to zero.

    Raises:
        InputError: ``skip`` leaves no step, or ``count`` is below 1.
    """
    _check_steps(trajectory, skip)
    if count < 1:
        raise InputError(f"count={count} must be at least 1")
    first = flatten(trajectory.before[0])
    count = min(count, first.shape[1])
    # Random, because a unit vector may lie in an invariant subspace of the Jacobians.
    start = _normal((first.shape[0], first.shape[1], count), first)
    basis = torch.linalg.qr(start).Q  # [B, N, count]
    total = first.new_zeros(first.shape[0], count)
    for step, push in enumerate(pushes(trajectory)):
        pushed = push(basis.permute(2, 0, 1)).permute(1, 2, 0)
        known = pushed.isfinite().all(-1).all(-1)
        basis, R = torch.linalg.qr(pushed.where(known[:, None, None], 0))
        if step >= skip:
            growth = R.diagonal(dim1=-2, dim2=-1).abs().log()
            total += growth.masked_fill(~known[:, None], torch.nan)
    return (total / (len(trajectory) - skip)).sort(-1, descending=True).values.t()


def influence(trajectory: Trajectory, skip: int = 0, directions: int = 64) -> Tensor:
    """Return M(k), the size of a small change of the state k steps after it relative to its first size, ``[K + 1]``.

        M(k)² = E_v E_b ‖∂s_{a+k}/∂s_a v‖²,  a = skip

    Here v is a direction of length 1 and b a sequence. For all N directions of a basis, E_v is the mean of the squared
    singular values of the product of the step Jacobians, which is its squared Frobenius norm divided by N.

    Args:
        trajectory: trajectory of T steps.
        skip: a, the number of initial steps that are left out; K is T - skip.
        directions: number of random directions, whose mean estimates that over all directions (Hutchinson, 1990,
            doi:10.1080/03610919008812866). If N is not larger, a basis is used and M is exact.

    Raises:
        InputError: ``skip`` leaves no step.
    """
    _check_steps(trajectory, skip)
    first = flatten(trajectory.before[skip])
    if first.shape[1] <= directions:
        changes = _basis(trajectory)
    else:
        signs = _normal((directions, *first.shape), first).sign()
        changes = signs / first.shape[1] ** 0.5
    left = [_mean_square(changes)]
    for step, push in enumerate(pushes(trajectory)):
        if step >= skip:
            changes = push(changes)
            left.append(_mean_square(changes))
    return torch.stack(left).sqrt()


def half_life(influence: Tensor) -> float | None:
    """Return the number of steps after which M first falls to M(0) / 2; None if it never does.

    M is interpolated exponentially between two steps, so that M(k) = a^k has the half-life log 2 / |log a| exactly.

    Args:
        influence: M, the result of `influence`, ``[K + 1]``.
    """
    half = float(influence[0]) / 2
    values = influence.tolist()
    for step, value in enumerate(values):
        if value <= half:
            if value == 0:
                return float(step)  # M falls to zero in one step and cannot be interpolated
            before = values[step - 1]
            return step - 1 + log(before / half) / log(before / value)
    return None


def _is_continuous(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _basis(trajectory: Trajectory) -> Tensor:
    """Return the N unit vectors for every sequence, ``[N, B, N]``."""
    first = flatten(trajectory.before[0])
    eye = torch.eye(first.shape[1], dtype=first.dtype, device=first.device)
    return eye.unsqueeze(1).expand(-1, first.shape[0], -1)


def _normal(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return normally distributed numbers from a separate generator with a fixed seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)


def _mean_square(changes: Tensor) -> Tensor:
    """Return the mean squared length of ``changes`` ``[K, B, N]`` over directions and sequences."""
    return changes.square().sum(-1).mean()


def _check_steps(trajectory: Trajectory, skip: int) -> None:
    if not 0 <= skip < len(trajectory):
        raise InputError(f"skip={skip} must be at least 0 and less than {len(trajectory)}, the number of steps")
