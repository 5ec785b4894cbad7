"""Learning-rate schedules as pure functions of the step, so that resuming needs no scheduler state.

Each function returns the factor on the learning rate at training step ``step`` (from 0) of ``steps``. A function with a
third positional parameter also gets, for each evaluation so far, whether its result was the best so far. To add a
schedule, add a function here and a YAML file in ``conf/scheduler``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi

from rnnlab.interface import InputError


def constant(step: int, steps: int, *, warmup_steps: int = 0) -> float:
    """Linear warm-up, then constant 1."""
    return min(1.0, (step + 1) / max(1, warmup_steps))


def cosine(step: int, steps: int, *, warmup_steps: int = 100, final: float = 0.02) -> float:
    """Linear warm-up to 1, then cosine decay to ``final`` (Loshchilov and Hutter, 2017, arXiv:1608.03983)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, steps - warmup_steps)
    return final + (1 - final) * (1 + cos(pi * min(1.0, share))) / 2


def linear(step: int, steps: int, *, warmup_steps: int = 100, final: float = 0.0) -> float:
    """Linear warm-up to 1, then linear decay to ``final``."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 1 + (final - 1) * min(1.0, share)


def stepwise(step: int, steps: int, *, every: int = 500, factor: float = 0.5, warmup_steps: int = 0) -> float:
    """Linear warm-up to 1, then one more ``factor`` after every ``every`` training steps."""
    if every < 1:
        raise InputError(f"scheduler.every={every} must be at least 1")
    return constant(step, steps, warmup_steps=warmup_steps) * factor ** (step // every)


def plateau(
    step: int,
    steps: int,
    improved: Sequence[bool],
    *,
    patience: int = 3,
    factor: float = 0.5,
    final: float = 0.001,
    warmup_steps: int = 0,
) -> float:
    """Linear warm-up to 1, then one more ``factor`` after every ``patience`` evaluations in a row without improvement.

    The result is at least ``final``.
    """
    if patience < 1:
        raise InputError(f"scheduler.patience={patience} must be at least 1")
    in_a_row = reductions = 0
    for is_best in improved:
        in_a_row = 0 if is_best else in_a_row + 1
        if in_a_row == patience:
            in_a_row, reductions = 0, reductions + 1
    return constant(step, steps, warmup_steps=warmup_steps) * max(final, factor**reductions)


def range_test(step: int, steps: int, *, first: float = 1e-4) -> float:
    """Growth from ``first`` to 1 by a constant factor per step: a learning-rate range test (Smith, 2017,
    arXiv:1506.01186).
    """
    return first ** (1 - step / max(1, steps - 1))
