"""Recurrent layers in state dicts of PyTorch, whose names and shapes say everything but the activation of an RNN."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.interface import InputError
from rnnlab.layers import from_torch
from rnnlab.weights.parts import Part

NAME = re.compile(r"(?P<prefix>(?:.*\.)?)weight_hh(_l0|)")
"""Name of the recurrent weights of a lowest layer, or of a cell such as ``torch.nn.LSTMCell``."""
MODULES = {1: nn.RNN, 3: nn.GRU, 4: nn.LSTM}
"""Modules by the number of gates."""


def parts_of(tensors: Mapping[str, Tensor], activation: str) -> Iterator[Part]:
    """Yield the recurrent modules of a state dict, in its order and by their names.

    Args:
        tensors: the state dict.
        activation: activation of an RNN, ``tanh`` or ``relu``.

    Raises:
        InputError: the tensors of a module do not fit each other.
    """
    for name in tensors:
        if match := NAME.fullmatch(name):
            prefix = match["prefix"]
            own = {}
            for key, value in tensors.items():
                if key.startswith(prefix) and re.match(r"(weight|bias)_(ih|hh|hr)", key[len(prefix) :]):
                    suffix = "" if "_l" in key[len(prefix) :] else "_l0"  # cells have no numbers of layers
                    own[f"{key[len(prefix) :]}{suffix}"] = value
            yield Part(prefix.rstrip("."), tuple(from_torch(_module(own, activation, name)).layers))


def _module(tensors: dict[str, Tensor], activation: str, name: str) -> nn.RNNBase:
    """The module of torch.nn with these weights; ``name`` is that of its recurrent weights, for messages."""
    inner, recurrent = tensors.get("weight_ih_l0"), tensors["weight_hh_l0"]
    projection = tensors.get("weight_hr_l0")
    size = recurrent.shape[-1] if projection is None else projection.shape[-1]
    gates, rest = divmod(recurrent.shape[0], size)
    if inner is None or inner.dim() != 2 or recurrent.dim() != 2 or rest or gates not in MODULES:
        raise InputError(f"{name} of shape {list(recurrent.shape)} does not belong to an RNN, LSTM or GRU of torch.nn")
    module = MODULES[gates](
        inner.shape[1],
        size,
        num_layers=sum(re.fullmatch(r"weight_hh_l\d+", key) is not None for key in tensors),
        bias="bias_hh_l0" in tensors,
        bidirectional="weight_hh_l0_reverse" in tensors,
        dtype=torch.float64 if recurrent.dtype == torch.float64 else torch.float32,
        **({"nonlinearity": activation} if gates == 1 else {}),
        **({} if projection is None else {"proj_size": projection.shape[0]}),
    )
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{name} and the tensors beside it are not a layer of torch.nn: {error}") from error
    return module


def load(path: Path) -> dict[str, Any]:
    """Return the state dict in a ``.safetensors`` file or a file of ``torch.save``, without executing code from it.

    Raises:
        InputError: the file is damaged, contains code, or needs a package that is not installed.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise InputError(f"{path} needs the package safetensors; pip install 'rnnlab[export]'") from error
    except Exception as error:  # the unpickler may raise anything on arbitrary bytes
        raise InputError(f"{path} has no state dict: it is damaged, or contains code, which is never run") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} has a {type(content).__name__}; save the state dict: torch.save(model.state_dict())")
    return content
