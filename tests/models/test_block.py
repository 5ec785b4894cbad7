"""The block model against its equations, written out as a loop over time, and everything that a user can do with it."""

import json
from functools import partial

import pytest
import tiers
import torch
from torch.nn.functional import gelu, silu

from rnnlab import cells, config
from rnnlab.__main__ import main
from rnnlab.contracts import check_model
from rnnlab.interface import Batch, Images, InputError, Tokens, Vectors
from rnnlab.layers import Block, Recurrent, ShortConvolution, Stack, to_torch
from rnnlab.layers.gate import gated
from rnnlab.layers.norms import RMSNorm
from rnnlab.models.block import BlockModel
from rnnlab.training import evaluate_run, train
from rnnlab.trees import map_state, tensors_of

T, B, H, V, OUT = 7, 3, 6, 5, 4
TOKENS = Tokens(V)
DOUBLE = {"rtol": 0, "atol": 1e-12}
CELLS = {"lstm": {}, "gru": {"reset": "after"}}
PLAIN = {"convolution": 0, "gate": False, "expansion": 0.0}


def build(cell="gru", input=TOKENS, backend="auto", **options):
    torch.manual_seed(0)
    sizes = {"hidden_size": H, "num_layers": 2} | options
    model = BlockModel(input, OUT, partial(cells.find(cell), **CELLS.get(cell, {})), backend, **sizes).double()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm | torch.nn.RMSNorm):  # gains of one would hide a missing gain
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter)
    return model


def batch_of(lengths=None, seed=0, vectors=False):
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randint(V, (T, B), generator=draw)
    if vectors:
        inputs = torch.randn(T, B, V, generator=draw, dtype=torch.double)
    return Batch(inputs, inputs, None if lengths is None else torch.tensor(lengths))


def naive(model, tokens, cell, norm, mlp):
    """Outputs ``[T, OUT]`` of one sequence ``[T]``, with plain tensors, a loop over time, and cells of ``torch.nn``."""
    p = model.state_dict()

    def normed(x, name):
        if norm == "layer":
            deviation = x - x.mean()
            return deviation / (deviation.square().mean() + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]
        return x / (x.square().mean() + torch.finfo(x.dtype).eps).sqrt() * p[f"{name}.weight"]

    z = [p["encoder.weight"][token] for token in tokens]
    for depth, block in enumerate(model.stack.layers):
        name = f"stack.layers.{depth}"
        kernel = p.get(f"{name}.recurrence.layers.0.cell.w")
        layer = to_torch(Stack([block.recurrence.layers[-1]]))
        one = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[cell](H, H).double()
        one.load_state_dict({key.removesuffix("_l0"): value for key, value in layer.state_dict().items()})
        state, past, outputs = None, [], []
        for x in z:
            u = normed(x, f"{name}.norm")
            past.insert(0, u)
            read = u if kernel is None else silu(sum(w * v for w, v in zip(kernel, past, strict=False)))
            state = one(read.unsqueeze(0), state)
            h = (state[0] if cell == "lstm" else state)[0]
            if f"{name}.gate.weight" in p:
                h = h * silu(p[f"{name}.gate.weight"] @ u)
            y = x + p[f"{name}.project.weight"] @ h
            if f"{name}.mlp.up.weight" in p:
                v = normed(y, f"{name}.mlp_norm")
                up = p[f"{name}.mlp.up.weight"] @ v
                hidden = gelu(up) if mlp == "gelu" else silu(p[f"{name}.mlp.gate.weight"] @ v) * up
                y = y + p[f"{name}.mlp.down.weight"] @ hidden
            outputs.append(y)
        z = outputs
    return torch.stack([p["readout.1.weight"] @ normed(x, "readout.0") + p["readout.1.bias"] for x in z])


CASES = [
    {"cell": "gru"},
    {"cell": "lstm", "norm": "layer", "mlp": "gelu", "convolution": 3, "expansion": 1.5},
    {"cell": "lstm", **PLAIN},
    {"cell": "gru", "gate": False, "expansion": 0.0, "convolution": 2, "backend": "reference"},
    {"cell": "gru", "norm": "layer", "convolution": 0, "mlp": "gelu"},
    {"cell": "lstm", "convolution": 9, "num_layers": 3},
]


@pytest.mark.parametrize("options", CASES)
def test_the_model_is_its_equations(options):
    model, batch = build(**options), batch_of()
    outputs, _ = model(batch)
    for row in range(B):
        norm, mlp = options.get("norm", "rms"), options.get("mlp", "swiglu")
        expected = naive(model, batch.inputs[:, row], options["cell"], norm, mlp)
        torch.testing.assert_close(outputs[:, row], expected, **DOUBLE)


