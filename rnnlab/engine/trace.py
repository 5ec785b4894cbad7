"""Read a cell's step as a program: the list of operations it does, in order, whatever Python wrote them.

The step is run once on tensors, and every operation that reaches torch is noted down in terms of
`rnnlab.engine.operations`. What is noted is enough to run the step again without the cell, and to derive its backward
step (`rnnlab.engine.derive`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rnnlab.cells import Cell
from rnnlab.engine.operations import EXPANSIONS, OPERATIONS
from rnnlab.engine.program import Builder, Program, Unsupported, Value
from rnnlab.interface import State, tensors_of


class _Recorder(TorchDispatchMode):
    """Notes down every operation that reaches torch."""

    def __init__(self) -> None:
        super().__init__()
        self.builder = Builder("v")
        self.values: dict[int, Value | float] = {}
        self.alive: list[Tensor] = []  # an id may be used again once its tensor is gone

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports torch's compiler at the first use, which takes seconds

    def note(self, tensor: Tensor, value: Value) -> Value:
        """Remember that ``tensor`` is ``value``."""
        self.values[id(tensor)] = value
        self.alive.append(tensor)
        return value

    def leaf(self, tensor: Tensor, prefix: str) -> Value:
        """The Value of a tensor that the step receives; the same one where it receives it twice."""
        if id(tensor) in self.values:
            return self.values[id(tensor)]
        return self.note(tensor, self.builder.fresh(tensor.shape, prefix))

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        results = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name == "scalar_tensor":  # of a number that stands where torch wants a tensor
            self.alive.append(results)
            self.values[id(results)] = args[0]
            return results
        if torch.Tag.nondeterministic_seeded in function.tags:  # a step draws nothing; run again it would draw anew
            raise Unsupported(name)
        made = results if isinstance(results, tuple | list) else (results,)
        arguments = [self.argument(argument, name) for argument in args]
        values = self.expand(name, arguments, kwargs or {}, args, made)
        for tensor, value in zip(made, values, strict=True):
            if tensor.numel() and value.shape != tensor.shape:  # never: what is noted would differ from what was done
                raise Unsupported(f"{name} to {list(tensor.shape)}")
            self.note(tensor, value)
        return results

    def expand(
        self, name: str, arguments: list[Any], options: dict[str, Any], given: tuple, made: tuple
    ) -> tuple[Value, ...]:
        """The Values of what ``name`` made, in terms of the operations that a program may have."""
        b = self.builder
        if name == "_to_copy":  # only ever from masks to numbers
            if given[0].dtype == made[0].dtype:
                return (arguments[0],)
            if given[0].dtype == torch.bool and made[0].is_floating_point():
                return (b.as_number(arguments[0]),)
            raise Unsupported(f"conversion from {given[0].dtype} to {made[0].dtype}")
        if name.startswith("bitwise") and made[0].dtype != torch.bool:
            raise Unsupported(f"{name} of {made[0].dtype}")
        options = {key: value for key, value in options.items() if value is not None and value is not False}
        if name in ("zeros_like", "ones_like"):
            options = {}
        try:
            if name in EXPANSIONS:
                values = EXPANSIONS[name](b, *arguments, **options)
            elif name in OPERATIONS and not options:
                values = getattr(b, name)(*arguments)
            else:
                raise Unsupported(name)
        except TypeError as error:  # another form of the operation, with arguments that are not foreseen
            raise Unsupported(name) from error
        return values if isinstance(values, tuple) else (values,)

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
        InputError: what the step returns does not fit.
    """
    recorder = _Recorder()
    leaves = [
        [recorder.leaf(tensor, prefix) for tensor in tensors_of(part)]
        for prefix, part in (("c", constants), ("x", inputs), ("s", state))
    ]
    with recorder:
        output, new_state = cell.checked_step(constants, inputs, state)
    results = [recorder.argument(tensor, "return") for tensor in (output, *tensors_of(new_state))]
    return Program(*leaves, recorder.builder.nodes, results[0], results[1:])
