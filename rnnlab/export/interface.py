"""Inputs, outputs and states of a model, as an exported model names them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnnlab.cells import Cell
from rnnlab.interface import Images, InputError, Tokens
from rnnlab.layers import Recurrent
from rnnlab.models import Model
from rnnlab.trees import State, map_state, tensors_of


class Carried(NamedTuple):
    """One state tensor of a model: its name, such as ``layers.0.h``, and its initial value for one sequence."""

    name: str
    initial: Tensor


def states_of(model: Model) -> list[Carried]:
    """List the state tensors of a model in order; none if it cannot start from a given state or reads a source."""
    if not carries(model) or model.source is not None:
        return []
    state = map_state(torch.clone, model.begin(batch_size=1))
    names = names_of(model, state, lambda: model.step(example(model, 1), state))
    return [Carried(name, tensor.detach()[0]) for name, tensor in zip(names, tensors_of(state), strict=True)]


def names_of(module: nn.Module, state: State, run: Callable[[], Any]) -> list[str]:
    """Name the tensors of a state by the layers that read them.

    Args:
        module: a module with recurrent layers.
        state: a state of the module, in which no tensor occurs twice.
        run: function that runs the module once from this state.
    """
    tensors = tensors_of(state)
    names = {id(tensor): f"state.{number}" for number, tensor in enumerate(tensors)}

    def name(
        path: str, cell: Cell, inputs: Tensor, state: State, lengths: None, **context: Any
    ) -> tuple[Tensor, State]:
        own = tensors_of(state)
        states = cell.states if len(cell.states) == len(own) else range(len(own))
        names.update({id(tensor): f"{path}.{one}" for tensor, one in zip(own, states, strict=True)})
        return inputs.new_zeros(*inputs.shape[:2], cell.output_size), state

    with torch.inference_mode(), ExitStack() as stack:
        for path, layer in module.named_modules():
            if isinstance(layer, Recurrent):
                stack.enter_context(layer.run_by(partial(name, path.removeprefix("stack."))))
        run()
    return [names[id(tensor)] for tensor in tensors]


def describe(model: Model) -> dict[str, Any]:
    """Describe the inputs, outputs and states of a model in plain containers.

    The initial value of a state is a number if all its entries are equal, and otherwise a nested list.
    """
    states = []
    for name, initial in states_of(model):
        first = initial.flatten()[0]
        value = first.item() if (initial == first).all() else initial.tolist()
        states.append({"name": name, "shape": list(initial.shape), "initial": value})
    return {
        "input": _kind(model.input),
        "source": None if model.source is None else _kind(model.source),
        "output_size": model.output_size,
        "states": states,
    }


def _kind(input: Any) -> dict[str, Any]:
    return {"kind": type(input).__name__, **vars(input)}


def check_exportable(model: Model, step: bool) -> None:
    """Raise an InputError if a graph cannot have the inputs of ``model``."""
    if model.source is not None:
        raise InputError(
            "the model reads a source before its first step, so it has two parts, an encoder and a decoder; only "
            "format=onnx and format=safetensors can export them"
        )
    if isinstance(model.input, Images):
        raise InputError("the model reads images step by step; only format=safetensors can export it")
    if step:
        model.check_carrying()


def carries(model: Model) -> bool:
    """Whether a model can start from a given state; a bidirectional model cannot."""
    try:
        model.check_carrying()
    except InputError:
        return False
    return True


def example(model: Model, *shape: int) -> Tensor:
    """Inputs of zeros: tokens ``shape`` or vectors ``[*shape, F]``."""
    if isinstance(model.input, Tokens):
        return torch.zeros(shape, dtype=torch.int64)
    return torch.zeros(*shape, model.input.size)
