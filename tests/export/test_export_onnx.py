"""Exported graphs: onnxruntime computes from them what the model computes."""

import numpy as np
import onnx
import onnxruntime
import pytest
import tiers
import torch
from engine.test_operations import OPERATIONS, PRODUCTS, Product
from onnx import numpy_helper
from outside.shapes import Elementwise, Peephole
from torch import nn
from torch.nn.functional import linear

from rnnlab import cells
from rnnlab.cells import Cell
from rnnlab.export import check
from rnnlab.export.graph import build
from rnnlab.export.interface import describe
from rnnlab.export.parts import Steps
from rnnlab.interface import Batch, InputError, Tokens, Vectors
from rnnlab.models.block import BlockModel
from rnnlab.models.encoder_decoder import EncoderDecoder
from rnnlab.models.sequence_model import SequenceModel
from rnnlab.trees import tensors_of

QUICK = {"rnn", "lstm", "gru", "mlstm", "ttt_linear", "lif", "layernorm_lstm", "lru"}
ILL_CONDITIONED = {"layernorm_lstm": 1e-4}
"""Largest difference of cells that amplify rounding; PyTorch in float32 also differs by up to 2.4e-5 from float64."""
VECTORS = Vectors(3)


def made(cell, kind=SequenceModel, read=VECTORS, **options):
    """A model with random vectors, so that no bias or gain is left out unnoticed."""
    torch.manual_seed(0)

    def factory(input_size, hidden_size):
        if callable(cell):
            return cell()
        return cells.create(cell, input_size=input_size, hidden_size=hidden_size)

    model = kind(read, 2, factory, "reference", **{"hidden_size": 8, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def opened(graph):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options)


def run(graph, *tensors):
    session = graph if isinstance(graph, onnxruntime.InferenceSession) else opened(graph)
    names = [one.name for one in session.get_inputs()]
    found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})
    return [torch.from_numpy(array) for array in found]


def difference(model, step=False, lengths=False, elapsed=False):
    part = Steps(model, step, elapsed)
    return check.largest_difference(build(part, lengths), part)


def operators(graph):
    return [node.op_type for node in graph.graph.node]


@pytest.mark.parametrize("name", tiers.quick_if(cells.available(), QUICK.__contains__))
def test_every_cell_in_sequences_and_in_single_steps(name):
    model, tolerance = made(name, num_layers=2), ILL_CONDITIONED.get(name, 1e-5)
    for step in (False, True):
        assert difference(model, step) <= tolerance
    assert difference(model, lengths=True) <= tolerance


MODELS = {
    "one-hot": ("gru", SequenceModel, {"encoder": "one_hot", "norm": "rms", "num_layers": 2}),
    "connection": ("janet", SequenceModel, {"norm": "layer", "connection": "highway", "num_layers": 2}),
    "residual": ("lstm", SequenceModel, {"connection": "residual", "num_layers": 2, "readout_bias": False}),
    "regularised": ("lstm", SequenceModel, {"zoneout": [0.1, 0.2], "recurrent_dropout": 0.2, "input_dropout": 0.1}),
    "weight-drop": ("lstm", SequenceModel, {"weight_drop": 0.3, "output_dropout": 0.1}),
    "block": ("mamba2", BlockModel, {}),
    "block-gelu": ("rnn", BlockModel, {"norm": "layer", "mlp": "gelu"}),
    "bidirectional": ("gru", SequenceModel, {"bidirectional": "concatenate", "num_layers": 2}),
    "bidirectional-learned": ("janet", SequenceModel, {"bidirectional": "sum", "initial_state": "learned"}),
}


@pytest.mark.parametrize("name", tiers.quick_if(MODELS, {"regularised", "block", "bidirectional"}.__contains__))
def test_whole_models(name):
    cell, kind, options = MODELS[name]
    model = made(cell, kind, Tokens(11), **options)
    assert difference(model) <= 1e-5
    assert difference(model, lengths=True) <= 1e-5
    if name.startswith("bidirectional"):
        assert [one.name for one in build(Steps(model)).graph.input] == ["inputs"]
        with pytest.raises(InputError, match="bidirectional"):
            Steps(model, step=True)
    else:
        assert difference(model, step=True) <= 1e-5


def test_cells_of_the_standard_are_its_operators():
    for cell, operator in [("lstm", "LSTM"), ("gru", "GRU"), ("rnn", "RNN")]:
        assert operators(build(Steps(made(cell)))).count(operator) == 1
    assert "Scan" in operators(build(Steps(made("janet"))))
    assert "Scan" not in operators(build(Steps(made("janet"), step=True)))


def test_a_cell_from_outside():
    model = made(lambda: Peephole(3, 8))
    assert difference(model) <= 1e-6


def test_single_steps_are_the_sequence():
    model = made("ran", num_layers=2)
    inputs = torch.randn(6, 2, 3)
    states = tensors_of(model.begin(batch_size=2))
    outputs, *final = run(build(Steps(model)), inputs, *states)
    step = opened(build(Steps(model, step=True)))
    for x, expected in zip(inputs, outputs, strict=True):
        output, *states = run(step, x, *states)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(states, final, rtol=0, atol=1e-6)


def test_the_description_names_the_inputs_and_has_the_initial_states():
    model = made("lstm", initial_state="learned", num_layers=2)
    about = describe(model)
    graph = build(Steps(model), about=about)
    names = [one.name for one in graph.graph.input]
    assert names == ["inputs", "layers.0.h", "layers.0.c", "layers.1.h", "layers.1.c"]
    assert names[1:] == [state["name"] for state in about["states"]]
    assert [one.name for one in graph.graph.output] == ["outputs", *(f"{name}.next" for name in names[1:])]
    inputs = torch.randn(4, 3, 3)
    first = [torch.tensor(state["initial"]).expand(3, *state["shape"]) for state in about["states"]]
    expected, _ = model(Batch(inputs, inputs))
    torch.testing.assert_close(run(graph, inputs, *first)[0], expected.detach(), rtol=0, atol=1e-6)


