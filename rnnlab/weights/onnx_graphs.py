"""Recurrent layers of ONNX graphs: the nodes RNN, GRU and LSTM.

A node has weights ``[directions, G * H, ...]``. An LSTM has the gates in the order i, o, f, c, which is i, o, f, g
here, and peepholes in the order i, o, f. A GRU has z, r, h, which is z, r, n.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from rnnlab.cells import Cell
from rnnlab.interface import InputError
from rnnlab.layers import Bidirectional, Recurrent
from rnnlab.weights.parts import Part, cell_of

ORDERS = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}
"""Place of each gate of the cell among the gates of the node."""
ACTIVATIONS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
"""The activations of one direction, if a node does not name others."""
NEUTRAL = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast", "Concat", "Shape"})
"""Nodes that may be between two layers: they change the layout of outputs, but no number."""


def parts_of(model: onnx.ModelProto) -> Iterator[Part]:
    """Yield the recurrent nodes of a graph in order, by the names of the nodes.

    Initial states that are constants become learned initial states. Others are left out: they are given to the layer.

    Raises:
        InputError: a node has an option without a counterpart, or weights that depend on the inputs of the graph.
    """
    graph = _Graph(model)
    for number, node in enumerate(graph.recurrent):
        name = node.name or f"{node.op_type}_{number}"
        yield Part(name, (_layer(graph, node, name),), graph.between(number) if number else ())


class _Graph:
    """A graph whose constant parts can be computed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        # The shapes of values make constants of what exporters compute from shapes, such as initial states of zeros.
        self.model = onnx.shape_inference.infer_shapes(model)
        graph = self.model.graph
        self.makers = {output: node for node in graph.node for output in node.output if output}
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.shapes = {info.name: info.type.tensor_type.shape.dim for info in (*graph.input, *graph.value_info)}
        self.recurrent = [node for node in graph.node if node.op_type in ORDERS and node.domain in ("", "ai.onnx")]

    def constant(self, name: str) -> np.ndarray | None:
        """Return a value that depends only on stored tensors and on shapes; None if it depends on inputs.

        A dimension that is not fixed is taken as 1.
        """
        nodes: list[onnx.NodeProto] = []
        feeds: dict[str, np.ndarray] = {}
        if not self._collect(name, nodes, feeds):
            return None
        if name in feeds:
            return feeds[name]
        output = onnx.helper.make_empty_tensor_value_info(name)
        inputs = [onnx.helper.make_empty_tensor_value_info(key) for key in feeds]
        graph = onnx.helper.make_graph(nodes, "constant", inputs, [output])
        made = onnx.helper.make_model(graph, opset_imports=self.model.opset_import)
        found: Any = ReferenceEvaluator(made).run(None, feeds)
        return found[0]

    def _collect(self, name: str, nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray]) -> bool:
        """Collect what computes a value; return whether it is constant."""
        if name in feeds or any(name in node.output for node in nodes):
            return True
        if name in self.stored:
            feeds[name] = onnx.numpy_helper.to_array(self.stored[name])
            return True
        node = self.makers.get(name)
        if node is None:
            return False
        if node.op_type == "Shape" and not node.attribute and node.input[0] in self.shapes:
            feeds[name] = np.array([dim.dim_value or 1 for dim in self.shapes[node.input[0]]], np.int64)
            return True
        if node in self.recurrent or not all(self._collect(given, nodes, feeds) for given in node.input if given):
            return False
        nodes.append(node)
        return True

    def between(self, number: int) -> tuple[str, ...]:
        """Return what is between a recurrent node and the one before: nodes other than `NEUTRAL`, and other inputs."""
        node, below = self.recurrent[number], self.recurrent[number - 1]
        found, seen, waiting = [], set(), [node.input[0]]
        while waiting:
            name = waiting.pop()
            maker = self.makers.get(name)
            if maker == below or name in seen or self.constant(name) is not None:
                continue
            seen.add(name)
            if maker is None or maker in self.recurrent:
                found.append(f"the input {name}")
                continue
            if maker.op_type not in NEUTRAL:
                found.append(maker.name or maker.op_type)
            waiting += [given for given in maker.input if given]
        return tuple(found)


