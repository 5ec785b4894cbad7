"""Budgets: solve for the width at which a model has a given number of parameters, operations or state numbers.

Cells of equal width can differ in size by a factor of several. For a fair comparison, the width of each model is solved
for its budget. Nothing is estimated from a formula: the model is built, and its parameters, operations or the numbers
of its state are counted. It is built on the meta device, where tensors have a shape but no data, so a large width takes
neither time nor memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from math import ceil, sqrt
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from rnnlab import cells, lookup
from rnnlab.interface import Batch, InputError
from rnnlab.layers import Recurrent
from rnnlab.layers.regularisers import as_trained
from rnnlab.models import Model
from rnnlab.tasks import Task
from rnnlab.training import flops
from rnnlab.training.build import Config, build_model, build_task
from rnnlab.trees import tensors_of

KINDS = ("parameters", "flops_per_step", "state_size")
"""Budgets for which the width is solved: options of ``budget`` and fields of `Size`."""

LARGEST_WIDTH = 65536
"""Largest width that is tried."""


class Size(NamedTuple):
    """The cost of a model.

    parameters: number of trained parameters.
    flops_per_step: floating-point operations of a training step. The matrix products, convolutions and attention of a
        forward pass on the first training batch are counted and multiplied by three, because the backward pass has two
        products for each (Kaplan et al., 2020, arXiv:2001.08361, section 2.1). Point-wise operations are counted only
        if the state is a matrix (`rnnlab.training.flops`). Operations on padding are included.
    flops_per_token: these operations per step of a sequence that the model reads
        (`rnnlab.interface.Batch.num_tokens`).
    state_size: numbers that the model carries from step to step for each sequence, in all layers, counters included;
        None if the model has no `begin`. See `count_state`.
    """

    parameters: int
    flops_per_step: int
    flops_per_token: int
    state_size: int | None


def count_parameters(model: Model) -> int:
    """The number of trained parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_state(model: Model) -> int:
    """The numbers of the state of a model for each sequence.

    For a model that reads a source, these are the states of its recurrent layers. The encoded source that attention
    reads is not included, because its size depends on the length of the source.
    """
    if model.source is None:
        state = model.begin(batch_size=1)
    else:
        state = tuple(layer.initial_state(1) for layer in model.modules() if isinstance(layer, Recurrent))
    return sum(tensor.numel() for tensor in tensors_of(state))


def measure(config: Config, task: Task) -> Size:
    """The cost of the model of a configuration. The states of the random generators do not change.

    Args:
        config: resolved configuration.
        task: task of the configuration.
    """
    batch = task.batch("train", 0)
    operations = _counted(config, task, "flops_per_step", batch)
    try:
        state_size = _counted(config, task, "state_size", batch)
    except NotImplementedError:
        state_size = None
    parameters = _counted(config, task, "parameters", batch)
    return Size(parameters, operations, round(operations / batch.num_tokens), state_size)


def _counted(config: Config, task: Task, kind: str, batch: Batch | None) -> int:
    """The quantity ``kind``, one of `KINDS`, of a configuration's model; operations are counted on ``batch``."""
    plain = {**config, "engine": {"backend": "reference"}}  # its operations can be counted
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"), _NormalLeftOut(), as_trained():
                return _count(build_model(plain, task), kind, batch, "meta")
        except Exception:  # the model may read values of tensors; any other error is raised again on the CPU
            with as_trained():  # options of dropout are checked when the model is built for training
                return _count(build_model(plain, task), kind, batch, "cpu")


