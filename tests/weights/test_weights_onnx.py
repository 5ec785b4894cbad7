"""Weights read from ONNX graphs give the outputs of onnxruntime."""

import numpy as np
import onnx
import onnxruntime
import pytest
import tiers
import torch
from onnx import TensorProto, helper, numpy_helper

from rnnlab import weights
from rnnlab.interface import InputError

F, H = 3, 4
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
LENGTHS = (1, 7, 200)
DIRECTIONS = ("forward", "reverse", "bidirectional")
CASES = {
    "rnn": ("RNN", {}),
    "rnn-relu": ("RNN", {"activations": ["Relu"]}),
    "gru-before": ("GRU", {}),
    "gru-after": ("GRU", {"linear_before_reset": 1}),
    "lstm": ("LSTM", {}),
    "lstm-named": ("LSTM", {"activations": ["Sigmoid", "Tanh", "Tanh"]}),
}


def _graph(nodes, tensors, outputs, inputs=()):
    given = [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["time", "batch", F]), *inputs]
    stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "layers", given, found, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _tensors(op, directions, features, suffix="", draw=None):
    draw = draw or np.random.default_rng(0)
    rows = GATES[op] * H
    shapes = {"W": (directions, rows, features), "R": (directions, rows, H), "B": (directions, 2 * rows)}
    return {f"{key}{suffix}": (draw.normal(size=shape) * 0.4).astype("f") for key, shape in shapes.items()}


def _node(op, direction, given=("X", "W", "R", "B"), outputs=("Y",), name="", **options):
    count = 2 if direction == "bidirectional" else 1
    options |= {"activations": options["activations"] * count} if "activations" in options else {}
    return helper.make_node(op, list(given), list(outputs), name, hidden_size=H, direction=direction, **options)


def _run(model, inputs, **feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"X": inputs.numpy(), **feeds})[0]


def _ours(model, inputs, **options):
    """The outputs of the stack as ONNX has them, ``[T, directions, B, H]``."""
    with torch.no_grad():
        outputs = weights.read(model, **options)(inputs)[0]
    return outputs.unflatten(-1, (-1, H)).transpose(1, 2).numpy()


