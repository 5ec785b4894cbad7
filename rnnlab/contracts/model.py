"""The contract of a model, checked on a batch of a task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rnnlab import cells, lookup, models, tasks
from rnnlab.contracts.cell import same
from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.models import Model
from rnnlab.tasks import Task
from rnnlab.training.build import model_arguments
from rnnlab.trees import map_state, tensors_of


def check_model(
    model: str | type[Model], *, task: str | type[Task], cell: str = "gru", data_root: str = "data", **options: Any
) -> None:
    """Check that a model keeps the contract of `rnnlab.models.base`.

    The checks, in float64:

    - outputs are ``[T, B, output_size]``;
    - in evaluation mode, outputs are deterministic and draw no random numbers;
    - outputs do not depend on other sequences of the batch or on the padding of inputs and source;
    - the loss has a gradient with respect to every trainable parameter;
    - `begin` and `step` give the outputs of a forward pass, step by step, and so does a sequence in two parts, unless
      the model's `check_carrying` raises an InputError;
    - weights can be saved and loaded.

    Args:
        model: a name, ``package.module:Class``, or the class itself.
        task: a task that the model can learn; its first training batch is used.
        cell: the name of the cell to build the model from.
        data_root: the folder of the public data sets.
        options: the model's own options.

    Raises:
        AssertionError: the model breaks the contract; the message names the difference.
    """
    make = models.find(model) if isinstance(model, str) else model
    lookup.check_options(options, make, f"model {make.__name__}")
    owner = (tasks.find(task) if isinstance(task, str) else task)(0, data_root)
    given = model_arguments(owner, cells.find(cell))
    sizes = {"hidden_size": 8, "num_layers": 1} | options

    def create() -> Model:
        torch.manual_seed(0)
        return make(*given, **sizes).double()

    built, batch = create(), _doubled(owner.batch("train", 0))
    for name in ("hidden_size", "num_layers"):
        assert name in lookup.options(make), f"the model has no option {name}"
    _check_training(built, owner, batch)
    built = create().eval()
    with torch.no_grad():
        outputs = _check_outputs(built, owner, batch)
        _check_independence(built, batch, outputs)
        _check_padding(built, owner, batch, outputs)
        _check_steps(built, batch)
        other = make(*given, **sizes).double().eval()
        other.load_state_dict(built.state_dict())
        same(other(batch)[0], outputs, "another model with the same state dict has different outputs")


def _doubled(batch: Batch) -> Batch:
    """Return the batch in float64, so that rounding errors do not hide a mistake."""
    tensors = {name: getattr(batch, name) for name in ("inputs", "targets", "source")}
    return replace(batch, **{n: t.double() for n, t in tensors.items() if t is not None and t.is_floating_point()})


def _check_training(model: Model, task: Task, batch: Batch) -> None:
    outputs, _ = model(batch)
    total, count = task.loss(outputs, batch)
    (total / count).backward()
    left_out = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not left_out, f"the loss has no gradient with respect to {', '.join(left_out)}"


def _check_outputs(model: Model, task: Task, batch: Batch) -> Tensor:
    random = torch.get_rng_state()
    outputs, state = model(batch)
    expected = (*batch.inputs.shape[:2], task.output_size)
    assert outputs.shape == expected, f"outputs have the shape {list(outputs.shape)}, expected {list(expected)}"
    assert isinstance(state, tuple), f"the state is a {type(state).__name__}; it must be a tuple of tensors"
    for tensor in tensors_of(state):
        assert tensor.shape[:1] == expected[1:2], f"a state has the shape {list(tensor.shape)}; it must be [B, ...]"
    same(model(batch)[0], outputs, "two evaluations of one batch differ")
    assert torch.equal(random, torch.get_rng_state()), "an evaluation drew from the global random generator"
    return outputs


def _rows(batch: Batch, chosen: slice) -> Batch:
    """Return some sequences of a batch."""
    changed = {}
    for name in ("inputs", "targets", "source", "elapsed"):
        tensor = getattr(batch, name)
        if tensor is not None:
            changed[name] = tensor[:, chosen] if tensor.dim() > 1 else tensor[chosen]
    for name in ("lengths", "target_lengths", "fresh", "source_lengths"):
        tensor = getattr(batch, name)
        changed[name] = None if tensor is None else tensor[..., chosen]
    return replace(batch, **changed)


def _check_independence(model: Model, batch: Batch, outputs: Tensor) -> None:
    for row in {0, batch.batch_size - 1}:
        alone, _ = model(_rows(batch, slice(row, row + 1)))
        same(
            alone,
            outputs[:, row : row + 1],
            f"the outputs of sequence {row} depend on the other sequences of its batch",
        )


def _check_padding(model: Model, task: Task, batch: Batch, outputs: Tensor) -> None:
    """Assert that outputs within the lengths do not depend on the padding of inputs or source."""
    counts = torch.ones(outputs.shape[:2], dtype=torch.bool)
    if batch.lengths is not None:
        counts = torch.arange(len(outputs)).unsqueeze(1) < batch.lengths
    for name, lengths_name, kind in (("inputs", "lengths", task.input), ("source", "source_lengths", task.source)):
        sequences, lengths = getattr(batch, name), getattr(batch, lengths_name)
        if lengths is None:
            continue
        past = torch.arange(len(sequences)).unsqueeze(1) >= lengths
        past = past.view(*past.shape, *[1] * (sequences.dim() - 2))
        other = (sequences + 1) % kind.size if isinstance(kind, Tokens) else sequences + 1
        found, _ = model(replace(batch, **{name: torch.where(past, other, sequences)}))
        same(found[counts], outputs[counts], f"the outputs depend on the padding of {name}")


def _check_steps(model: Model, batch: Batch) -> None:
    try:
        model.check_carrying()
    except InputError:
        return
    whole = replace(batch, lengths=None, fresh=None, elapsed=None)  # generation has none of them
    outputs, _ = model(whole)
    state = model.begin(batch.source, batch.source_lengths, batch.batch_size)
    for t, inputs in enumerate(batch.inputs):
        found, state = model.step(inputs, state)
        same(found, outputs[t], f"output {t} of generation step by step differs from the forward pass")
    half = len(batch.inputs) // 2
    if half:
        first, state = model(replace(whole, inputs=batch.inputs[:half]))
        second, _ = model(replace(whole, inputs=batch.inputs[half:]), map_state(Tensor.detach, state))
        same(torch.cat([first, second]), outputs, "a sequence in two parts has different outputs than the whole")