class _NormalLeftOut(TorchFunctionMode):
    """Skips normal initialisers: on the meta device, PyTorch imports its compiler for them, which takes two seconds."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.__name__.endswith("normal_"):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def _count(model: Model, kind: str, batch: Batch | None, device: str) -> int:
    """The quantity ``kind`` of a model on ``device``."""
    if kind != "flops_per_step":
        return count_parameters(model) if kind == "parameters" else count_state(model)
    # First without lengths, because their values cannot be read on the meta device. Some models need them.
    names = ("lengths", "target_lengths", "source_lengths")
    lengths = {name: getattr(batch, name) for name in names}
    bare = replace(batch, **dict.fromkeys(names)).to(torch.device(device))
    with suppress(Exception):
        return 3 * flops.forward_operations(model, bare)
    return 3 * flops.forward_operations(model, replace(bare, **lengths))


def solve(config: Config, at_width: Callable[[int], Config] | None = None) -> Config:
    """The configuration with ``model.hidden_size`` solved for the budget; unchanged if it has no budget.

    Args:
        config: resolved configuration; ``budget.parameters`` is the number of trained parameters,
            ``budget.flops_per_step`` the number of floating-point operations of a training step on the first batch,
            ``budget.state_size`` the numbers of the state of a sequence; see `Size`.
        at_width: function from a width to the configuration with this width; needed if other options depend on it.

    Raises:
        InputError: the relative deviation from the budget exceeds ``budget.tolerance`` at every width up to
            `LARGEST_WIDTH`, or several of these budgets are set.
    """
    for key, value in config["budget"].items():
        if value is not None and not (value >= 0 if key == "tolerance" else value > 0):
            allowed = "at least 0" if key == "tolerance" else "positive, or null for no limit"
            raise InputError(f"budget.{key}={value} must be {allowed}")
    goals = {key: config["budget"][key] for key in KINDS if config["budget"][key]}
    if not goals:
        return config
    if len(goals) > 1:
        one, other = list(goals)[:2]
        raise InputError(f"budget.{one} and budget.{other} are both set; set only one of them")
    (kind, goal), tolerance = next(iter(goals.items())), config["budget"]["tolerance"]
    configured = at_width or (lambda width: with_width(config, width))
    first_task = build_task(config)
    multiple = _multiple(config)
    found: dict[int, float] = {}

    def cost(units: int) -> float:
        if units not in found:
            wide = configured(units * multiple)
            task = first_task if wide["task"] == config["task"] else build_task(wide)
            found[units] = _counted(wide, task, kind, task.batch("train", 0) if kind == "flops_per_step" else None)
        return found[units]

    low, high = _bracket(cost, goal, LARGEST_WIDTH // multiple)
    best = min((low, high), key=lambda units: abs(cost(units) - goal))
    if abs(cost(best) / goal - 1) > tolerance:
        nearest = (low, high) if cost(high) >= goal else (high,)  # high is the largest width in the second case
        near = " or ".join(f"{cost(units):,.0f} (width {units * multiple})" for units in nearest)
        least = ceil(1000 * abs(cost(best) / goal - 1)) / 1000
        limit = f"; the largest width tried is {LARGEST_WIDTH}"
        advice = f"; set budget.{kind} to such a value, or budget.tolerance to at least {least:g}"
        raise InputError(
            f"budget.{kind}={goal:,.0f} cannot be met by cell {config['cell']['name']} within "
            f"budget.tolerance={tolerance}; the nearest value is {near}{limit if cost(high) < goal else advice}"
        )
    return configured(best * multiple)


def _bracket(cost: Callable[[int], float], goal: float, largest: int) -> tuple[int, int]:
    """Two neighbouring widths whose costs bracket the goal; the second is ``largest`` if its cost is below the goal.

    The cost grows with the width, at most quadratically, so few widths have to be counted.
    """
    low, high = 1, 2
    while cost(high) < goal and high < largest:
        low, high = high, int(min(max(2 * high, high * sqrt(goal / max(cost(high), 1))), largest))
    by_halves = False
    while high - low > 1 and cost(high) >= goal:
        share = 0.5 if by_halves else (goal - cost(low)) / (cost(high) - cost(low))
        middle = min(max(low + round(share * (high - low)), low + 1), high - 1)
        low, high = (middle, high) if cost(middle) < goal else (low, middle)
        by_halves = not by_halves
    return low, high


def deviation(goals: dict[str, Any], size: Size) -> dict[str, Any] | None:
    """The relative deviation of a run from its budget, for its summary; None without a budget.

    Args:
        goals: section ``budget`` of the configuration.
        size: cost of the run's model.
    """
    for kind in KINDS:
        if goal := goals[kind]:
            found = getattr(size, kind)
            return {"of": kind, "goal": goal, "found": found, "deviation": found / goal - 1}
    return None


def with_width(config: Config, hidden_size: int) -> Config:
    """The configuration with another ``model.hidden_size``."""
    return {**config, "model": {**config["model"], "hidden_size": hidden_size}}


def _multiple(config: Config) -> int:
    """The number that must divide the width of the cell."""
    name, options = lookup.read_section(config["cell"])
    return cells.find(name).width_multiple(**options)
