"""Read a cell's step as a program: the list of operations it does, in order, whatever Python wrote them.

The step is run once on small tensors, and every operation that reaches torch is noted down. What is noted is enough
to run the step again without the cell, and to derive its backward step (`rnnlab.engine.derive`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rnnlab.cells import Cell
from rnnlab.interface import State, tensors_of


class Unsupported(Exception):
    """The step does something that cannot be noted down; the message names the operation."""


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor of a program: what it is called, and its shape when it was traced."""

    name: str
    shape: tuple[int, ...] = field(repr=False)

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Node:
    """``results = operation(*arguments)``; arguments are Values, numbers, or lists of them."""

    operation: str
    arguments: tuple[Any, ...]
    results: tuple[Value, ...]


def values_of(argument: Any) -> list[Value]:
    """The Values in an argument of a node, however nested."""
    if isinstance(argument, list | tuple):
        return [value for item in argument for value in values_of(item)]
    return [argument] if isinstance(argument, Value) else []


@dataclass
class Program:
    """A step in order: its leaves (constant over the sequence, per step, state), its nodes, its results."""

    constants: list[Value]
    inputs: list[Value]
    state: list[Value]
    nodes: list[Node]
    output: Value
    new_state: list[Value]


class _Recorder(TorchDispatchMode):
    """Notes down every operation that reaches torch."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.values: dict[int, Value] = {}
        self.alive: list[Tensor] = []  # an id may be used again once its tensor is gone

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports torch's compiler at the first use, which takes seconds

    def value(self, tensor: Tensor, prefix: str = "v") -> Value:
        """The Value of a tensor, a new one if it was never seen."""
        if id(tensor) not in self.values:
            self.values[id(tensor)] = Value(f"{prefix}{len(self.values)}", tuple(tensor.shape))
            self.alive.append(tensor)
        return self.values[id(tensor)]

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        results = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if torch.Tag.nondeterministic_seeded in function.tags:  # a step draws nothing; run again it would draw anew
            raise Unsupported(name)
        if name.endswith("_") or any(value not in (None, False) for value in (kwargs or {}).values()):
            raise Unsupported(name)
        arguments = tuple(self.argument(argument, name) for argument in args)
        made = results if isinstance(results, tuple | list) else (results,)
        self.nodes.append(Node(name, arguments, tuple(self.value(tensor) for tensor in made)))
        return results

    def argument(self, argument: Any, name: str) -> Any:
        """What stands for an argument: Values for tensors, also within lists, anything else as it is."""
        if isinstance(argument, list | tuple):
            return [self.argument(item, name) for item in argument]
        if isinstance(argument, Tensor):
            if id(argument) not in self.values:
                raise Unsupported(f"{name} of a tensor that is neither constant, nor per step, nor state")
            return self.values[id(argument)]
        return argument


@torch.no_grad()
def trace(cell: Cell, constants: Any, inputs: Any, state: State) -> Program:
    """The program of ``cell.step``.

    Args:
        cell: the cell.
        constants: what a step would receive as constant over the sequence.
        inputs: what it would receive of one step.
        state: what it would receive as state.

    Raises:
        Unsupported: the step does something that cannot be noted down.
    """
    recorder = _Recorder()
    leaves = [
        [recorder.value(tensor, prefix) for tensor in tensors_of(part)]
        for prefix, part in (("c", constants), ("x", inputs), ("s", state))
    ]
    with recorder:
        output, new_state = cell.step(constants, inputs, state)
    results = [recorder.argument(tensor, "return") for tensor in (output, *tensors_of(new_state))]
    return Program(*leaves, recorder.nodes, results[0], results[1:])