@pytest.mark.parametrize("cell", tiers.quick_if(cells.available(), {"slstm", "clockwork"}.__contains__))
def test_every_cell_keeps_the_contract_in_a_block(cell):
    check_model("block", task="hello", cell=cell, hidden_size=8, num_layers=2)


@pytest.mark.parametrize(
    "options", tiers.every(3, [{"norm": "layer"}, PLAIN, {"mlp": "gelu", "zero_init": True, "dropout": 0.2}])
)
def test_the_contract_holds_with_padding(options):
    check_model("block", task="vowels", num_layers=2, **options)


def test_a_stream_in_pieces_or_steps_is_the_whole():
    model, batch = build("lstm"), batch_of()
    outputs, final = model(batch)
    for sizes in ([1, 6], [2, 2, 3], [1] * T):  # shorter than the tail of the convolution, too
        state, found = model.begin(batch_size=B), []
        for part in batch.inputs.split(sizes):
            piece, state = model(Batch(part, part), state)
            found.append(piece)
        torch.testing.assert_close((torch.cat(found), state), (outputs, final), **DOUBLE)


def test_sequences_of_a_padded_batch_are_each_alone():
    """Outputs and states, including the tail of the convolution, also of a sequence that is shorter than the tail."""
    lengths = [2, 7, 4]
    model, batch = build("gru", input=Vectors(V)), batch_of(lengths, vectors=True)
    outputs, state = model(batch)
    for row, length in enumerate(lengths):
        alone, end = model(Batch(batch.inputs[:length, row : row + 1], None))
        torch.testing.assert_close(outputs[:length, row : row + 1], alone, **DOUBLE)
        for found, expected in zip(tensors_of(state), tensors_of(end), strict=True):
            torch.testing.assert_close(found[row : row + 1], expected, **DOUBLE)
    assert len(tensors_of(state)) == 2 * (3 + 1)


def test_the_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    block = Block(cells.create("gru", input_size=2, hidden_size=2), convolution=3).double()
    inputs = torch.randn(3, 2, 2, dtype=torch.double, requires_grad=True)
    names, parameters = zip(*block.named_parameters(), strict=True)

    def run(inputs, *given):
        values = dict(zip(names, given, strict=True))
        outputs, state = torch.func.functional_call(block, values, (inputs, None, torch.tensor([3, 1])))
        return outputs, *tensors_of(state)

    assert torch.autograd.gradcheck(run, (inputs, *parameters))


def test_the_gradient_through_the_engine_is_that_of_autograd():
    model, other = build("lstm"), build("lstm", backend="reference")
    for one in (model, other):
        one(batch_of([2, 7, 4]))[0].square().sum().backward()
    assert {layer.choice.name for layer in model.modules() if isinstance(layer, Recurrent)} == {"fused"}
    assert {layer.choice.name for layer in other.modules() if isinstance(layer, Recurrent)} == {"reference"}
    for (name, found), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-9, atol=1e-9, msg=name)


def test_the_convolution_is_that_of_torch():
    cell, inputs = ShortConvolution(H, 4).double(), torch.randn(T, B, H, dtype=torch.double)
    filters = cell.w.flip(0).T.unsqueeze(1)
    channels = torch.nn.functional.conv1d(inputs.permute(1, 2, 0), filters, padding=3, groups=H)[..., :T]
    torch.testing.assert_close(Recurrent(cell)(inputs)[0], silu(channels).permute(2, 0, 1), **DOUBLE)


def test_the_norm_is_that_of_torch():
    for dtype, close in ((torch.double, DOUBLE), (torch.float32, {"rtol": 1e-5, "atol": 1e-5})):
        ours, other = RMSNorm(H, dtype=dtype), torch.nn.RMSNorm(H, dtype=dtype)
        torch.nn.init.normal_(ours.weight)
        other.load_state_dict(ours.state_dict())
        inputs, gradient = torch.randn(2, T, B, H, dtype=dtype)
        found = []
        for norm in (ours, other):
            leaf = inputs.clone().requires_grad_()
            outputs = norm(leaf)
            outputs.backward(gradient)
            found.append((outputs, leaf.grad, norm.weight.grad))
        torch.testing.assert_close(*found, **close)
    leaf = inputs[:2].double().requires_grad_()
    ours.double()
    for is_learned in (True, False):
        ours.requires_grad_(is_learned)
        assert torch.autograd.gradcheck(ours, leaf)
        assert torch.autograd.gradgradcheck(ours, leaf)


