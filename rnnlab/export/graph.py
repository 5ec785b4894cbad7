"""Write a recorded model as an ONNX graph."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from rnnlab.engine.ir.program import Node, Unsupported, Value, values_of
from rnnlab.export.interface import states_of
from rnnlab.export.operations import Writer
from rnnlab.export.record import Loop, Recording, record
from rnnlab.interface import InputError, Tokens
from rnnlab.models import Model

OPSET, IR_VERSION = 18, 10
"""Versions of the operators and of the file format: onnxruntime reads them since its release 1.18."""

ORDERS = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""The blocks of the weights of ``torch.nn`` in the order of ONNX: i, o, f, c instead of i, f, g, o; z, r, h instead of
r, z, n."""


def build(
    model: Model, step: bool = False, lengths: bool = False, about: dict[str, Any] | None = None
) -> onnx.ModelProto:
    """Return a model as an ONNX graph with dynamic numbers of steps and sequences.

    The graph has an input ``inputs``: tokens int64 ``[time, batch]`` or vectors ``[time, batch, F]``, and an output
    ``outputs`` ``[time, batch, output_size]``. For each state tensor it has an input, such as ``layers.0.h``, and an
    output, ``layers.0.h.next``, both ``[batch, ...]``. A bidirectional model has no states: it starts from its initial
    state.

    Args:
        model: the model, in evaluation mode, in float32 and on the CPU.
        step: whether the graph computes one time step: inputs ``[batch]`` or ``[batch, F]``.
        lengths: whether the graph has a second input ``lengths``, int64 ``[batch]``: the number of steps of each
            sequence. The states are then those at the end of each sequence; outputs after it are undefined.
        about: a description, which the file stores as JSON under the key ``rnnlab``.

    Raises:
        InputError: the model uses an operation that cannot be exported; the message names it.
    """
    recording = record(model, step)
    w = Writer()
    given, returned = _interface(w, recording, model, step, lengths)
    for value, tensor in recording.constants.items():
        w.names[value] = w.array(tensor.numpy(), value.name)
    try:
        for node in recording.nodes:
            if node.operation == "loop":
                _write_loop(w, node, recording, step)
            else:
                w.write(node)
    except Unsupported as error:
        raise InputError(f"the model cannot be exported to ONNX because it uses {error}") from error
    for (name, *_), value in zip(returned, [recording.outputs, *recording.after], strict=True):
        w.nodes.append(helper.make_node("Identity", [w.names[value]], [name]))
    infos = [[helper.make_tensor_value_info(*one) for one in part] for part in (given, returned)]
    used = {name for node in w.nodes for name in _read(node)}
    graph = helper.make_graph(w.nodes, "model", *infos, [c for c in w.constants.values() if c.name in used])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    made.producer_name = "rnnlab"
    if about is not None:
        helper.set_model_props(made, {"rnnlab": json.dumps(about)})
    onnx.checker.check_model(made, full_check=True)
    return made


def _interface(w: Writer, recording: Recording, model: Model, step: bool, lengths: bool) -> tuple[list, list]:
    """Name the inputs and the outputs of the graph; list the name, type and shape of each."""
    lead = ["batch"] if step else ["time", "batch"]
    is_tokens = isinstance(model.input, Tokens)
    kind = TensorProto.INT64 if is_tokens else TensorProto.FLOAT
    given = [("inputs", kind, lead if is_tokens else [*lead, model.input.size])]
    w.names[recording.inputs] = w.fresh("inputs")
    if lengths:
        w.lengths = w.fresh("lengths")
        given.append((w.lengths, TensorProto.INT64, ["batch"]))
    for value, state in zip(recording.before, states_of(model), strict=True):
        w.names[value] = w.fresh(state.name)
        given.append((w.names[value], TensorProto.FLOAT, ["batch", *value.shape[1:]]))
    returned = [("outputs", TensorProto.FLOAT, [*lead, model.output_size])]
    returned += [(f"{name}.next", TensorProto.FLOAT, shape) for name, _, shape in given[1 + lengths :]]
    for name, *_ in returned:
        w.fresh(name)
    return given, returned


def _read(node: onnx.NodeProto) -> list[str]:
    """The names that a node reads, those of the body of a ``Scan`` included."""
    bodies = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    return [*node.input, *(name for body in bodies for inner in body.node for name in _read(inner))]


def _write_loop(w: Writer, node: Node, recording: Recording, step: bool) -> None:
    loop: Loop = node.arguments[0]
    before = [_per_sequence(w, value, loop, recording) for value in loop.before]
    if loop.native is not None:
        made = _native(w, loop, before, recording)
    elif step:
        made = _once(w, loop, before)
    else:
        made = _scan(w, loop, before)
    w.names.update(zip(node.results, made, strict=True))


def _per_sequence(w: Writer, value: Value, loop: Loop, recording: Recording) -> str:
    """The name of a state before the first step; an initial state is repeated for every sequence of the batch."""
    if value not in recording.constants:
        return w.names[value]
    batch = w.add("Slice", w.add("Shape", w.names[loop.inputs]), w.integers([1]), w.integers([2]))
    rest = [w.integers(list(value.shape[1:]))] if len(value.shape) > 1 else []
    return w.add("Expand", w.names[value], w.add("Concat", batch, *rest, axis=0))


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
    lengths = w.add("Cast", w.lengths, to=TensorProto.INT32) if w.lengths else ""
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
        inputs.append(_steps(w, loop))
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


def _steps(w: Writer, loop: Loop) -> str:
    """The numbers of the time steps, int64 ``[time]``."""
    zero, one = (w.array(np.array(number, np.int64), "number", ("int", number)) for number in (0, 1))
    num_steps = w.add("Gather", w.add("Shape", w.names[loop.inputs]), zero)
    return w.add("Range", zero, num_steps, one)
