"""The contract of a task, checked on batches of every split."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from rnnlab import cells, lookup, tasks
from rnnlab.contracts.cell import same
from rnnlab.interface import Batch, Images, Tokens, Vectors, samples_of
from rnnlab.models import Model
from rnnlab.models.sequence_model import SequenceModel
from rnnlab.tasks import Task
from rnnlab.training.build import model_arguments
from rnnlab.training.device import autocast
from rnnlab.training.evaluation import evaluate


def check_task(
    task: str | type[Task], *, model: type[Model] = SequenceModel, data_root: str = "data", **options: Any
) -> None:
    """Check that a task keeps the contract of `rnnlab.tasks.base`.

    The checks:

    - batches are a function of seed, split and step only; valid and test do not depend on the seed of the run;
    - sequences are time-major and have the declared types and sizes;
    - loss and metrics are finite and declared, and the loss has a gradient with respect to the model's parameters;
    - samples are deterministic;
    - `memory` can be saved without pickled classes, and `restore` reproduces the task's interface and samples.

    Args:
        task: a name, ``package.module:Class``, or the class itself.
        model: the class of a model that can learn the task; a small model with GRU cells is built, or with CfC cells if
            the task has elapsed times.
        data_root: the folder of the public data sets.
        options: the task's own options.

    Raises:
        AssertionError: the task breaks the contract; the message names the difference.
    """
    make = tasks.find(task) if isinstance(task, str) else task
    lookup.check_options(options, make, f"task {make.__name__}")

    def create(seed: int) -> Task:
        return make(seed, data_root, **options)

    torch.manual_seed(0)
    random = torch.get_rng_state()
    first = create(0)
    _check_declarations(first)
    for split in first.splits:
        _check_batches(split, create)
    assert torch.equal(random, torch.get_rng_state()), (
        "making batches drew from the global random generator; use task.generator"
    )
    assert first.data_digest() == create(1).data_digest(), (
        "data_digest depends on the seed; it must depend on the data only"
    )

    cell = partial(cells.find("cfc" if first.has_elapsed else "gru"))
    built = model(*model_arguments(first, cell), hidden_size=8, num_layers=1)
    _check_learning(first, built)
    _check_memory(first, create(0), built)


def _check_declarations(task: Task) -> None:
    assert isinstance(task.input, Tokens | Vectors | Images), (
        f"task.input is {task.input!r}; it must be Tokens, Vectors or Images"
    )
    assert task.source is None or isinstance(task.source, Tokens | Vectors | Images), (
        f"task.source is {task.source!r}; it must be Tokens, Vectors, Images or None"
    )
    assert task.output_size >= 1, f"task.output_size is {task.output_size}; it must be at least 1"
    assert "train" in task.splits, f"task.splits is {task.splits}; it must contain train"
    assert set(task.splits) <= {"train", "valid", "test"}, (
        f"task.splits is {task.splits}; only train, valid and test are allowed"
    )
    assert {"loss", task.monitor} <= set(task.metrics), (
        f"task.metrics is {list(task.metrics)}; it must contain loss and {task.monitor}"
    )


def _check_batches(split: str, create: Callable[[int], Task]) -> None:
    task, again, other = create(0), create(0), create(1)
    count = task.num_batches(split)
    assert count >= 1, f"num_batches({split!r}) is {count}; it must be at least 1"
    steps = [0, min(1, count - 1), count - 1]
    batches = [task.batch(split, step) for step in steps]
    for step, batch in reversed(list(zip(steps, batches, strict=True))):
        _check_batch(task, batch, split)
        same(
            _content(again.batch(split, step)),
            _content(batch),
            f"batch({split!r}, {step}) is not a function of seed and step",
            equal_nan=True,
        )
        if split != "train":
            sentence = (
                f"batch({split!r}, {step}) depends on the run's seed; valid and test must be the same for all seeds"
            )
            same(_content(other.batch(split, step)), _content(batch), sentence, equal_nan=True)


def _content(batch: Batch) -> tuple[Tensor, ...]:
    return tuple(part for field in fields(batch) if (part := getattr(batch, field.name)) is not None)


def _check_batch(task: Task, batch: Batch, split: str) -> None:
    _check_sequences(task.input, batch.inputs, f"{split} inputs")
    assert (batch.source is None) == (task.source is None), (
        "task.source and batch.source must both be given or both be None"
    )
    if batch.source is not None:
        _check_sequences(task.source, batch.source, f"{split} source")
        assert batch.source.shape[1] == batch.batch_size, (
            f"{split} source has {batch.source.shape[1]} sequences, but the inputs have {batch.batch_size}"
        )
    sequences = {"lengths": batch.inputs, "target_lengths": batch.targets, "source_lengths": batch.source}
    for name, measured in sequences.items():
        lengths = getattr(batch, name)
        if lengths is not None:
            assert lengths.shape == (batch.batch_size,), f"{name} have the shape {list(lengths.shape)}; it must be [B]"
            assert int(lengths.min()) >= 1, f"{name} contain {int(lengths.min())}; they must be at least 1"
            assert measured is not None, f"{name} are given without a source"
            longest = measured.shape[0]
            assert int(lengths.max()) <= longest, f"{name} contain {int(lengths.max())}, but there are {longest} steps"
    if batch.fresh is not None:
        assert batch.fresh.dtype == torch.bool, f"fresh is {batch.fresh.dtype}; it must be bool"
        assert batch.fresh.shape in (batch.inputs.shape[1:2], batch.inputs.shape[:2]), (
            f"fresh has the shape {list(batch.fresh.shape)}; it must be [B] or [T, B]"
        )
    assert (batch.elapsed is not None) == task.has_elapsed, (
        f"elapsed is {'not ' * (batch.elapsed is None)}given, but has_elapsed is {task.has_elapsed}"
    )
    if batch.elapsed is not None:
        assert batch.elapsed.shape == batch.inputs.shape[:2], (
            f"elapsed has the shape {list(batch.elapsed.shape)}; it must be [T, B]"
        )
        assert float(batch.elapsed.min()) >= 0, f"elapsed has {float(batch.elapsed.min())}; times must be at least 0"


def _check_sequences(kind: Tokens | Vectors | Images, sequences: Tensor, name: str) -> None:
    """Assert that ``sequences`` are what the task declares: ``[T, B]`` tokens, or ``[T, B, ...]`` numbers."""
    given = f"{name} are {sequences.dtype} {list(sequences.shape)}"
    if isinstance(kind, Tokens):
        assert sequences.dtype == torch.int64, f"{given}; tokens must be int64"
        assert sequences.dim() == 2, f"{given}; tokens must be [T, B]"
        assert int(sequences.min()) >= 0, f"{given}; a token is negative"
        assert int(sequences.max()) < kind.size, f"{given}; a token is not below the declared size {kind.size}"
    else:
        shape = (kind.size,) if isinstance(kind, Vectors) else kind.shape
        assert sequences.is_floating_point(), f"{given}; vectors and images must be floating point"
        assert sequences.shape[2:] == shape, f"{given}; they must be [T, B, {', '.join(map(str, shape))}]"


def _check_learning(task: Task, model: Model) -> None:
    batch = task.batch("train", 0)
    outputs, _ = model(batch)
    assert outputs.shape[-1] == task.output_size, (
        f"outputs have {outputs.shape[-1]} features, but task.output_size is {task.output_size}"
    )
    total, count = task.loss(outputs, batch)
    assert float(count) > 0, f"the count of the loss is {count}; it must be positive"
    assert total.isfinite(), f"the loss is {total.detach()}"
    (total / count).backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters()), "the loss has no gradient"
    cpu = torch.device("cpu")
    for split in task.splits:
        values = evaluate(model, task, split, cpu, autocast(cpu, "fp32")).values
        # A split without generation lacks the metrics of generated sequences.
        is_complete = task.steps_to_write(split) or not any(map(task.steps_to_write, task.splits))
        declared = set(task.metrics) if is_complete else set(task.metrics) & set(values)
        assert set(values) == declared, (
            f"the metrics of {split} are {sorted(values)}, but task.metrics declares {sorted(task.metrics)}"
        )
        assert all(isfinite(value) for value in values.values()), f"a metric of {split} is not finite: {values}"
        for name, others in task.baselines(split).items():
            assert others.keys() <= task.metrics.keys(), (
                f"baseline {name} has {sorted(others)}, not in {sorted(task.metrics)}"
            )
            assert all(isfinite(value) for value in others.values()), f"baseline {name} is not finite: {others}"
    random = torch.get_rng_state()
    samples = [samples_of(task.sample(model.eval())) for _ in range(2)]
    assert samples[0] == samples[1], "two samples of one model differ; draw with a fixed seed"
    assert all(sample.content.strip() for sample in samples[0]), "the sample is empty"
    assert torch.equal(random, torch.get_rng_state()), "a sample drew from the global random generator"


def _check_memory(task: Task, other: Task, model: Model) -> None:
    buffer = io.BytesIO()
    torch.save(task.memory(), buffer)
    buffer.seek(0)
    other.restore(torch.load(buffer, weights_only=True))
    assert (other.input, other.output_size) == (task.input, task.output_size), (
        "restore(memory()) changes input or output_size"
    )
    assert other.sample(model) == task.sample(model), "restore(memory()) changes the sample"
