"""Random cells for the fuzzer: a recipe is a cell whose step is a list of operations."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnnlab.cells import Cell
from rnnlab.contracts.idioms import CORNERED, SMOOTH, UNUSUAL
from rnnlab.trees import State


class Recipe(Cell):
    """A cell whose step is a list of operations ``(function, first, second)`` with arguments given by index."""

    factor = 0.9

    def __init__(self, input_size: int, hidden_size: int, steps: list[tuple[Callable, int, int]], states: int) -> None:
        super().__init__(input_size, hidden_size)
        self.states = ("h", "c")[:states]
        self.W = nn.Parameter(torch.randn(hidden_size, input_size) / input_size**0.5)
        self.U = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)
        self.V = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)
        self.b = nn.Parameter(torch.randn(hidden_size))
        self.steps = list(steps)
        self.slope, self.held, self.act, self.module = 0.8, {"slope": 0.6}, torch.tanh, nn.LeakyReLU(0.3)
        self.used: tuple[Tensor, ...] = ()

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:  # noqa: D102
        return (self.U, self.V, self.b), linear(inputs, self.W)

    def step(self, constants: Any, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        view = _View(self, constants)
        values = [x, *state]
        for function, first, second in self.steps:
            values.append(function(view, values[first % len(values)], values[second % len(values)]))
        states = tuple(
            (value + 0.1 * before).tanh() for value, before in zip(values[-len(state) :], state, strict=True)
        )
        return states[0], states


class _View:
    """The attributes of a cell, with the weights of this step as ``used``, for the operations of a recipe."""

    def __init__(self, cell: Recipe, used: tuple[Tensor, ...]) -> None:
        object.__setattr__(self, "cell", cell)
        object.__setattr__(self, "used", used)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cell, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.cell, name, value)


def recipe(draw: Random, unusual: float) -> tuple[list[str], Callable[[], Recipe]]:
    """Draw a random step; return the names of its operations and a function that builds the same cell at each call."""
    choices = {**SMOOTH, **CORNERED} if draw.random() < 0.7 else SMOOTH
    names = draw.choices(list(choices), k=draw.randint(1, 6))
    if draw.random() < unusual:
        names.insert(draw.randint(0, len(names)), draw.choice(list(UNUSUAL)))
    known = {**SMOOTH, **CORNERED, **UNUSUAL}
    steps = [(known[name], draw.randrange(8), draw.randrange(8)) for name in names]
    sizes, states, seed = (
        (draw.choice((1, 2, 3, 5)), draw.choice((1, 2, 3, 4, 5))),
        draw.choice((1, 1, 2)),
        draw.random(),
    )

    def build() -> Recipe:
        torch.manual_seed(int(seed * 2**31))
        return Recipe(*sizes, steps, states)

    return names, build
