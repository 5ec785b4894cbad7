"""Learning-rate schedules as pure functions of the step, so that resuming needs no scheduler state.

Each function returns the factor on the learning rate at training step ``step`` (from 0) of ``steps``. To add a
schedule, add a function here and a YAML file in ``conf/scheduler``.
"""

from __future__ import annotations

from math import cos, pi


def constant(step: int, steps: int, *, warmup_steps: int = 0) -> float:
    """Linear warm-up, then constant 1."""
    return min(1.0, (step + 1) / max(1, warmup_steps))


def cosine(step: int, steps: int, *, warmup_steps: int = 100, final: float = 0.02) -> float:
    """Linear warm-up to 1, then cosine decay to ``final`` (Loshchilov and Hutter, 2017, arXiv:1608.03983)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, steps - warmup_steps)
    return final + (1 - final) * (1 + cos(pi * min(1.0, share))) / 2
