"""Progress lines for a log file: step, loss, speed, elapsed time, and the estimated time left."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from time import perf_counter

from rnnlab.training.progress import Progress

FIRST, LONGEST = 10.0, 600.0
"""Seconds until the first line, and the longest time between two lines; the time doubles after each line."""


class Pace:
    """Estimates the time left from the steps since the process started, evaluations included.

    Args:
        at: progress of the run, which the trainer updates.
        steps: number of training steps of the run.
        seconds: training time in seconds after which the run ends, or None.
        clock: function that returns the time in seconds.
    """

    def __init__(
        self, at: Progress, steps: int, seconds: float | None = None, clock: Callable[[], float] = perf_counter
    ) -> None:
        self.at, self.steps, self.seconds, self.clock = at, steps, seconds, clock
        self.loss: float | None = None
        self.began, self.first_step, self.first_seconds, self.first_tokens = clock(), at.step, at.seconds, at.tokens
        self.interval, self.due = FIRST, clock() + FIRST

    def line(self) -> str | None:
        """Return the line that is due, or None."""
        if self.clock() < self.due:
            return None
        self.interval = min(2 * self.interval, LONGEST)
        self.due = self.clock() + self.interval
        return self.told()

    def told(self) -> str:
        """Return the progress in one line, with the loss of the latest record of the training metrics."""
        at, elapsed, left = self.at, self.clock() - self.began, self.left()
        words = [f"step {at.step:,} of {self.steps:,} ({at.step / self.steps:.0%})"]
        if self.loss is not None:
            words.append(f"loss {self.loss:.4g}")
        if at.seconds > self.first_seconds:
            speed = (at.tokens - self.first_tokens) / (at.seconds - self.first_seconds)
            words.append(f"{speed:,.0f} tokens/s")
        words.append(f"elapsed {duration(elapsed)}")
        if left is not None:
            end = datetime.now() + timedelta(seconds=left)
            words.append(f"left {duration(left)}, until {end:%Y-%m-%d %H:%M}")
        return "  ".join(words)

    def left(self) -> float | None:
        """Return the estimated seconds left, evaluations included; None before the first step."""
        elapsed, done = self.clock() - self.began, self.at.step - self.first_step
        if not done:
            return None
        left = (self.steps - self.at.step) * elapsed / done
        trained = self.at.seconds - self.first_seconds
        if self.seconds and trained > 0:
            left = min(left, max(0.0, self.seconds - self.at.seconds) * elapsed / trained)
        return left


def duration(seconds: float) -> str:
    """Return seconds as ``m:ss``, ``h:mm:ss`` or ``d days h:mm:ss``."""
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, minutes, last = rest // 3600, rest // 60 % 60, rest % 60
    text = f"{hours}:{minutes:02}:{last:02}" if days or hours else f"{minutes}:{last:02}"
    return f"{days} day{'s' * (days > 1)} {text}" if days else text
