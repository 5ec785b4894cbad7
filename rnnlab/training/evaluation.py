"""Evaluation: the exact mean of each metric over one pass through a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnnlab import files, generation
from rnnlab.interface import Batch, Mean
from rnnlab.models import Model
from rnnlab.tasks import Task
from rnnlab.trees import State, map_state, pick_rows


def carry(model: Model, state: State | None, fresh: Tensor | None) -> State | None:
    """The initial state for a batch: the detached final state of the previous batch, reset for ``fresh`` streams.

    Args:
        model: model that provides the initial state, which may be learned.
        state: final state of the previous batch; None for the first batch.
        fresh: bool ``[B]``, True for streams that start in this batch, or ``[T, B]``, True at steps before which the
            model itself resets its state; None if batches are independent.

    Returns:
        the state; None if ``fresh`` is None.
    """
    if fresh is None:
        return None
    if state is not None and fresh.dim() == 2:
        return map_state(Tensor.detach, state)
    initial = model.begin(batch_size=fresh.shape[-1])
    if state is None:
        return initial
    return map_state(lambda new, old: pick_rows(fresh, new.to(old.dtype), old.detach()), initial, state)


class Report(NamedTuple):
    """The result of one pass through a split.

    values: metrics of the task, by name.
    by_length: the task's ``length_metric`` for each sequence length in the split; empty if the task has no lengths.
    transcripts: contents of text files by name, see `rnnlab.tasks.Task.transcripts` and `rnnlab.tasks.Task.details`.
    """

    values: dict[str, float]
    by_length: dict[int, float]
    transcripts: dict[str, str]

    def record(self) -> dict[str, Any]:
        """The metrics as one dictionary, as written to metrics.jsonl."""
        return {**self.values, **({"by_length": self.by_length} if self.by_length else {})}


def evaluate(model: Model, task: Task, split: str, device: torch.device, autocast: torch.autocast) -> Report:
    """Evaluate all metrics of ``task`` in one pass through ``split``.

    Metrics of the outputs are computed under teacher forcing. If ``task.steps_to_write(split)`` is positive, the model
    also generates a sequence for each example of the split, and ``task.judge`` scores the sequences. The model is in
    evaluation mode during the call; its mode is restored afterwards.

    The host waits for a GPU once, at the end of the pass; generation also waits once for each step, since values are
    drawn on the CPU, and so does a task that reads the outputs of a batch on the host.
    """
    was_training = model.training
    model.eval()
    sums = _Sums()
    steps = task.steps_to_write(split)
    written: list[Tensor] = []
    state = None
    with torch.inference_mode():
        for step in range(task.num_batches(split)):
            batch = task.batch(split, step).to(device)
            with autocast:
                outputs, state = model(batch, carry(model, state, batch.fresh))
                if steps:
                    written += _write(model, task, batch, steps)
            for name, mean in {"loss": task.loss(outputs, batch), **task.measure(outputs, batch)}.items():
                sums.add(name, mean, task.lengths(split, step) if name == task.length_metric else None)
        means, by_length = sums.means()
    model.train(was_training)
    values, details = task.derive(means), task.details(split, means)
    if not steps:
        return Report(values, by_length, details)
    return Report({**values, **task.judge(split, written)}, by_length, details | task.transcripts(split, written))


_Number = Tensor | float


class _Sums:
    """The sums of one pass.

    Sums on a GPU stay there until the end of the pass: each copy to the host would wait until the GPU is idle. They are
    float64 and added in the order of the batches, so they are the same on every device, up to the rounding of a batch.
    """

    def __init__(self) -> None:
        self.sums: dict[str, tuple[_Number, _Number]] = {}
        self.by_length: list[tuple[list[int], Tensor, Tensor]] = []

    def add(self, name: str, mean: Mean, lengths: Tensor | None) -> None:
        """Add the sum and count of a batch; with ``lengths`` ``[B]``, they are ``[B]`` and also added by length."""
        self.sums[name] = tuple(
            so_far + _summed(value) for so_far, value in zip(self.sums.get(name, (0.0, 0.0)), mean, strict=True)
        )
        if lengths is not None:
            self.by_length.append((lengths.tolist(), *mean))

    def means(self) -> tuple[dict[str, float], dict[int, float]]:
        """The mean of each name, and the mean for each length."""
        pairs = [*self.sums.values(), *((total, count) for _, total, count in self.by_length)]
        numbers = iter(_copied([value for pair in pairs for value in pair]))
        means = {name: next(numbers)[0] / next(numbers)[0] for name in self.sums}
        at_length: dict[int, tuple[float, float]] = {}
        for lengths, *_ in self.by_length:
            for length, total, count in zip(lengths, next(numbers), next(numbers), strict=True):
                before = at_length.get(length, (0.0, 0.0))
                at_length[length] = before[0] + total, before[1] + count
        return means, {length: total / count for length, (total, count) in sorted(at_length.items()) if count}


def _summed(value: _Number) -> _Number:
    """The sum of a value, as a number if it is on the host, otherwise as a float64 tensor."""
    if not isinstance(value, Tensor):
        return float(value)
    return float(value.sum()) if value.device.type == "cpu" else value.sum().double()


def _copied(values: list[_Number]) -> list[list[float]]:
    """Each value as a list; all tensors that are on another device are copied together."""
    there = [value for value in values if isinstance(value, Tensor) and value.device.type != "cpu"]
    together = torch.cat([value.double().flatten() for value in there]).cpu() if there else torch.empty(0)
    copies = iter(together.split([value.numel() for value in there]))

    def listed(value: _Number) -> list[float]:
        if not isinstance(value, Tensor):
            return [value]
        return (value.double() if value.device.type == "cpu" else next(copies)).flatten().tolist()

    return [listed(value) for value in values]


def store(transcripts: dict[str, str], folder: Path) -> None:
    """Write the transcripts of a `Report` to files in ``folder``; earlier ones are replaced."""
    if transcripts:
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in transcripts.items():
        files.write_bytes(folder / name, text.encode())


def _write(model: Model, task: Task, batch: Batch, steps: int) -> list[Tensor]:
    """Generate a sequence from the first inputs of each sequence, conditioned on its source."""
    return generation.write(
        model,
        task.head,
        batch.inputs[: task.prompt_steps],
        steps=steps,
        source=batch.source,
        source_lengths=batch.source_lengths,
        end=task.end,
        beam_size=task.beam_size,
        advance=task.advance,
    )
