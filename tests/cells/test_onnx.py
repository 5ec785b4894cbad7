"""The cells against the ONNX standard: our weights in a one-node model, run by ONNX's own reference evaluator."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_rnn import RNN_14

from rnnlab import cells
from rnnlab.layers import Recurrent

T, B, F, H = 5, 3, 2, 4

# ours and ONNX's order of gates: an LSTM has i, f, g, o here and i, o, f, c there; a GRU r, z, n here and z, r, h there
CASES = {
    "rnn-tanh": ("rnn", {"activation": "tanh"}, [0], {"activations": ["Tanh"]}),
    "rnn-relu": ("rnn", {"activation": "relu"}, [0], {"activations": ["Relu"]}),
    "lstm": ("lstm", {}, [0, 3, 1, 2], {}),
    "gru-before": ("gru", {"reset": "before"}, [1, 0, 2], {"linear_before_reset": 0}),
    "gru-after": ("gru", {"reset": "after"}, [1, 0, 2], {"linear_before_reset": 1}),
}


class RNN(RNN_14):
    """ONNX's evaluator of RNN with Relu added: of the standard's activations it knows only Tanh and Affine."""

    op_domain = ""

    def choose_act(self, name, alpha, beta):
        return (lambda a: np.maximum(a, 0)) if name == "Relu" else super().choose_act(name, alpha, beta)


def onnx_weights(cell, order):
    """W [1, G*H, F], R [1, G*H, H] and B [1, 2*G*H], the biases of the input products before the recurrent ones."""

    def reorder(weight):
        blocks = weight.detach().split(H)
        return torch.cat([blocks[gate] for gate in order])

    weights = {"W": reorder(cell.W)[None], "R": reorder(cell.U)[None]}
    if cell.b is not None:
        recurrent = torch.zeros_like(cell.b)
        if getattr(cell, "b_u", None) is not None:
            recurrent[-H:] = cell.b_u.detach()  # the candidate is last in both orders
        weights["B"] = torch.cat([reorder(cell.b), recurrent])[None]
    return {name: weight.numpy() for name, weight in weights.items()}


def evaluate(op, attributes, feeds, num_states):
    # sequence_lens is left out: ONNX's reference evaluator accepts it and ignores it.
    inputs = [name if name in feeds else "" for name in ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c")]
    outputs = {"Y": ["T", "directions", "B", "H"], "Y_h": ["directions", "B", "H"], "Y_c": ["directions", "B", "H"]}
    outputs = dict(list(outputs.items())[: 1 + num_states])
    node = helper.make_node(op, inputs[: 5 + num_states], list(outputs), hidden_size=H, **attributes)
    graph = helper.make_graph(
        [node],
        "cell",
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, value.shape) for name, value in feeds.items()],
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape) for name, shape in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    onnx.checker.check_model(model)
    return ReferenceEvaluator(model, new_ops=[RNN]).run(None, feeds)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("name", CASES)
def test_layer_agrees_with_onnx(name, backend, bias):
    kind, options, order, attributes = CASES[name]
    torch.manual_seed(1)
    cell = cells.create(kind, input_size=F, hidden_size=H, bias=bias, **options).double()
    with torch.no_grad():
        for parameter in cell.parameters():  # no zero biases: they would hide a wrong order of gates
            parameter.normal_(std=0.6)
    inputs = torch.randn(T, B, F, dtype=torch.float64)
    state = tuple(torch.randn(B, H, dtype=torch.float64) for _ in cell.states)

    feeds = {"X": inputs.numpy(), **onnx_weights(cell, order)}
    feeds |= {f"initial_{part}": value[None].numpy() for part, value in zip(cell.states, state, strict=True)}
    expected_outputs, *expected_final = evaluate(kind.upper(), attributes, feeds, len(state))

    outputs, final = Recurrent(cell, backend)(inputs, state)
    # ONNX: [T, directions, B, H] and [directions, B, H]
    pairs = [(outputs, expected_outputs[:, 0]), *zip(final, [part[0] for part in expected_final], strict=True)]
    for actual, expected in pairs:
        assert actual.shape == expected.shape
        # both in float64, only the order of the sums differs: some 1e-15 of the largest number
        assert np.abs(actual.detach().numpy() - expected).max() <= 1e-12 * np.abs(expected).max()
