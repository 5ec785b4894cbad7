"""Conversion between `Stack` and the recurrent layers of ``torch.nn``."""

from __future__ import annotations

from torch import nn

from rnnlab import cells
from rnnlab.interface import InputError
from rnnlab.layers.recurrent import Recurrent
from rnnlab.layers.stack import Stack

_TORCH = {"RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
_CELLS = {
    "RNN_TANH": ("rnn", {"activation": "tanh"}),
    "RNN_RELU": ("rnn", {"activation": "relu"}),
    "LSTM": ("lstm", {}),
    "GRU": ("gru", {"reset": "after"}),
}
_SOURCES = (("W",), ("U",), ("b",), ("b", "b_u"))
"""Names of the cell parameters that correspond to ``weight_ih``, ``weight_hh``, ``bias_ih`` and ``bias_hh``."""


def to_torch(stack: Stack) -> nn.RNNBase:
    """Return a ``torch.nn.RNN``, ``LSTM`` or ``GRU`` with the weights of ``stack``; frozen weights stay frozen.

    Raises:
        InputError: torch.nn has no equivalent layer.
    """
    if stack.connections or any(not isinstance(norm, nn.Identity) for norm in stack.norms):
        raise InputError("torch.nn has no norm and no connection between layers; use norm=none, connection=none")
    if any(not isinstance(layer, Recurrent) or layer.reverse for layer in stack.layers):
        raise InputError(
            "only forward layers can be converted to torch.nn, not bidirectional layers, reversed layers or blocks"
        )
    natives = [layer.cell.native() for layer in stack.layers]
    # All layers of a torch.nn module share these: mode, biases, width.
    kinds = {
        native and (native.mode, len(native.weights), layer.cell.hidden_size)
        for native, layer in zip(natives, stack.layers, strict=True)
    }
    if None in kinds or len(kinds) > 1:
        kinds_given = ", ".join(f"{type(layer.cell).__name__}({layer.cell.extra_repr()})" for layer in stack.layers)
        raise InputError(
            f"torch.nn has no layer for a stack of {kinds_given}; all layers of a torch.nn module share mode, biases "
            "and width"
        )
    if any(len(layer.first) for layer in stack.layers):
        raise InputError("torch.nn has no learned initial state; convert a stack with initial_state='zero'")
    ((mode, num_weights, hidden_size),) = kinds
    options = {"nonlinearity": mode.removeprefix("RNN_").lower()} if mode.startswith("RNN") else {}
    module = _TORCH[mode](
        stack.layers[0].cell.input_size,
        hidden_size,
        num_layers=len(natives),
        bias=num_weights == 4,
        dropout=stack.dropout if len(natives) > 1 else 0.0,
        **options,
    ).to(natives[0].weights[0])
    for depth, native in enumerate(natives):
        cell = stack.layers[depth].cell
        for target, source, names in zip(module.all_weights[depth], native.weights, _SOURCES, strict=False):
            target.data.copy_(source)
            parameters = [getattr(cell, name, None) for name in names]
            target.requires_grad_(any(p is not None and p.requires_grad for p in parameters))
    return module.train(stack.training)


def from_torch(module: nn.RNNBase, backend: str = "auto") -> Stack:
    """Return a stack with the weights of a ``torch.nn.RNN``, ``LSTM`` or ``GRU``.

    The stack is time-major, also if ``module.batch_first`` is True. Frozen weights stay frozen. If a bias is the sum of
    two biases in torch.nn, it is frozen if both are frozen.

    Raises:
        InputError: the module is of another type, or has a projection.
    """
    if not isinstance(module, nn.RNNBase):
        raise InputError(f"expected a torch.nn.RNN, LSTM or GRU, got {type(module).__name__}")
    if module.proj_size:
        raise InputError(f"proj_size={module.proj_size} is not supported; convert a module with proj_size=0")
    name, options = _CELLS[module.mode]

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
    ).to(module.weight_ih_l0)
    single = [layer for layer in stack.modules() if isinstance(layer, Recurrent)]
    for layer, weights in zip(single, module.all_weights, strict=True):
        layer.cell.load_native(tuple(weights))
        for name in ("W", "U", "b", "b_u"):
            parameter = getattr(layer.cell, name, None)
            if parameter is not None:
                sources = [weight for weight, names in zip(weights, _SOURCES, strict=False) if name in names]
                parameter.requires_grad_(any(weight.requires_grad for weight in sources))
    return stack.train(module.training)