@pytest.mark.parametrize("direction", tiers.quick_if(DIRECTIONS, "bidirectional".__eq__))
@pytest.mark.parametrize("case", CASES)
def test_a_node_gives_the_outputs_of_onnxruntime(case, direction):
    op, options = CASES[case]
    directions = 2 if direction == "bidirectional" else 1
    tensors = _tensors(op, directions, F)
    for given in (("X", "W", "R", "B"), ("X", "W", "R")):
        model = _graph([_node(op, direction, given, **options)], tensors, ["Y"])
        for length in LENGTHS:
            inputs = torch.randn(length, 2, F, generator=torch.Generator().manual_seed(length))
            np.testing.assert_allclose(_ours(model, inputs), _run(model, inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_peepholes_and_initial_states(direction):
    directions = 2 if direction == "bidirectional" else 1
    draw = np.random.default_rng(1)
    tensors = _tensors("LSTM", directions, F) | {
        "P": draw.normal(size=(directions, 3 * H)).astype("f"),
        "h": np.repeat(draw.normal(size=(directions, 1, H)), 2, 1).astype("f"),
        "c": np.repeat(draw.normal(size=(directions, 1, H)), 2, 1).astype("f"),
    }
    model = _graph([_node("LSTM", direction, ("X", "W", "R", "B", "", "h", "c", "P"))], tensors, ["Y"])
    inputs = torch.randn(50, 2, F)
    np.testing.assert_allclose(_ours(model, inputs), _run(model, inputs), rtol=0, atol=1e-5)
    stack = weights.read(model)
    assert {type(cell).__name__ for cell in stack.modules() if hasattr(cell, "p")} == {"Peephole"}
    assert all(len(layer.first) == 2 for layer in stack.modules() if hasattr(layer, "first"))


def test_layers_on_top_of_each_other_and_computed_weights():
    """Two layers as exporters write them: between them the directions are joined, and the second's bias is computed."""
    draw = np.random.default_rng(2)
    tensors = _tensors("GRU", 2, F, "0", draw) | _tensors("LSTM", 1, 2 * H, "1", draw)
    half = tensors.pop("B1")
    tensors |= {"half": half / 2, "shape": np.array([0, 0, -1])}
    nodes = [
        _node("GRU", "bidirectional", ("X", "W0", "R0", "B0"), ["Y0"], "low", linear_before_reset=1),
        helper.make_node("Transpose", ["Y0"], ["T0"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["T0", "shape"], ["X1"]),
        helper.make_node("Add", ["half", "half"], ["B1"]),
        _node("LSTM", "forward", ("X1", "W1", "R1", "B1"), ["Y"], "high"),
    ]
    model = _graph(nodes, tensors, ["Y"])
    inputs = torch.randn(30, 2, F)
    np.testing.assert_allclose(_ours(model, inputs), _run(model, inputs), rtol=0, atol=1e-5)
    nodes.insert(3, helper.make_node("Tanh", ["X1"], ["squashed"], "squash"))
    nodes[-1].input[0] = "squashed"
    model = _graph(nodes, tensors, ["Y"])
    with pytest.raises(InputError, match="squash between the recurrent layers low and high"):
        weights.read(model)
    assert weights.read(model, ["high"]).layers[0].cell.input_size == 2 * H


def test_layers_side_by_side_form_no_stack():
    tensors = _tensors("RNN", 1, F, "0") | _tensors("RNN", 1, F, "1")
    nodes = [_node("RNN", "forward", ("X", f"W{i}", f"R{i}"), [f"Y{i}"], f"part{i}") for i in (0, 1)]
    with pytest.raises(InputError, match="the input X between the recurrent layers part0 and part1"):
        weights.read(_graph(nodes, tensors, ["Y0", "Y1"]))
    assert len(weights.read(_graph(nodes, tensors, ["Y0", "Y1"]), ["part1"]).layers) == 1


@pytest.mark.parametrize(
    ("options", "given", "reason"),
    [
        ({"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "", "activations HardSigmoid, Tanh, Tanh; LSTM needs"),
        ({"clip": 3.0}, "", "clip=3.0"),
        ({"input_forget": 1}, "", "input_forget=1"),
        ({}, "X", "W of the node LSTM_0 depends on the inputs"),
    ],
)
def test_nodes_without_counterpart_are_refused(options, given, reason):
    names = ("X", given or "W", "R", "B")
    model = _graph([_node("LSTM", "forward", names, **options)], _tensors("LSTM", 1, F), ["Y"])
    with pytest.raises(InputError, match=reason):
        weights.read(model)


def test_initial_states_of_the_caller_are_left_to_the_caller(tmp_path):
    state = helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, "batch", H])
    node = _node("RNN", "forward", ("X", "W", "R", "B", "", "h"))
    model = _graph([node], _tensors("RNN", 1, F), ["Y"], [state])
    onnx.save(model, tmp_path / "rnn.onnx")
    stack = weights.read(tmp_path / "rnn.onnx")
    inputs, first = torch.randn(9, 2, F), torch.randn(1, 2, H)
    with torch.no_grad():
        outputs, _ = stack(inputs, ((first[0],),))
    expected = _run(model, inputs, h=first.numpy())
    np.testing.assert_allclose(outputs.numpy(), expected[:, 0], rtol=0, atol=1e-5)
    assert not len(stack.layers[0].first)


def test_initial_states_that_differ_between_sequences_are_refused():
    states = np.random.default_rng(3).normal(size=(1, 2, H)).astype("f")
    node = _node("RNN", "forward", ("X", "W", "R", "B", "", "h"))
    with pytest.raises(InputError, match="differ between the sequences"):
        weights.read(_graph([node], _tensors("RNN", 1, F) | {"h": states}, ["Y"]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_what_torch_exports(kind, bidirectional, tmp_path):
    """The graph has initial states that are computed from the shape of the inputs, and joins directions by itself."""
    module = getattr(torch.nn, kind)(F, H, 2, bidirectional=bidirectional)
    path = tmp_path / "module.onnx"
    names = {0: "time", 1: "batch"}
    torch.onnx.export(module, (torch.randn(5, 2, F),), path, dynamo=False, input_names=["X"], dynamic_axes={"X": names})
    stack = weights.read(path)
    for length in LENGTHS:
        inputs = torch.randn(length, 2, F)
        torch.testing.assert_close(stack(inputs)[0], module(inputs)[0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(_run(onnx.load(path), inputs), module(inputs)[0].detach(), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["rnn", "gru-before", "gru-after", "lstm"])
def test_every_length(case):
    op, options = CASES[case]
    model = _graph([_node(op, "bidirectional", **options)], _tensors(op, 2, F), ["Y"])
    stack = weights.read(model)
    for length in range(1, 201):
        inputs = torch.randn(length, 1, F)
        outputs = stack(inputs)[0].detach().unflatten(-1, (-1, H)).transpose(1, 2).numpy()
        np.testing.assert_allclose(outputs, _run(model, inputs), rtol=0, atol=1e-5)
