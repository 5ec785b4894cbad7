"""How a small change of the state travels: step Jacobians, their spectra, Lyapunov exponents, memory half-life.

The state of one sequence is taken as one vector of N real numbers: every tensor of it, flattened, in the cell's order,
complex numbers as their two parts. Numbers that are not continuous (a counter) are no part of it and stay as they are.

Everything here belongs to the trajectory that the network took on its inputs, not to a fixed point, and is exact up
to rounding; only where N is larger than the number of directions asked for are these drawn at random, and it is said.
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
from rnnlab.interface import InputError, State, map_state, tensors_of

CHUNK = 128
"""Directions that are pushed through a step at once; more take more memory and are no faster."""


def flatten(state: State) -> Tensor:
    """The continuous numbers of a state as real vectors ``[B, N]``."""
    parts = [torch.view_as_real(t) if t.is_complex() else t for t in tensors_of(state) if _is_continuous(t)]
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)


def unflatten(vector: Tensor, like: State) -> State:
    """The state whose continuous numbers are ``vector`` ``[B, N]``, and the others those of ``like``."""
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
    """N, the real numbers in the state of one sequence."""
    return flatten(trajectory.before[0]).shape[1]


def pushes(trajectory: Trajectory) -> Iterator[Callable[[Tensor], Tensor]]:
    """For every step a function that takes small changes ``[K, B, N]`` of the state before it to those after it.

    The changes are multiplied with the step Jacobian ∂s_t/∂s_{t-1}, by forward-mode differentiation, which never makes
    the matrix.
    """
    with torch.no_grad():
        constants, inputs = trajectory.prepared()
    with warnings.catch_warnings(action="ignore"):  # torch warns of itself, at the first use of forward mode
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
    """∂s_t/∂s_{t-1} of every sequence at step ``step`` (from 0), ``[B, N, N]``; rows are of the state after."""
    for number, push in enumerate(pushes(trajectory)):
        if number == step:
            return push(_basis(trajectory)).permute(1, 2, 0)
    raise InputError(f"step {step} is not among the {len(trajectory)} steps there are")


class Spectrum(NamedTuple):
    """Of step Jacobians.

    steps: where they were taken, ``[P]``.
    singular: their singular values, largest first, ``[P, B, N]``.
    eigenvalues: complex ``[P, B, N]``, in no order.
    """

    steps: list[int]
    singular: Tensor
    eigenvalues: Tensor

    @property
    def radius(self) -> Tensor:
        """Spectral radii, the largest magnitudes of an eigenvalue, ``[P, B]``."""
        return self.eigenvalues.abs().amax(-1)


def spectrum(trajectory: Trajectory, points: int = 8) -> Spectrum:
    """Singular values and eigenvalues of the step Jacobian (Pascanu, Mikolov and Bengio, 2013, arXiv:1211.5063).

    Args:
        trajectory: of T steps.
        points: at how many steps, spread evenly over the trajectory; all where there are no more.

    Returns:
        the spectra; NaN where a Jacobian is not finite.
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
    """The largest Lyapunov exponents along a trajectory, nats a step, largest first.

    How fast orthogonal directions grow on the average: they are pushed through every step and made orthonormal again
    by a QR decomposition, and the logarithms of what R has on its diagonal are averaged (Benettin et al., 1980,
    doi:10.1007/BF02128236; for recurrent networks Engelken et al., 2020, arXiv:2006.02427, and Vogt et al., 2020,
    arXiv:2006.14123). For a driven network they are those of the way it took on these inputs; finite time, not limits.

    Args:
        trajectory: of T steps.
        count: how many; N where there are no more.
        skip: steps at the beginning in which the directions turn to where they grow and are not counted yet.

    Returns:
        ``[count, B]``, infinitely negative for directions that a step forgets altogether.

    Raises:
        InputError: there are no steps left to count, or no exponent is asked for.
    """
    _check_steps(trajectory, skip)
    if count < 1:
        raise InputError(f"count={count} Lyapunov exponents; ask for at least 1")
    first = flatten(trajectory.before[0])
    count = min(count, first.shape[1])
    # Random, because a unit vector may lie in a plane that the Jacobians never leave.
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
    """How much of a small change of the state at one step is left k steps later, ``[K + 1]``, 1 at the first.

        M(k)² = E_v E_b ‖∂s_{a+k}/∂s_a v‖²,  a = skip

    v a direction of length 1, b a sequence: for all N directions of a basis it is the mean of the squared singular
    values of the product of the step Jacobians, its squared Frobenius norm over N.

    Args:
        trajectory: of T steps.
        skip: a, steps that are passed over at the beginning; K is T - skip.
        directions: a basis where N is no larger, else so many random directions, whose mean estimates that of all
            (Hutchinson, 1990, doi:10.1080/03610919008812866).

    Raises:
        InputError: there are no steps left.
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
    """After how many steps M is first half of what it was; None where it is not, within the steps there are.

    Between two steps M is taken to fall exponentially, so that M(k) = a^k has exactly log 2 / |log a|.

    Args:
        influence: M ``[K + 1]``, see `influence`.
    """
    half = float(influence[0]) / 2
    values = influence.tolist()
    for step, value in enumerate(values):
        if value <= half:
            if value == 0:
                return float(step)  # gone at once, at no rate
            before = values[step - 1]
            return step - 1 + log(before / half) / log(before / value)
    return None


def _is_continuous(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _basis(trajectory: Trajectory) -> Tensor:
    """The N unit vectors for every sequence, ``[N, B, N]``."""
    first = flatten(trajectory.before[0])
    eye = torch.eye(first.shape[1], dtype=first.dtype, device=first.device)
    return eye.unsqueeze(1).expand(-1, first.shape[0], -1)


def _normal(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """The same normal numbers every time, from a generator of their own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)


def _mean_square(changes: Tensor) -> Tensor:
    """The mean over directions and sequences of the squared lengths of ``[K, B, N]``."""
    return changes.square().sum(-1).mean()


def _check_steps(trajectory: Trajectory, skip: int) -> None:
    if not 0 <= skip < len(trajectory):
        raise InputError(f"skip={skip} leaves none of the {len(trajectory)} steps; it must be less, and at least 0")
