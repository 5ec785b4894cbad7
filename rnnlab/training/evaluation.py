"""Evaluation: the exact mean of each metric over one pass through a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnnlab import files, generation
from rnnlab.interface import Batch
from rnnlab.models import Model
from rnnlab.tasks import Task
from rnnlab.trees import State, map_state, pick_rows


def carry(model: Model, state: State | None, fresh: Tensor | None) -> State | None:
    """The initial state for a batch: the detached final state of the previous batch, reset for ``fresh`` streams.

    Args:
        model: model that provides the initial state, which may be learned.
        state: final state of the previous batch; None for the first batch.
        fresh: bool ``[B]``, True for streams that start in this batch; None if batches are independent.

    Returns:
        the state; None if ``fresh`` is None.
    """
    if fresh is None:
        return None
    initial = model.begin(batch_size=fresh.shape[0])
    if state is None:
        return initial
    return map_state(lambda new, old: pick_rows(fresh, new.to(old.dtype), old.detach()), initial, state)


class Report(NamedTuple):
    """The result of one pass through a split.

    values: metrics of the task, by name.
    by_length: the task's ``length_metric`` for each sequence length in the split; empty if the task has no lengths.
    transcripts: contents of text files about the generated sequences by name, see `rnnlab.tasks.Task.transcripts`.
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
    """
    was_training = model.training
    model.eval()
    sums: dict[str, tuple[float, float]] = {}
    at_length: dict[int, tuple[float, float]] = {}
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
            for name, (total, count) in {"loss": task.loss(outputs, batch), **task.measure(outputs, batch)}.items():
                _add(sums, name, total, count)
                lengths = task.lengths(split, step)
                if name == task.length_metric and lengths is not None:
                    for length, *one in zip(lengths.tolist(), total.tolist(), count.tolist(), strict=True):
                        _add(at_length, length, *one)
    model.train(was_training)
    by_length = {length: total / count for length, (total, count) in sorted(at_length.items()) if count}
    values = task.derive({name: total / count for name, (total, count) in sums.items()})
    if not steps:
        return Report(values, by_length, {})
    return Report({**values, **task.judge(split, written)}, by_length, task.transcripts(split, written))


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


def _add(sums: dict[Any, tuple[float, float]], key: str | int, total: Any, count: Any) -> None:
    total_so_far, count_so_far = sums.get(key, (0.0, 0.0))
    sums[key] = (total_so_far + _number(total), count_so_far + _number(count))


def _number(value: Tensor | float) -> float:
    return float(value.sum() if isinstance(value, Tensor) else value)
