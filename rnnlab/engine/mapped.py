"""Recognise a ``prepare`` that is one linear map of the inputs, so that it need not run at every call.

Many cells return their parameters as constants, and ``linear(inputs, W)`` as the values of all steps. For them one
autograd function computes the map and the steps, without a call of ``prepare``.
"""

from __future__ import annotations

import dis
import sys
from types import CodeType, FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from rnnlab.cells import Cell
from rnnlab.engine import reference
from rnnlab.engine.cpu.kernel import Kernel
from rnnlab.engine.ir.program import Unsupported
from rnnlab.engine.ir.watch import HOOKS, fingerprint
from rnnlab.engine.traced import Traced, aside, kinds, traced_for, trial
from rnnlab.trees import State, map_state, nested, tensors_of

KNOWN = 16
"""Largest number of known calls of a cell; beyond it all are forgotten."""


class Map(NamedTuple):
    """The parameters of a ``prepare`` that returns constants and ``linear(inputs, weight, bias)``, by name.

    nesting: the constants, as a nested tuple of their names, None for None.
    names: the same without nesting.
    given: weight and bias, or the weight alone.
    """

    nesting: Any
    names: list[str]
    given: list[str]


class Mapped(NamedTuple):
    """What a call of a cell needs besides inputs and state, if its ``prepare`` is a linear map.

    step: the compiled step.
    constants: the cell's constants.
    given: weight and bias of the map, or the weight alone.
    """

    step: Traced
    constants: list[Tensor]
    given: list[Tensor]


class _Call(NamedTuple):
    """A call of a function of torch, and the code that calls it."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    caller: CodeType


class _Calls(TorchFunctionMode):
    """Record every call of a function of torch, reading an attribute of a tensor included."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[_Call] = []

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.found.append(_Call(function, args, kwargs or {}, result, sys._getframe(1).f_code))
        return result


def mapped(cell: Cell, inputs: Tensor, state: State) -> Mapped | None:
    """Return the step and the parameters of a call, or None if the cell's ``prepare`` must run.

    ``prepare`` must run in each of these cases:

    - it did something else than one linear map when it was first seen, even reading the shape of the inputs,
    - the cell has hooks,
    - autocast or a mode of torch is active,
    - the step is not compiled for a CPU.

    Args:
        cell: the cell.
        inputs: ``[T, B, input_size]``.
        state: the state before the first step.
    """
    if type(inputs) is not Tensor or inputs.device.type != "cpu" or reference.autocast_dtype(inputs.device):
        return None
    if torch._C._len_torch_function_stack() or any(getattr(cell, name) for name in HOOKS):
        return None
    maps = _MAPS.get(cell)
    if maps is not None and maps[1] is None:  # without a fingerprint: to run `prepare` is right after any change, too
        return None
    try:
        key = fingerprint(cell, prepare=True)
        if maps is None or maps[0] != key:
            maps = _MAPS[cell] = key, _recognised(cell), {}
        _, found, steps = maps
        if found is None:
            return None
        parameters = cell._parameters
        constants, given = ([parameters[name] for name in names] for names in (found.names, found.given))
        form = torch.is_grad_enabled(), inputs.shape[1], inputs.requires_grad, kinds((constants, given, state))
        step = steps.get(form)
        if step is None:
            if any(parameter is None for parameter in (*constants, *given)):  # a removed bias
                return None
            step = _step(cell, inputs, state, nested(found.nesting, constants), given)
            if len(steps) == KNOWN:
                steps.clear()
            steps[form] = step
    except (Unsupported, KeyError):  # a DataParallel replica has no parameters
        return None
    is_served = isinstance(step.kernel, Kernel) and step.learns[-1] and inputs.dtype == step.dtype
    return Mapped(step, constants, given) if is_served else None


_MAPS: WeakKeyDictionary[Cell, tuple[Any, Map | None, dict[Any, Traced]]] = WeakKeyDictionary()
"""The linear map of each cell for its last fingerprint, and the steps of its calls."""


def _step(cell: Cell, inputs: Tensor, state: State, constants: Any, given: list[Tensor]) -> Traced:
    with aside(cell):
        prepared = functional.linear(inputs[:1], *given)
    return traced_for(cell, constants, prepared, state)


def _recognised(cell: Cell) -> Map | None:
    """Run ``prepare`` on zeros, and return its linear map if it does nothing else."""
    prepare = vars(cell).get("prepare", type(cell).prepare)
    is_usual = type(cell).forward is Cell.forward and type(cell).activate is Cell.activate
    if not is_usual or not isinstance(prepare, FunctionType):
        return None
    is_own = prepare.__module__.startswith("rnnlab.cells.")  # it has no other effects
    if not is_own and (cell._modules or not _calls_once(prepare)):
        return None
    copy, inputs = trial(cell), cell.like.new_zeros(2, 3, cell.input_size)
    with aside(cell), _Calls() as calls:
        constants, prepared = copy.prepare(inputs)
    if len(calls.found) != 1 or not isinstance(prepared, Tensor):
        return None
    call = calls.found[0]
    if call.function is not functional.linear or call.result is not prepared:
        return None
    if not is_own and call.caller is not prepare.__code__:
        return None
    first, *given = _arguments(*call.args, **call.kwargs)
    parameters = [(name, parameter) for name, parameter in cell._parameters.items() if parameter is not None]
    names, used = {id(parameter): name for name, parameter in parameters}, [*given, *tensors_of(constants)]
    # A tensor with two names, or in two places, may later be two tensors.
    is_plain = len(names) == len(parameters) and len({*map(id, used)}) == len(used)
    if first is not inputs or not is_plain or any(id(tensor) not in names for tensor in used):
        return None
    nesting = map_state(lambda tensor: names[id(tensor)], constants)
    return Map(nesting, tensors_of(nesting), [names[id(tensor)] for tensor in given])


def _calls_once(function: FunctionType) -> bool:
    """Whether a function calls one function and assigns to its own variables only, so that it has no other effect."""
    names = [instruction.opname for instruction in dis.get_instructions(function)]
    changes = [name for name in names if name.startswith(("STORE_", "DELETE_")) and not name.startswith("STORE_FAST")]
    return not changes and sum(name.startswith("CALL") and "INTRINSIC" not in name for name in names) == 1


def _arguments(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return the arguments of ``linear`` in order, without a bias that is None."""
    return (input, weight) if bias is None else (input, weight, bias)
