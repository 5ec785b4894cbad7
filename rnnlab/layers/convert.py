"""Conversion between `Stack` and the recurrent layers of ``torch.nn``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rnnlab import cells
from rnnlab.cells.base import Native
from rnnlab.cells.classic.lstmp import LSTMP
from rnnlab.interface import InputError
from rnnlab.layers.recurrent import Recurrent
from rnnlab.layers.stack import Bidirectional, Stack

_TORCH = {"RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
_CELLS = {
    "RNN_TANH": ("rnn", {"activation": "tanh"}),
    "RNN_RELU": ("rnn", {"activation": "relu"}),
    "LSTM": ("lstm", {}),
    "GRU": ("gru", {"reset": "after"}),
}


def _sources(count: int) -> list[tuple[str, ...]]:
    """Names of the cell parameters for each of ``count`` weights: input, recurrent, two biases, projection."""
    biases = [("b",), ("b", "b_u")] if count > 3 else []
    return [("W",), ("U",), *biases, *([("P",)] if count % 2 else [])]


def to_torch(stack: Stack) -> nn.RNNBase:
    """Return a ``torch.nn.RNN``, ``LSTM`` or ``GRU`` with the weights of ``stack``; frozen weights stay frozen.

    Raises:
        InputError: torch.nn has no equivalent layer.
    """
    if stack.connections or any(not isinstance(norm, nn.Identity) for norm in stack.norms):
        raise InputError("torch.nn has no norm and no connection between layers; use norm=none, connection=none")
    layers = _directions(stack)
    found = [_native(layer.cell) for layer in layers]
    natives = [native for native in found if native is not None]
    # All layers of a torch.nn module share these: mode, biases, width.
    kinds = {
        (native.mode, len(native.weights), layer.cell.hidden_size, layer.cell.output_size)
        for native, layer in zip(natives, layers, strict=False)
    }
    if len(natives) < len(layers) or len(kinds) > 1:
        kinds_given = ", ".join(f"{type(layer.cell).__name__}({layer.cell.extra_repr()})" for layer in layers)
        raise InputError(
            f"torch.nn has no layer for a stack of {kinds_given}; all layers of a torch.nn module share mode, biases "
            "and width"
        )
    if any(len(layer.first) for layer in layers):
        raise InputError("torch.nn has no learned initial state; convert a stack with initial_state='zero'")
    ((mode, num_weights, hidden_size, output_size),) = kinds
    if num_weights % 2 and output_size >= hidden_size:
        raise InputError(f"projection_size={output_size} must be below hidden_size={hidden_size} in torch.nn")
    options: dict[str, Any] = {"nonlinearity": mode.removeprefix("RNN_").lower()} if mode.startswith("RNN") else {}
    if num_weights % 2:
        options["proj_size"] = output_size
    module = _TORCH[mode](
        layers[0].cell.input_size,
        hidden_size,
        num_layers=len(stack.layers),
        bias=num_weights > 3,
        dropout=stack.dropout if len(stack.layers) > 1 else 0.0,
        bidirectional=len(layers) > len(stack.layers),
        **options,
    ).to(natives[0].weights[0])
    for layer, native, weights in zip(layers, natives, module.all_weights, strict=True):
        for target, source, names in zip(weights, native.weights, _sources(num_weights), strict=True):
            target.data.copy_(source)
            parameters = [getattr(layer.cell, name, None) for name in names]
            target.requires_grad_(any(p is not None and p.requires_grad for p in parameters))
    return module.train(stack.training)


def _directions(stack: Stack) -> list[Recurrent]:
    """The layers of each depth and direction, in the order of ``torch.nn``."""
    if all(isinstance(layer, Recurrent) and not layer.reverse for layer in stack.layers):
        return [*stack.layers]
    if not all(isinstance(layer, Bidirectional) and layer.merge == "concatenate" for layer in stack.layers):
        raise InputError(
            "a layer of torch.nn is a stack of forward layers, or of bidirectional layers with concatenated outputs; "
            "reversed layers, sums of directions and blocks cannot be converted"
        )
    return [one for layer in stack.layers for one in (layer.forward_layer, layer.backward_layer)]


def from_torch(module: nn.RNNBase | nn.RNNCellBase, backend: str = "auto") -> Stack:
    """Return a stack with the weights of a layer or cell of ``torch.nn``, such as ``LSTM`` or ``LSTMCell``.

    The stack is time-major, also if ``module.batch_first`` is True. Frozen weights stay frozen. If a bias is the sum of
    two biases in torch.nn, it is frozen if both are frozen.

    Raises:
        InputError: the module is of another type.
    """
    if isinstance(module, nn.RNNCellBase):
        module = _layer_of(module)
    if not isinstance(module, nn.RNNBase):
        raise InputError(f"expected a torch.nn.RNN, LSTM or GRU, got {type(module).__name__}")
    name, options = _CELLS[module.mode]
    if module.proj_size:
        name, options = "lstmp", {"projection_size": module.proj_size}

    def cell(input_size: int, hidden_size: int) -> cells.Cell:
        return cells.create(name, input_size=input_size, hidden_size=hidden_size, bias=module.bias, **options)

    stack = Stack.build(
        cell,
        module.input_size,
        module.hidden_size,
        module.num_layers,
        dropout=module.dropout if module.num_layers > 1 else 0.0,
        backend=backend,
        bidirectional="concatenate" if module.bidirectional else "none",
    ).to(module.all_weights[0][0])
    single = [layer for layer in stack.modules() if isinstance(layer, Recurrent)]
    for layer, weights in zip(single, module.all_weights, strict=True):
        layer.cell.load_native(tuple(weights))
        for name in ("W", "U", "b", "b_u", "P"):
            parameter = getattr(layer.cell, name, None)
            if parameter is not None:
                pairs = zip(weights, _sources(len(weights)), strict=True)
                sources = [weight for weight, names in pairs if name in names]
                parameter.requires_grad_(any(weight.requires_grad for weight in sources))
    return stack.train(module.training)


def _native(cell: cells.Cell) -> Native | None:
    """The weights of the equivalent layer of ``torch.nn``, whose LSTM may have a projection."""
    if not isinstance(cell, LSTMP):
        return cell.native()
    biases = () if cell.b is None else (cell.b, torch.zeros_like(cell.b))
    return Native("LSTM", (cell.W, cell.U, *biases, cell.P))


def _layer_of(cell: nn.RNNCellBase) -> nn.RNNBase:
    """The layer of ``torch.nn`` that runs a cell of it, with the same parameters."""
    kind = {3: nn.GRU, 4: nn.LSTM}.get(cell.weight_hh.shape[0] // cell.hidden_size, nn.RNN)
    options = {"nonlinearity": cell.nonlinearity} if isinstance(cell, nn.RNNCell) else {}
    layer = kind(cell.input_size, cell.hidden_size, bias=cell.bias, **options).to(cell.weight_hh)
    for name, parameter in cell.named_parameters():
        setattr(layer, f"{name}_l0", parameter)
    return layer.train(cell.training)