def test_padded_sequences_end_at_their_lengths():
    model = made("lstm", num_layers=2)
    inputs, lengths = torch.randn(5, 3, 3), torch.tensor([5, 1, 3])
    graph, states = opened(build(Steps(model), lengths=True)), tensors_of(model.begin(batch_size=3))
    found = run(graph, inputs, lengths, *states)
    inputs[3:, 1:] = 7.0  # padding
    again = run(graph, inputs, lengths, *states)
    for one, other in zip(found[1:], again[1:], strict=True):
        assert torch.equal(one, other)
    short, *final = run(build(Steps(model)), inputs[:3, 2:], *(state[2:] for state in states))
    torch.testing.assert_close(short, found[0][:3, 2:], rtol=0, atol=1e-6)
    torch.testing.assert_close(final, [state[2:] for state in found[1:]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("change", [0.01, np.nan])
def test_the_comparison_finds_a_wrong_weight(change):
    model = made("janet")
    graph = build(Steps(model))
    (weight,) = (one for one in graph.graph.initializer if one.name.endswith("cell.U"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(change), weight.name))
    assert not check.largest_difference(graph, Steps(model)) <= 1e-4


@pytest.mark.parametrize("name", tiers.every(16, [*OPERATIONS, *PRODUCTS]))
def test_every_operation(name):
    """The steps of the tests of the engine, one operation each."""
    model = made(
        lambda: Product(PRODUCTS[name]) if name in PRODUCTS else Elementwise(OPERATIONS[name]), read=Vectors(4)
    )
    inputs, state = torch.randn(2, 3, 4), ((torch.randn(3, 4),),)
    with torch.no_grad():
        outputs, final = model(Batch(inputs, inputs), state)
    found = run(build(Steps(model)), inputs, *tensors_of(state))
    for actual, expected in zip(found, [outputs, *tensors_of(final)], strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-6)


class Prepared(Cell):
    """h_t = tanh(h_{t-1} + f(W x)_t)."""

    def __init__(self, function):
        super().__init__(3, 8)
        self.function, self.W = function, nn.Parameter(torch.randn(8, 3))

    def prepare(self, inputs):
        return (), self.function(linear(inputs, self.W))

    def step(self, constants, x, state):
        h = (state[0] + x).tanh()
        return h, (h,)


PREPARED = {
    "silu": lambda x: nn.functional.silu(x),
    "heads": lambda x: x * x.unflatten(-1, (2, 4)).sum(-1).sum(-1, keepdim=True),
    "norm": lambda x: nn.functional.rms_norm(x, (8,)) + nn.functional.layer_norm(x, (8,)),
    "constant": lambda x: x + torch.ones_like(x) * x.new_full(x.shape, 0.5),
    "parts": lambda x: torch.cat(x.chunk(3, -1)[::-1], -1),
}


@pytest.mark.parametrize("name", tiers.quick_if(PREPARED, {"parts"}.__contains__))
def test_what_a_cell_prepares(name):
    model = made(lambda: Prepared(PREPARED[name]))
    for step in (False, True):
        assert difference(model, step) <= 1e-5


REFUSED = {
    "cumsum": lambda x: x.cumsum(0),
    "the number of steps": lambda x: x * len(x),
    "steps or sequences": lambda x: x * torch.tensor(1.0 / x.shape[1]),
    "depend on the number of steps": lambda x: x * torch.arange(len(x), dtype=x.dtype)[:, None, None],
    "rand_like|randn_like": lambda x: x + torch.randn_like(x),
    "constants of torch.float64": lambda x: (x * torch.ones(8, dtype=torch.float64)).float(),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_model_is_refused_with_the_reason(reason):
    with pytest.raises(InputError, match=reason):
        build(Steps(made(lambda: Prepared(REFUSED[reason]))))


def test_a_source_needs_two_parts():
    model = EncoderDecoder(
        Tokens(5), 5, lambda i, h: cells.create("gru", input_size=i, hidden_size=h), "auto", Tokens(7)
    )
    with pytest.raises(InputError, match="an encoder and a decoder"):
        Steps(model.eval())


TIMED = [name for name in cells.available() if "elapsed" in cells.find(name).context_per_step]


@pytest.mark.parametrize("name", tiers.quick_if(TIMED, {"cfc"}.__contains__))
def test_elapsed_times_are_an_input(name):
    model = made(name, num_layers=2)
    part = Steps(model, elapsed=True)
    graph = build(part)
    assert [one.name for one in graph.graph.input][:2] == ["inputs", "elapsed"]
    assert check.largest_difference(graph, part) <= 1e-5
    assert difference(model, step=True, elapsed=True) <= 1e-5
    assert difference(model, lengths=True, elapsed=True) <= 1e-5
    both = made(name, bidirectional="sum")  # the time before a step of the backward layer is that after it
    assert difference(both, elapsed=True) <= 1e-5
    assert difference(both, lengths=True, elapsed=True) <= 1e-5


def test_the_file_is_valid_and_carries_its_description(tmp_path):
    onnx.save(build(Steps(made("janet")), about={"text": "é"}), tmp_path / "model.onnx")
    loaded = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(loaded, full_check=True)
    assert loaded.metadata_props[0].key == "rnnlab"
