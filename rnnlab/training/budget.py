"""Budgets: solve the width at which a model has a given number of parameters or operations.

Cells of one width differ several times over in size. To compare them fairly, the width is solved for each by
counting: the model is built, and its parameters or operations are counted, not estimated from a formula. It is built on
the meta device, where tensors have shapes and no numbers, so that the width costs neither time nor memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from math import sqrt
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from rnnlab import cells, lookup
from rnnlab.interface import Batch, InputError
from rnnlab.layers.regularisers import as_trained
from rnnlab.models import Model
from rnnlab.tasks import Task
from rnnlab.training import flops
from rnnlab.training.build import Config, build_model, build_task

LARGEST_WIDTH = 65536
"""No larger width is tried."""


class Size(NamedTuple):
    """The cost of a model.

    parameters: trained numbers.
    flops_per_token: floating-point operations of training, for each step of a sequence that the model reads
        (`rnnlab.interface.Batch.num_tokens`): those of a forward pass on the first training batch, matrix products,
        convolutions and attention, times three, as backward has two products for each (Kaplan et al., 2020,
        arXiv:2001.08361, section 2.1). Point-wise operations count where a state is a matrix
        (`rnnlab.training.flops`). Padding is computed, and so it counts.
    """

    parameters: int
    flops_per_token: int


def count_parameters(model: Model) -> int:
    """How many numbers of a model are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def measure(config: Config, task: Task) -> Size:
    """The cost of the model of a configuration; no random generator changes.

    Args:
        config: resolved.
        task: the configuration's task.
    """
    return Size(*(_counted(kind, config, task) for kind in ("parameters", "flops_per_token")))


def _counted(kind: str, config: Config, task: Task) -> int:
    """One of a budget's kinds, or of `Size`'s, for the model of a configuration."""
    batch = None if kind == "parameters" else task.batch("train", 0)
    plain = {**config, "engine": {"backend": "reference"}}  # whose operations can be counted
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"), _NormalLeftOut(), as_trained():
                found = _count(build_model(plain, task), batch, "meta")
        except Exception:  # a model that reads numbers needs some; whatever else is wrong raises its error here too
            with as_trained():  # whether dropout is refused is decided where the model is built to be trained
                found = _count(build_model(plain, task), batch, "cpu")
    return round(found / batch.num_tokens) if kind == "flops_per_token" else found


class _NormalLeftOut(TorchFunctionMode):
    """Leaves out normal initialisers, for which PyTorch on the meta device imports its compiler, for two seconds."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.__name__.endswith("normal_"):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def _count(model: Model, batch: Batch | None, device: str) -> int:
    """The operations of a training step on ``batch``, or the number of parameters."""
    if batch is None:
        return count_parameters(model)
    # Without lengths first, as they cannot be read on the meta device; a model may need them.
    names = ("lengths", "target_lengths", "source_lengths")
    lengths = {name: getattr(batch, name) for name in names}
    bare = replace(batch, **dict.fromkeys(names)).to(torch.device(device))
    with suppress(Exception):
        return 3 * flops.forward_operations(model, bare)
    return 3 * flops.forward_operations(model, replace(bare, **lengths))


def solve(config: Config, at_width: Callable[[int], Config] | None = None) -> Config:
    """The configuration with ``model.hidden_size`` solved for its budget, if it has one.

    Args:
        config: resolved; ``budget.parameters`` is a number of trained parameters, ``budget.flops_per_step`` that of
            operations (`Size.flops_per_token`) of a step of training on the first batch.
        at_width: the configuration with another width, where other options depend on it.

    Raises:
        InputError: no width up to `LARGEST_WIDTH` comes within ``budget.tolerance``, as a share of the budget; or both
            are given.
    """
    for key, value in config["budget"].items():
        if value is not None and not value > 0:
            raise InputError(f"budget.{key} is {value}; it must be positive, or null for none")
    goals = {key: config["budget"][key] for key in ("parameters", "flops_per_step") if config["budget"][key]}
    if not goals:
        return config
    if len(goals) > 1:
        raise InputError("budget.parameters and budget.flops_per_step are both given; one width cannot serve both")
    (kind, goal), tolerance = next(iter(goals.items())), config["budget"]["tolerance"]
    configured = at_width or (lambda width: with_width(config, width))
    first_task = build_task(config)
    multiple = _multiple(config)
    found: dict[int, float] = {}

    def cost(units: int) -> float:
        if units not in found:
            wide = configured(units * multiple)
            task = first_task if wide["task"] == config["task"] else build_task(wide)
            found[units] = _counted(kind, wide, task)
        return found[units]

    low, high = _bracket(cost, goal, LARGEST_WIDTH // multiple)
    best = min((low, high), key=lambda units: abs(cost(units) - goal))
    if abs(cost(best) / goal - 1) > tolerance:
        nearest = (low, high) if cost(high) >= goal else (high,)  # the second at the largest width
        near = " or ".join(f"{cost(units):,.0f} (width {units * multiple})" for units in nearest)
        limit = f", and no larger width than {LARGEST_WIDTH} is tried" if cost(high) < goal else ""
        raise InputError(
            f"budget.{kind}={goal:,.0f} cannot be met by {config['cell']['name']} within budget.tolerance={tolerance}; "
            f"the nearest it can have is {near}{limit}"
        )
    return configured(best * multiple)


def _bracket(cost: Callable[[int], float], goal: float, largest: int) -> tuple[int, int]:
    """The two neighbours between whose costs the goal lies; the second is ``largest`` where its cost is still below.

    Costs grow with the width, and no faster than its square, so that few of them have to be counted.
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


def deviation(config: Config, task: Task) -> dict[str, Any] | None:
    """How near a run comes to its budget, for its summary; None where it has none.

    Args:
        config: resolved and solved.
        task: the configuration's task.
    """
    for kind in ("parameters", "flops_per_step"):
        if goal := config["budget"][kind]:
            found = _counted(kind, config, task)
            return {"of": kind, "goal": goal, "found": found, "deviation": found / goal - 1}
    return None


def with_width(config: Config, hidden_size: int) -> Config:
    """The configuration with another width."""
    return {**config, "model": {**config["model"], "hidden_size": hidden_size}}


def _multiple(config: Config) -> int:
    """What the cell's width must be a multiple of."""
    name, options = lookup.read_section(config["cell"])
    return cells.find(name).width_multiple(**options)