def test_the_gate_is_that_of_torch():
    gate, values, gradient = torch.randn(3, T, B, H, dtype=torch.double)
    found = []
    for product in (gated, lambda gate, values: silu(gate) * values):
        leaves = [tensor.clone().requires_grad_() for tensor in (gate, values)]
        outputs = product(*leaves)
        outputs.backward(gradient)
        found.append((outputs, *(leaf.grad for leaf in leaves)))
    torch.testing.assert_close(*found, **DOUBLE)
    for learned in ((True, True), (True, False), (False, True)):
        leaves = [
            tensor[:1].clone().requires_grad_(needs) for tensor, needs in zip((gate, values), learned, strict=True)
        ]
        assert torch.autograd.gradgradcheck(gated, leaves)


def test_a_block_that_starts_at_zero_is_the_identity():
    batch = batch_of()
    model = build(zero_init=True, num_layers=3)
    outputs, _ = model(batch)
    assert torch.equal(outputs, model.readout(model.encoder(batch.inputs)))
    outputs.square().sum().backward()
    assert model.stack.layers[0].project.weight.grad.any(), "it leaves the identity"
    outputs, _ = build(num_layers=3)(batch)
    assert not torch.allclose(outputs, model.readout(model.encoder(batch.inputs)))


def test_dropout_is_on_both_branches_and_in_training_only():
    block = Block(cells.create("gru", input_size=H, hidden_size=H), dropout=0.999999)
    inputs = torch.randn(T, B, H)
    assert torch.equal(block(inputs)[0], inputs)
    assert not torch.equal(block.eval()(inputs)[0], inputs)


def test_an_output_of_another_width_is_projected():
    model = BlockModel(Vectors(3), OUT, partial(cells.find("lstmp"), projection_size=2), hidden_size=H).double()
    outputs, _ = model(Batch(torch.randn(T, B, 3, dtype=torch.double), None))
    assert outputs.shape == (T, B, OUT)
    assert model.stack.layers[0].gate.out_features == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "none"}, "norm='none' is not one of layer, rms"),
        ({"mlp": "relu"}, "mlp='relu' is not one of swiglu, gelu"),
        ({"expansion": -1.0}, "expansion=-1.0 must be positive, or 0"),
        ({"convolution": 1}, "convolution=1 must be 0 .* or a kernel size of at least 2"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        ({"hidden_size": 0}, "hidden_size=0 must be at least 1"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"input": Images((1, 8, 8))}, "not images"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)


def test_what_a_block_cannot_be_is_refused():
    with pytest.raises(InputError, match="bidirectional"):
        config.compose(["model=block", "model.bidirectional=sum"])
    with pytest.raises(InputError, match="and blocks"):
        to_torch(build().stack)
    assert build().carries


QUIET = ["logger.tensorboard=false", "logger.progress=false", "model=block", "model.hidden_size=8"]


def test_a_run_is_evaluated_and_generates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [*QUIET, "task=char_lm", "task.seq_len=8", "cell=lstm", "trainer.steps=2", "trainer.eval_every=2"]
    options += ["task.corpus=corpus.txt", "task.batch_size=4", "run_dir=run"]
    (tmp_path / "corpus.txt").write_text("to be or not to be, that is the question. " * 20)
    summary = train(config.compose(options))
    assert summary["backend"] == "fused"
    assert summary["state_size"] == 2 * (3 * 8 + 2 * 8)
    assert evaluate_run("run", split="test").items() >= summary["test"].items()
    capsys.readouterr()
    assert main(["generate", "run=run", "length=3"]) == 0
    assert capsys.readouterr().out


@pytest.mark.slow
def test_a_run_is_diagnosed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(config.compose([*QUIET, "task=hello", "trainer.steps=2", "trainer.eval_every=2", "run_dir=run"]))
    assert main(["diagnose", "run=run", "out=page"]) == 0
    layers = json.loads((tmp_path / "page" / "diagnostics.json").read_text())["layers"]
    sizes = {name.partition("recurrence.")[2]: layer["state_size"] for name, layer in layers.items()}
    assert sizes == {"layers.0": 3 * 8, "layers.1": 8}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["char_lm", "vowels", "parity", "mqar", "strokes", "pixels", "polyphonic_music"])
def test_tasks_of_every_kind_train(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    summary = train(config.compose([*QUIET, f"task={task}", "trainer.steps=2", "trainer.eval_every=2", "run_dir=a"]))
    assert summary["status"] == "finished"
    assert summary["flops_per_token"] > 0


def test_the_state_is_detached_between_batches_of_a_stream():
    model, batch = build(), batch_of()
    _, state = model(batch)
    later, _ = model(batch, map_state(torch.Tensor.detach, state))
    later.sum().backward()
    assert all(tensor.grad_fn is not None for tensor in tensors_of(state))
