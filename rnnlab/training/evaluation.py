"""Evaluation: the exact mean of each metric over one pass through a split, and what the model writes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnnlab import generation
from rnnlab.interface import Batch, State, map_state, pick_rows
from rnnlab.models import Model
from rnnlab.tasks import Task


def carry(model: Model, state: State | None, fresh: Tensor | None) -> State | None:
    """The state before a batch: the final state of the previous one, detached, and a new one for ``fresh`` streams.

    Args:
        model: gives the initial state, which may be learned.
        state: the final state of the previous batch; None before the first.
        fresh: bool ``[B]``, or None where every batch stands alone.
    """
    if fresh is None:
        return None
    initial = model.begin(batch_size=fresh.shape[0])
    if state is None:
        return initial
    return map_state(lambda new, old: pick_rows(fresh, new.to(old.dtype), old.detach()), initial, state)


class Report(NamedTuple):
    """The result of one pass through a split.

    values: each metric of the task, by name.
    by_length: the task's ``length_metric`` for each length that occurred; empty where the task has no lengths.
    """

    values: dict[str, float]
    by_length: dict[int, float]

    def record(self) -> dict[str, Any]:
        """Both in one dictionary, as it is stored."""
        return {**self.values, **({"by_length": self.by_length} if self.by_length else {})}


def evaluate(model: Model, task: Task, split: str, device: torch.device, autocast: torch.autocast) -> Report:
    """Each metric of ``task`` over one pass through ``split``.

    Metrics of outputs are computed under teacher forcing. Where the task says so, the model also writes a sequence for
    each member of the split, which the task judges. The model is in evaluation mode meanwhile, and nothing outside it
    changes.
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
    return Report({**values, **task.judge(split, written)} if steps else values, by_length)


def _write(model: Model, task: Task, batch: Batch, steps: int) -> list[Tensor]:
    """What the model writes after the first input of each sequence, given its source."""
    return generation.write(
        model,
        task.head,
        batch.inputs[:1],
        steps=steps,
        source=batch.source,
        source_lengths=batch.source_lengths,
        end=task.end,
        beam_size=task.beam_size,
    )


def _add(sums: dict[Any, tuple[float, float]], key: str | int, total: Any, count: Any) -> None:
    total_so_far, count_so_far = sums.get(key, (0.0, 0.0))
    sums[key] = (total_so_far + _number(total), count_so_far + _number(count))


def _number(value: Tensor | float) -> float:
    return float(value.sum() if isinstance(value, Tensor) else value)
