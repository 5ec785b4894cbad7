"""What cells with a time step share: the time that has passed since the previous observation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rnnlab.cells.base import Cell
from rnnlab.interface import InputError


class Timed(Cell):
    """Base class of cells whose ``prepare`` takes ``elapsed``, the time between each input and the previous one.

    The times have the shape ``[T, B]`` and multiply the cell's time step, so times of 1 are the same as none. The first
    time is the time between the initial state and the first input.
    """

    context_per_step: tuple[str, ...] = ("elapsed",)
    context_between: tuple[str, ...] = ("elapsed",)

    def timed(self, prepared: Tensor, elapsed: Tensor | None) -> Any:
        """Return the inputs of all steps, together with the times ``[T, B, 1]`` if they are given."""
        if elapsed is None:
            return prepared
        if elapsed.shape != prepared.shape[:2]:
            raise InputError(
                f"elapsed has the shape {list(elapsed.shape)}, expected {list(prepared.shape[:2])}, [T, B]"
            )
        return prepared, elapsed.to(self.like.dtype).unsqueeze(-1)  # autocast may have rounded the input


def time_of(inputs: Any, step: float) -> tuple[Tensor, Any]:
    """Divide the inputs of one step from `Timed.timed` into the prepared input and the time step ``step`` times."""
    if isinstance(inputs, tuple):
        prepared, elapsed = inputs
        return prepared, step * elapsed
    return inputs, step
