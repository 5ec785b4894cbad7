"""Evaluation: the exact mean of every metric over one pass through a split."""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.interface import State, map_state, pick_rows
from rnnlab.models import Model
from rnnlab.tasks import Task


def carry(model: Model, state: State | None, fresh: Tensor | None) -> State | None:
    """The state a batch begins with: detached from the batch before, and anew for the streams that are ``fresh``.

    Args:
        model: gives the state to begin anew with, which may be learned.
        state: what the batch before ended with; None before the first.
        fresh: bool ``[B]``, or None where every batch stands alone.
    """
    if fresh is None:
        return None
    initial = model.initial_state(fresh.shape[0])
    if state is None:
        return initial
    return map_state(lambda new, old: pick_rows(fresh, new.to(old.dtype), old.detach()), initial, state)


def evaluate(model: Model, task: Task, split: str, device: torch.device, autocast: torch.autocast) -> dict[str, float]:
    """Every metric of ``task`` over one pass through ``split``, by name.

    The model is in evaluation mode meanwhile, and nothing outside it is touched.
    """
    was_training = model.training
    model.eval()
    sums: dict[str, tuple[float, float]] = {}
    state = None
    with torch.inference_mode():
        for step in range(task.num_batches(split)):
            batch = task.batch(split, step).to(device)
            with autocast:
                outputs, state = model(batch, carry(model, state, batch.fresh))
            for name, (total, count) in {"loss": task.loss(outputs, batch), **task.measure(outputs, batch)}.items():
                total_so_far, count_so_far = sums.get(name, (0.0, 0.0))
                sums[name] = (total_so_far + float(total), count_so_far + float(count))
    model.train(was_training)
    return task.derive({name: total / count for name, (total, count) in sums.items()})
