"""Read weights from objects and files of other programs, and copy them into a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.interface import InputError
from rnnlab.layers import Recurrent, Stack, from_torch
from rnnlab.layers.wrapped import innermost
from rnnlab.weights import keras, torch_nn
from rnnlab.weights.parts import Part, stack_of

SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".keras", ".h5", ".onnx")
"""The kinds of files that `read` knows."""


def read(source: Any, layers: Sequence[str] | None = None, *, activation: str = "tanh") -> Stack:
    """Return a stack with the recurrent layers of another program.

    The stack has no dropout, except for a layer of ``torch.nn``. Layers of other kinds, such as an embedding or a
    readout, are left out. Outputs of backward layers are in the order of the inputs.

    Args:
        source: a file with one of `SUFFIXES`; a layer, cell or other module of ``torch.nn``, or a state dict;
            a layer or model of Keras, or the arrays of its ``get_weights()``; an ONNX model.
        layers: names of the layers to read, from the lowest to the highest; None for all. The names are those of the
            modules in a state dict, of the layers in Keras and of the nodes in ONNX.
        activation: activation of an RNN, ``tanh`` or ``relu``, if the source has only arrays: state dicts, ``.h5``
            files and lists.

    Raises:
        InputError: the source cannot be read, or it has a layer without a counterpart.
    """
    if isinstance(source, nn.RNNBase | nn.RNNCellBase):
        return from_torch(source)
    title = str(source) if isinstance(source, str | Path) else f"the {type(source).__name__}"
    return stack_of(_parts(source, activation), title, layers)


def load(model: nn.Module, source: Any, layers: Sequence[str] | None = None) -> None:
    """Copy the weights of the recurrent layers of another program into those of ``model``.

    Everything else in the model, such as its readout, keeps its values.

    Args:
        model: a `Stack` or a model; its cells have the kinds, options and sizes of the source.
        source: see `read`.
        layers: see `read`.

    Raises:
        InputError: the source cannot be read, or its layers differ from those of the model.
    """
    targets = _layers_of(model)
    inner = [innermost(layer.cell) for layer in targets]
    activation = next((str(cell.activation) for cell in inner if hasattr(cell, "activation")), "tanh")
    found = _layers_of(read(source, layers, activation=activation))
    theirs, ours = ([_described(layer) for layer in group] for group in (found, targets))
    if theirs != ours:
        raise InputError(f"the weights are those of {_listed(theirs)}; the model has {_listed(ours)}")
    pairs = [(_tensors(old), _tensors(new)) for old, new in zip(found, targets, strict=True)]
    for given, own in pairs:
        if extra := given.keys() - own.keys():
            hint = "; use model.initial_state=learned" if min(extra).isdigit() else ""
            hint = "; use cell.bias=true" if min(extra) in ("b", "b_u") else hint
            raise InputError(f"the weights have {min(extra)}, which the model lacks{hint}")
    with torch.no_grad():
        for given, own in pairs:
            for name, tensor in own.items():  # without a bias or an initial state, the source computes as with zeros
                tensor.copy_(given[name]) if name in given else tensor.zero_()


def _parts(source: Any, activation: str) -> list[Part]:
    if activation not in ("tanh", "relu"):
        raise InputError(f"activation={activation!r} is not one of tanh, relu")
    if isinstance(source, str | Path):
        return _parts_of_file(Path(source).expanduser(), activation)
    if isinstance(source, Mapping):
        return list(torch_nn.parts_of(_flat(source), activation))
    if isinstance(source, list | tuple):
        return list(keras.parts_of_arrays(source, activation))
    home = type(source).__module__.split(".")[0]
    if home.startswith("onnx"):
        return _parts_of_graph(source)
    if isinstance(source, nn.Module) and home != "keras":  # Keras derives from it if PyTorch is its backend
        return [
            Part(name, tuple(from_torch(module).layers))
            for name, module in source.named_modules()
            if isinstance(module, nn.RNNBase | nn.RNNCellBase)
        ]
    if hasattr(source, "get_config"):
        return list(keras.parts_of_object(source))
    raise InputError(f"cannot read weights from a {type(source).__name__}; give a file, a layer or a state dict")


def _parts_of_file(path: Path, activation: str) -> list[Part]:
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} has none of the suffixes {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.suffix in (".keras", ".h5"):
        return list(keras.parts_of_file(path, activation))
    if path.suffix == ".onnx":
        return _parts_of_graph(path)
    return list(torch_nn.parts_of(_flat(torch_nn.load(path)), activation))


def _parts_of_graph(source: Any) -> list[Part]:
    if find_spec("onnx") is None:
        raise InputError("ONNX graphs need the package onnx, which is not installed; pip install 'rnnlab[export]'")
    from rnnlab.weights import onnx_graphs

    return list(onnx_graphs.parts_of(onnx_graphs.load(source) if isinstance(source, Path) else source))


def _flat(tensors: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint, which may have the state dict among other things, by their names."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
    return found


def _layers_of(model: nn.Module) -> list[Recurrent]:
    return [module for module in model.modules() if isinstance(module, Recurrent)]


def _described(layer: Recurrent) -> str:
    cell = innermost(layer.cell)
    options = [f"{name}={getattr(cell, name)}" for name in ("activation", "reset") if hasattr(cell, name)]
    options += [f"projection_size={cell.output_size}"] if cell.output_size != cell.hidden_size else []
    sizes = [str(cell.input_size), str(cell.hidden_size)]
    return f"{type(cell).__name__}({', '.join(sizes + options + ['backward'] * layer.reverse)})"


def _listed(layers: list[str]) -> str:
    return ", ".join(layers) or "no recurrent layer"


def _tensors(layer: Recurrent) -> dict[str, Tensor]:
    """The parameters of the cell by name, and those of the initial state by number."""
    return {**dict(innermost(layer.cell).named_parameters()), **dict(layer.first.named_parameters())}
