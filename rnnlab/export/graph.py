"""Write a recorded model as an ONNX graph."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from rnnlab.engine.ir.program import Node, Unsupported, Value, values_of
from rnnlab.export.operations import Writer, repeated, sizes_of
from rnnlab.export.parts import Part
from rnnlab.export.record import Loop, Recording, record
from rnnlab.interface import InputError

OPSET, IR_VERSION = 18, 10
"""Versions of the operators and of the file format: onnxruntime reads them since its release 1.18."""

ORDERS = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""The blocks of the weights of ``torch.nn`` in the order of ONNX: i, o, f, c instead of i, f, g, o; z, r, h instead of
r, z, n."""


KINDS = {torch.int64: TensorProto.INT64, torch.float32: TensorProto.FLOAT, torch.bool: TensorProto.BOOL}


def build(part: Part, lengths: bool = False, about: dict[str, Any] | None = None) -> onnx.ModelProto:
    """Return a part of a model as an ONNX graph with dynamic numbers of steps and sequences.

    The graph has the inputs and the outputs of the part. The graph of an `Encoder` has ``lengths`` instead of
    ``present``.

    Args:
        part: the part of a model in evaluation mode, in float32 and on the CPU.
        lengths: whether the graph has an input ``lengths`` after the first one, int64 ``[batch]``: the number of steps
            of each sequence. The states are then those at the end of each sequence; outputs after it are undefined.
        about: a description, which the file stores as JSON under the key ``rnnlab``.

    Raises:
        InputError: the model uses an operation that cannot be exported; the message names it.
    """
    recording = record(part)
    w = Writer()
    given, returned = _interface(w, recording, part, lengths)
    for value, tensor in recording.constants.items():
        w.names[value] = w.array(tensor.numpy(), value.name)
    try:
        for node in recording.nodes:
            if node.operation == "loop":
                _write_loop(w, node, recording)
            else:
                w.write(node)
    except Unsupported as error:
        raise InputError(f"the model cannot be exported to ONNX because it uses {error}") from error
    for (name, *_), value in zip(returned, recording.returned, strict=True):
        w.nodes.append(helper.make_node("Identity", [_result(w, value, recording, part)], [name]))
    infos = [[helper.make_tensor_value_info(*one) for one in ports] for ports in (given, returned)]
    used = {name for node in w.nodes for name in _read(node)}
    graph = helper.make_graph(w.nodes, "model", *infos, [c for c in w.constants.values() if c.name in used])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    made.producer_name = "rnnlab"
    if about is not None:
        helper.set_model_props(made, {"rnnlab": json.dumps(about)})
    onnx.checker.check_model(made, full_check=True)
    return made


def _interface(w: Writer, recording: Recording, part: Part, lengths: bool) -> tuple[list, list]:
    """Name the inputs and the outputs of the graph; list the name, type and shape of each."""
    given = []
    for port, value in zip(part.given, recording.given, strict=True):
        if port.name != part.mask:
            w.names[value] = w.fresh(port.name)
            given.append((port.name, KINDS[port.dtype], port.shape))
            if port.dtype == torch.bool:
                w.masks.add(port.name)
    if lengths or part.mask:
        w.lengths = w.fresh("lengths")
        given.insert(1, (w.lengths, TensorProto.INT64, ["batch"]))
    if part.mask:
        w.names[recording.given[1]] = _live(w, given[0][0], batch_first=True)
    returned = [(w.fresh(port.name), KINDS[port.dtype], port.shape) for port in part.returned]
    return given, returned


def _result(w: Writer, value: Value, recording: Recording, part: Part) -> str:
    """The name of a result; a constant is repeated for every sequence of the batch."""
    if value not in recording.constants:
        return w.names[value]
    axis = part.given[0].shape.index("batch")
    return repeated(w, w.names[value], len(value.shape), sizes_of(w, part.given[0].name, axis, axis + 1))


def _read(node: onnx.NodeProto) -> list[str]:
    """The names that a node reads, those of the body of a ``Scan`` included."""
    bodies = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    return [*node.input, *(name for body in bodies for inner in body.node for name in _read(inner))]


def _live(w: Writer, sequences: str, batch_first: bool = False) -> str:
    """The name of a mask that is False for padding, bool ``[time, batch]`` or ``[batch, time]``."""
    step, end = (w.integers([axis]) for axis in ((0, 1) if batch_first else (1, 0)))
    return w.logical("Less", w.add("Unsqueeze", _steps(w, sequences), step), w.add("Unsqueeze", w.lengths, end))


def _write_loop(w: Writer, node: Node, recording: Recording) -> None:
    loop: Loop = node.arguments[0]
    before = [_per_sequence(w, value, loop, recording) for value in loop.before]
    if loop.native is not None:
        made = _native(w, loop, before, recording)
    elif loop.inputs.shape[0] == 1:
        made = _once(w, loop, before)
    else:
        made = _scan(w, loop, before)
    w.names.update(zip(node.results, made, strict=True))


