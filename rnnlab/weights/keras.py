"""Recurrent layers of Keras: layers and models in memory, ``.keras`` and ``.weights.h5`` files, lists of arrays.

Keras stores a kernel ``[F, G * H]``, a recurrent kernel ``[H, G * H]`` and a bias: the transposes of PyTorch's. An LSTM
has the gates in the order i, f, c, o, which is i, f, g, o here. A GRU has z, r, h, which is z, r, n; with
``reset_after`` its bias is ``[2, 3 * H]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from rnnlab.cells import Cell
from rnnlab.interface import InputError
from rnnlab.layers import Bidirectional, Recurrent
from rnnlab.weights.parts import Part, cell_of

KINDS = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}
"""The recurrent layers, with their numbers of gates."""
NEUTRAL = frozenset(
    {"InputLayer", "Masking", "Dropout", "SpatialDropout1D", "GaussianDropout", "GaussianNoise", "AlphaDropout"}
)
"""Layers that change nothing in inference, or only mask."""
MERGES = {"concat": "concatenate", "sum": "sum"}

Entry = tuple[str, dict[str, Any], list[np.ndarray]]
"""Class name, configuration and weights of a layer; the weights of layers that are not recurrent are left out."""


def parts_of_object(thing: Any) -> Iterator[Part]:
    """Yield the recurrent layers of a layer or model of Keras."""
    yield from _parts(_entries_of(thing))


def parts_of_arrays(arrays: Sequence[Any], activation: str) -> Iterator[Part]:
    """Yield the layer whose ``get_weights()`` are ``arrays``: 2 or 3 for one direction, 4 or 6 for two."""
    yield from _parts([_guessed("weights", [np.asarray(array) for array in arrays], activation)])


def parts_of_file(path: Path, activation: str) -> Iterator[Part]:
    """Yield the recurrent layers of a ``.keras`` file or a ``.h5`` file with weights.

    Raises:
        InputError: the file is damaged, h5py is not installed, or a layer has no counterpart.
    """
    if find_spec("h5py") is None:
        raise InputError(f"{path} needs the package h5py, which is not installed; pip install 'rnnlab[export]'")
    h5py = import_module("h5py")
    try:
        if path.suffix == ".keras":
            with ZipFile(path) as archive:
                config, data = json.loads(archive.read("config.json")), BytesIO(archive.read("model.weights.h5"))
            with h5py.File(data) as file:
                entries = list(_entries_of_config(config["config"], file, path))
        else:
            with h5py.File(path) as file:
                entries = list(_entries_of_groups(file, activation))
    except (BadZipFile, KeyError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not a file of weights that Keras 3 has written: {error}") from error
    yield from _parts(entries)


def _entries_of(thing: Any) -> Iterator[Entry]:
    if hasattr(thing, "layers"):
        for layer in thing.layers:
            yield from _entries_of(layer)
    else:
        yield type(thing).__name__, thing.get_config(), thing.get_weights()


def _entries_of_config(config: dict[str, Any], group: Any, path: Path) -> Iterator[Entry]:
    """The layers of a model in the order of its configuration, with the weights in ``group``."""
    named = {child["vars"].attrs.get("name", key): child for key, child in group["layers"].items()}
    for layer in config["layers"]:
        inner, name = layer["config"], layer["config"]["name"]
        if "layers" in inner:
            yield from _entries_of_config(inner, named[name], path)
        elif layer["class_name"] in {*KINDS, "Bidirectional"}:
            if name not in named:
                raise InputError(f"{path} has no weights of the layer {name}; read the model in Keras and give it")
            yield layer["class_name"], inner, _arrays(named[name])
        else:
            yield layer["class_name"], inner, []


def _entries_of_groups(group: Any, activation: str) -> Iterator[Entry]:
    """The layers in a file without a configuration, by the numbers in their names."""
    for key in sorted(group, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]):
        child = group[key]
        if "forward_layer" in child or "cell" in child:
            yield _guessed(child["vars"].attrs.get("name", key), _arrays(child), activation)
        elif key != "vars" and hasattr(child, "keys"):
            yield from _entries_of_groups(child, activation)


def _arrays(group: Any) -> list[np.ndarray]:
    """The weights of a recurrent layer, in the order of ``get_weights()``."""
    if "forward_layer" in group:
        return [*_arrays(group["forward_layer"]), *_arrays(group["backward_layer"])]
    variables = group["cell/vars"]
    return [np.asarray(variables[number]) for number in sorted(variables, key=int)]


def _guessed(name: str, arrays: list[np.ndarray], activation: str) -> Entry:
    """An entry with the configuration that the shapes imply, and the defaults of Keras for the rest."""
    if len(arrays) not in (2, 3, 4, 6) or any(array.ndim != 2 for array in arrays[:2]):
        shapes = [list(array.shape) for array in arrays]
        raise InputError(f"arrays of shapes {shapes} are not the weights of a recurrent layer of Keras")
    rows, columns = arrays[1].shape
    kinds = [kind for kind, gates in KINDS.items() if columns == gates * rows]
    if not kinds:
        raise InputError(f"a recurrent kernel of shape {[rows, columns]} is not that of SimpleRNN, GRU or LSTM")
    config = {
        "name": name,
        "activation": activation if kinds[0] == "SimpleRNN" else "tanh",
        "use_bias": len(arrays) in (3, 6),
        "reset_after": len(arrays) in (2, 4) or arrays[2].ndim == 2,
    }
    if len(arrays) < 4:
        return kinds[0], config, arrays
    inner = {"class_name": kinds[0], "config": config}
    return "Bidirectional", {"name": name, "layer": inner, "merge_mode": "concat"}, arrays


def _parts(entries: Any) -> Iterator[Part]:
    between: list[str] = []
    for kind, config, arrays in entries:
        if kind in KINDS:
            if config.get("go_backwards"):
                raise InputError(f"the layer {config['name']} has go_backwards=True, which only Bidirectional may have")
            layer = Recurrent(_cell(kind, config, arrays))
        elif kind == "Bidirectional":
            layer = _bidirectional(config, arrays)
        else:
            between += [] if kind in NEUTRAL else [config["name"]]
            continue
        yield Part(config["name"], (layer,), tuple(between))
        between = []


def _bidirectional(config: dict[str, Any], arrays: list[np.ndarray]) -> Bidirectional:
    if config["merge_mode"] not in MERGES:
        raise InputError(
            f"the layer {config['name']} has merge_mode={config['merge_mode']!r}; concat and sum are known"
        )
    ahead, half = config["layer"], len(arrays) // 2
    back = config.get("backward_layer") or ahead
    if ahead["class_name"] not in KINDS or back["class_name"] not in KINDS:
        raise InputError(f"the layer {config['name']} has layers other than {', '.join(KINDS)} in it")
    if ahead["config"].get("go_backwards"):
        raise InputError(f"the forward layer of {config['name']} has go_backwards=True, which is not supported")
    return Bidirectional(
        Recurrent(_cell(ahead["class_name"], ahead["config"], arrays[:half])),
        Recurrent(_cell(back["class_name"], back["config"], arrays[half:]), reverse=True),
        MERGES[config["merge_mode"]],
    )


def _cell(kind: str, config: dict[str, Any], arrays: list[np.ndarray]) -> Cell:
    """The cell of a layer of Keras."""
    activation = config.get("activation", "tanh")
    allowed = ("tanh", "relu") if kind == "SimpleRNN" else ("tanh",)
    if activation not in allowed:
        raise InputError(
            f"the layer {config['name']} has activation={activation!r}; {kind} needs {' or '.join(allowed)}"
        )
    if config.get("recurrent_activation", "sigmoid") != "sigmoid":
        raise InputError(
            f"the layer {config['name']} has recurrent_activation={config['recurrent_activation']!r}; only sigmoid "
            "gates have a counterpart"
        )
    if len(arrays) != 2 + config["use_bias"]:
        raise InputError(f"the layer {config['name']} has {len(arrays)} weights; call the model once to build it")
    W, U, *bias = (torch.from_numpy(np.array(array)) for array in arrays)
    biases = [*bias[0]] if bias and bias[0].dim() == 2 else [*bias, *map(torch.zeros_like, bias)]
    if kind == "SimpleRNN":
        return cell_of("rnn", W.T, U.T, biases, activation=activation)
    if kind == "LSTM":
        return cell_of("lstm", W.T, U.T, biases)
    reset = "after" if config["reset_after"] else "before"
    return cell_of("gru", _reset_first(W.T), _reset_first(U.T), [_reset_first(b) for b in biases], reset=reset)


def _reset_first(tensor: Tensor) -> Tensor:
    """Reorder the gates z, r, n along the first axis to r, z, n."""
    z, r, n = tensor.chunk(3)
    return torch.cat([r, z, n])