def _layer(graph: _Graph, node: onnx.NodeProto, name: str) -> Recurrent | Bidirectional:
    options = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    direction = options.get("direction", b"forward").decode()
    count = 2 if direction == "bidirectional" else 1
    relu = _checked(node.op_type, options, count, name)
    given = dict(zip(("X", "W", "R", "B", "lengths", "h", "c", "P"), node.input, strict=False))
    arrays: dict[str, Tensor] = {}
    for key in ("W", "R", "B", "P"):
        if given.get(key):
            value = graph.constant(given[key])
            if value is None:
                raise InputError(f"{key} of the node {name} depends on the inputs of the graph, so it is no weight")
            arrays[key] = torch.from_numpy(np.array(value))
    states = {key: graph.constant(given[key]) for key in ("h", "c") if given.get(key)}
    is_batch_first = bool(options.get("layout", 0))
    layers = []
    for place in range(count):
        cell = _cell(node.op_type, {key: value[place] for key, value in arrays.items()}, relu[place], options)
        first = {key: _row(state, place, is_batch_first, name) for key, state in states.items() if state is not None}
        layers.append(_started(cell, first, reverse=place == 1 or direction == "reverse"))
    return Bidirectional(*layers) if count == 2 else layers[0]


def _checked(kind: str, options: dict[str, Any], count: int, name: str) -> list[bool]:
    """Whether each direction of an RNN has the activation Relu, after checking the options of a node.

    Raises:
        InputError: an option has no counterpart.
    """
    usual = ACTIVATIONS[kind]
    given = [text.decode() for text in options.get("activations", [])] or usual * count
    per_direction = [given[place * len(usual) : (place + 1) * len(usual)] for place in range(count)]
    for one in per_direction:
        if one != usual and (kind, one) != ("RNN", ["Relu"]):
            raise InputError(f"the node {name} has the activations {', '.join(one)}; {kind} needs {', '.join(usual)}")
    for option in ("clip", "input_forget"):
        if options.get(option):
            raise InputError(f"the node {name} has {option}={options[option]}, which no cell has")
    return [one == ["Relu"] for one in per_direction]


def _cell(kind: str, arrays: dict[str, Tensor], is_relu: bool, options: dict[str, Any]) -> Cell:
    """The cell of one direction of a node."""
    order = ORDERS[kind]

    def reorder(tensor: Tensor) -> Tensor:
        blocks = tensor.chunk(len(order))
        return torch.cat([blocks[gate] for gate in order])

    biases = [reorder(half) for half in arrays["B"].chunk(2)] if "B" in arrays else []
    weights = (reorder(arrays["W"]), reorder(arrays["R"]), biases)
    if kind == "RNN":
        return cell_of("rnn", *weights, activation="relu" if is_relu else "tanh")
    if kind == "GRU":
        return cell_of("gru", *weights, reset="after" if options.get("linear_before_reset", 0) else "before")
    if "P" in arrays and arrays["P"].any():
        i, o, f = arrays["P"].chunk(3)
        return cell_of("peephole", *weights, peepholes=torch.cat([i, f, o]))
    return cell_of("lstm", *weights)


def _row(state: np.ndarray, place: int, is_batch_first: bool, name: str) -> Tensor:
    """The initial state ``[H]`` of one direction, which must be equal for all sequences."""
    rows = torch.from_numpy(np.array(state[:, place] if is_batch_first else state[place]))
    if not (rows == rows[:1]).all():
        raise InputError(f"the node {name} has initial states that differ between the sequences of a batch")
    return rows[0]


def _started(cell: Cell, first: dict[str, Tensor], reverse: bool) -> Recurrent:
    """A layer that starts from the states ``first``, by name; learned unless all are zero."""
    if not any(state.any() for state in first.values()):
        return Recurrent(cell, reverse=reverse)
    layer = Recurrent(cell, initial_state="learned", reverse=reverse)
    with torch.no_grad():
        for name, parameter in zip(cell.states, layer.first, strict=True):
            if name in first:
                parameter.copy_(first[name])
    return layer


def load(path: Path) -> onnx.ModelProto:
    """Return the graph in a file.

    Raises:
        InputError: the file is damaged or of another kind.
    """
    try:
        return onnx.load(path)
    except Exception as error:  # protobuf's errors have no common base class
        raise InputError(f"{path} is not an ONNX file: {error}") from error
