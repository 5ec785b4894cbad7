"""Fair budgets: the width at which a model has as many parameters, or costs as many operations, as was asked for.

Cells of one width differ several times over in size. To compare them fairly, the width is solved for each by
counting: the model is built, and its parameters or operations are counted, not estimated from a formula.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from rnnlab import cells, lookup
from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.layers import Recurrent
from rnnlab.models import Model
from rnnlab.tasks import Task
from rnnlab.training.build import Config, build_model, build_task
from rnnlab.training.flops import state_operations

LARGEST_WIDTH = 65536


class Size(NamedTuple):
    """What a model costs.

    parameters: trained numbers.
    flops_per_token: floating-point operations of training on one input step of one sequence: those of the matrix
        products, forward, times three, as backward has two products for each (Kaplan et al., 2020, arXiv:2001.08361,
        section 2.1). Point-wise operations are counted where a state is a matrix (`rnnlab.training.flops`).
    """

    parameters: int
    flops_per_token: int


def count_parameters(model: Model) -> int:
    """How many numbers of a model are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def measure(config: Config, task: Task) -> Size:
    """What the model of a configuration costs; no random generator is touched.

    Args:
        config: resolved.
        task: the configuration's task.
    """
    return Size(_cost("parameters", config, task), _cost("flops_per_token", config, task))


def _cost(kind: str, config: Config, task: Task) -> int:
    """One of a budget's kinds, or of `Size`'s, for the model of a configuration."""
    if kind == "flops_per_step":
        return _cost("flops_per_token", config, task) * task.batch("train", 0).num_tokens
    plain = {**config, "engine": {"backend": "reference"}}  # whose products can be counted
    with torch.random.fork_rng(devices=[]):
        model = build_model(plain, task)
        if kind == "parameters":
            return count_parameters(model)
        # The second step's operations are those of every further one; the first may also transform weights.
        one, two = (_products(model, task, steps) for steps in (1, 2))
        model.eval()
        updates = sum(state_operations(layer.cell) for layer in model.modules() if isinstance(layer, Recurrent))
        return 3 * (two - one + updates)


def _products(model: Model, task: Task, steps: int) -> int:
    """Operations of the matrix products, forward, over some steps of one sequence."""
    if isinstance(task.input, Tokens):
        inputs = torch.zeros(steps, 1, dtype=torch.int64)
    else:
        inputs = torch.zeros(steps, 1, getattr(task.input, "size", 1))
    length = torch.tensor([steps])  # given, as a model may need to know it
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(Batch(inputs, inputs, length, length))
    return counter.get_total_flops()


def solve(config: Config) -> Config:
    """The configuration with ``model.hidden_size`` solved for its budget, if it has one.

    Args:
        config: resolved; ``budget.parameters`` is a number of trained parameters, ``budget.flops_per_step`` that of
            operations (`Size.flops_per_token`) of a step of training on the first batch.

    Raises:
        InputError: no width comes within ``budget.tolerance``, as a share of the budget; or both are given.
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
    task = build_task(config)
    multiple = _multiple(config)
    found: dict[int, float] = {}

    def cost(units: int) -> float:
        if units not in found:
            found[units] = _cost(kind, with_width(config, units * multiple), task)
        return found[units]

    low, high = 1, 2
    while cost(high) < goal and high * multiple < LARGEST_WIDTH:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) < goal else (low, middle)
    best = min((low, high), key=lambda units: abs(cost(units) - goal))
    if abs(cost(best) / goal - 1) > tolerance:
        near = " or ".join(f"{cost(units):,.0f} (width {units * multiple})" for units in (low, high))
        raise InputError(
            f"budget.{kind}={goal:,.0f} cannot be met by {config['cell']['name']} within budget.tolerance={tolerance}; "
            f"the nearest it can have is {near}"
        )
    return with_width(config, best * multiple)


def deviation(config: Config, task: Task) -> dict[str, Any] | None:
    """How near a run comes to its budget, for its summary; None where it has none.

    Args:
        config: resolved and solved.
        task: the configuration's task.
    """
    for kind in ("parameters", "flops_per_step"):
        if goal := config["budget"][kind]:
            found = _cost(kind, config, task)
            return {"of": kind, "goal": goal, "found": found, "deviation": found / goal - 1}
    return None


def with_width(config: Config, hidden_size: int) -> Config:
    """The configuration with another width."""
    return {**config, "model": {**config["model"], "hidden_size": hidden_size}}


def _multiple(config: Config) -> int:
    """What the cell's width must be a multiple of."""
    name, options = lookup.read_section(config["cell"])
    return cells.find(name).width_multiple(**options)