def _per_sequence(w: Writer, value: Value, loop: Loop, recording: Recording) -> str:
    """The name of a state before the first step; an initial state is repeated for every sequence of the batch."""
    if value not in recording.constants:
        return w.names[value]
    return repeated(w, w.names[value], len(value.shape), sizes_of(w, w.names[loop.inputs], 1, 2))


def _native(w: Writer, loop: Loop, before: list[str], recording: Recording) -> list[str]:
    """A node ``LSTM``, ``GRU`` or ``RNN``."""
    mode, weights = loop.native
    kind, _, activation = mode.partition("_")
    tensors = [recording.constants[value] for value in weights]
    width = tensors[1].shape[1]

    def ordered(tensor: torch.Tensor) -> torch.Tensor:
        blocks = tensor.split(width)
        return torch.cat([blocks[gate] for gate in ORDERS[kind]])

    arrays = [w.array(ordered(tensor)[None].numpy(), name) for tensor, name in zip(tensors[:2], "WR", strict=True)]
    biases = ""
    if len(tensors) == 4:
        biases = w.array(torch.cat([ordered(tensor) for tensor in tensors[2:]])[None].numpy(), "B")
    first = w.integers([0])
    states = [w.add("Unsqueeze", name, first) for name in before]
    options: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" else {}
    if activation:
        options["activations"] = [activation.capitalize()]
    is_padded = w.lengths and loop.inputs.shape[0] > 1
    lengths = w.add("Cast", w.lengths, to=TensorProto.INT32) if is_padded else ""
    inputs = (w.names[loop.inputs], *arrays, biases, lengths, *states)
    outputs, *final = w.add(kind, *inputs, outputs=1 + len(states), hidden_size=width, **options)
    return [w.add("Squeeze", outputs, w.integers([1])), *(w.add("Squeeze", name, first) for name in final)]


def _once(w: Writer, loop: Loop, before: list[str]) -> list[str]:
    """One step without a loop; the inputs have one time step."""
    w.names.update({leaf: w.names[value] for leaf, value in loop.fixed.items()})
    first = w.integers([0])
    w.names.update({leaf: w.add("Squeeze", w.names[value], first) for leaf, value in loop.scanned.items()})
    w.names.update(zip(loop.program.state, before, strict=True))
    for node in loop.program.nodes:
        w.write(node)
    output, *after = (w.names[value] for value in (loop.program.output, *loop.program.new_state))
    return [w.add("Unsqueeze", output, first), *after]


def _scan(w: Writer, loop: Loop, before: list[str]) -> list[str]:
    """A node ``Scan``, whose body is the program of the step; what depends on constants alone is outside of it."""
    program = loop.program
    w.names.update({leaf: w.names[value] for leaf, value in loop.fixed.items()})
    known = set(loop.fixed)
    inside = []
    for node in program.nodes:
        if known.issuperset(values_of(node.arguments)):
            w.write(node)
            known.update(node.results)
        else:
            inside.append(node)
    body = Writer(w)
    given = []
    scanned = loop.scanned or {loop.inputs: loop.inputs}  # a Scan needs one, even if the cell ignores its inputs
    for leaf, shape in [(leaf, leaf.shape) for leaf in program.state] + [(k, v.shape[1:]) for k, v in scanned.items()]:
        body.names[leaf] = body.fresh("before" if leaf in program.state else "x")
        rows = "batch" if shape else None
        given.append(helper.make_tensor_value_info(body.names[leaf], TensorProto.FLOAT, [rows, *shape[1:]]))
    inputs = [*before, *(w.names[value] for value in scanned.values())]
    if w.lengths:
        inputs.append(_steps(w, w.names[loop.inputs]))
        step = body.fresh("step")
        given.append(helper.make_tensor_value_info(step, TensorProto.INT64, []))
        live = body.logical("Less", step, w.lengths)
    for node in inside:
        body.write(node)
    returned = []
    for value, kept in zip((*program.new_state, program.output), (*program.state, None), strict=True):
        name = body.float(value)
        if w.lengths:
            rows = body.add("Unsqueeze", live, body.integers(list(range(1, len(value.shape)))))
            name = body.add("Where", rows, name, body.number(0.0) if kept is None else body.names[kept])
        name = body.add("Identity", name, name="after")
        returned.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *value.shape[1:]]))
    graph = helper.make_graph(body.nodes, "step", given, returned)
    *after, outputs = w.add(
        "Scan", *inputs, outputs=1 + len(before), body=graph, num_scan_inputs=len(inputs) - len(before), name="scan"
    )
    return [outputs, *after]


def _steps(w: Writer, sequences: str) -> str:
    """The numbers of the time steps, int64 ``[time]``."""
    zero, one = (w.array(np.array(number, np.int64), "number", ("int", number)) for number in (0, 1))
    return w.add("Range", zero, w.add("Gather", w.add("Shape", sequences), zero), one)
