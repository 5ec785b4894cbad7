"""How far a run has come, as its checkpoints store it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """Progress of a run, stored in each checkpoint.

    step: number of training steps done.
    tokens: number of time steps trained on, over all sequences.
    seconds: training time in seconds, without evaluations, including the time before the run was resumed.
    solved: training step at which the target was reached; None before.
    best: best evaluation so far, ``{"step", metrics…, "by_length"}``.
    improved: for each evaluation, whether it was the best so far.
    final: latest evaluation, in the same form.
    window: loss and gradient norm of each training step since the training metrics were last recorded.
    window_tokens: value of ``tokens`` when the training metrics were last recorded.
    window_seconds: value of ``seconds`` when the training metrics were last recorded.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    solved: int | None = None
    best: dict[str, Any] | None = None
    improved: list[bool] = field(default_factory=list)
    final: dict[str, Any] | None = None
    window: list[list[float]] = field(default_factory=list)
    window_tokens: int = 0
    window_seconds: float = 0.0

    def forget_evaluations(self) -> None:
        """Reset ``best``, ``improved``, ``final`` and ``solved``."""
        self.best = self.final = self.solved = None
        self.improved = []

    @property
    def stale(self) -> int:
        """Number of evaluations since the best one; the first evaluation counts as an improvement."""
        return len(self.improved) if True not in self.improved else self.improved[::-1].index(True)
