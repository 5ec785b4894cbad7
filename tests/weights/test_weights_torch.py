"""Weights read from PyTorch, and copied into a model and into a run."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rnnlab import config, layers, weights
from rnnlab.cells import create
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent, Stack, Zoneout
from rnnlab.training import train

LENGTHS = (1, 7, 200)
MODULES = {
    "rnn": lambda: nn.RNN(3, 4, 2),
    "rnn-relu": lambda: nn.RNN(3, 4, nonlinearity="relu"),
    "gru": lambda: nn.GRU(3, 4, 3, bias=False),
    "lstm": lambda: nn.LSTM(3, 4, 2, bidirectional=True),
    "lstm-projected": lambda: nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2),
    "lstm-projected-no-bias": lambda: nn.LSTM(3, 4, proj_size=3, bias=False),
    "rnn-cell": lambda: nn.RNNCell(3, 4),
    "gru-cell": lambda: nn.GRUCell(3, 4),
    "lstm-cell": lambda: nn.LSTMCell(3, 4, bias=False),
}


def _outputs(module, inputs):
    if isinstance(module, nn.RNNBase):
        return module(inputs)[0]
    state, outputs = None, []
    for step in inputs:
        state = module(step, state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(outputs)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", MODULES)
def test_a_module_its_state_dict_and_its_file(name, tmp_path):
    torch.manual_seed(0)
    module = MODULES[name]()
    whole = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "inner": nn.ModuleDict({"body": module})})
    torch.save({"epoch": 3, "model": whole.state_dict()}, tmp_path / "all.pt")
    save_file(whole.state_dict(), tmp_path / "all.safetensors")
    activation = getattr(module, "nonlinearity", "tanh")
    sources = [module, module.state_dict(), whole, tmp_path / "all.pt", tmp_path / "all.safetensors"]
    stacks = [weights.read(source, activation=activation) for source in sources]
    for stack in stacks:
        assert all(map(torch.equal, stack.parameters(), stacks[0].parameters()))
    for length in LENGTHS:
        inputs = torch.randn(length, 2, 3)
        torch.testing.assert_close(stack(inputs)[0], _outputs(module, inputs), rtol=0, atol=1e-5)
    again = weights.to_torch(stack)
    assert type(again) is {"R": nn.RNN, "G": nn.GRU, "L": nn.LSTM}[type(module).__name__[0]]
    torch.testing.assert_close(again(inputs)[0], _outputs(module, inputs), rtol=0, atol=1e-5)


def test_modules_are_chosen_by_name():
    whole = nn.ModuleDict({"encoder": nn.GRU(3, 4), "decoder": nn.GRU(5, 6)})
    with pytest.raises(InputError, match=r"no stack.*encoder \(3 to 4 features\), decoder \(5 to 6 features\)"):
        weights.read(whole.state_dict())
    assert weights.read(whole.state_dict(), ["decoder"]).layers[0].cell.input_size == 5
    with pytest.raises(InputError, match="no recurrent layer 'middle'"):
        weights.read(whole, ["middle"])


def _without(name):
    tensors = nn.LSTM(3, 4).state_dict()
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (nn.Linear(3, 4), "has no RNN, LSTM or GRU"),
        (_without("weight_ih_l0"), "does not belong to an RNN, LSTM or GRU"),
        (_without("bias_ih_l0"), "are not a layer of torch.nn"),
        ({"weight_ih_l0": torch.zeros(8, 3), "weight_hh_l0": torch.zeros(8, 4)}, "does not belong to an RNN"),
        (3, "cannot read weights from a int"),
        ("weights.npz", "none of the suffixes"),
        ("missing.pt", "there is no file"),
        ([torch.zeros(3, 5), torch.zeros(4, 5)], "is not that of SimpleRNN, GRU or LSTM"),
    ],
)
def test_what_cannot_be_read_is_refused(source, reason):
    with pytest.raises(InputError, match=reason):
        weights.read(source)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx", ".keras", ".h5"])
def test_damaged_files_are_refused(suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(b"no such thing")
    if suffix in (".keras", ".h5"):
        pytest.importorskip("h5py")
    with pytest.raises(InputError, match="file"):
        weights.read(path)


def _stack(name="gru", **options):
    def cell(input_size, hidden_size):
        return create(name, input_size=input_size, hidden_size=hidden_size, **options)

    return Stack.build(cell, 3, 4, 2)


@torch.no_grad()
def test_load_copies_into_a_model():
    source = nn.GRU(3, 4, 2, bias=False)
    stack = layers.from_torch(nn.GRU(3, 4, 2))
    stack.layers[1] = Recurrent(Zoneout(stack.layers[1].cell, [0.1]), initial_state="learned")
    stack.layers[1].first[0].fill_(1.0)
    weights.load(stack.eval(), source)
    assert not stack.layers[0].cell.b.any()
    assert not stack.layers[1].first[0].any()
    assert stack.layers[1].cell.cell.W.equal(source.weight_ih_l1)
    relu = nn.RNN(3, 4, 2, nonlinearity="relu")
    stack = _stack("rnn", activation="relu")
    weights.load(stack, relu.state_dict())  # a state dict does not have the activation
    torch.testing.assert_close(stack(torch.ones(5, 2, 3))[0], relu(torch.ones(5, 2, 3))[0])


@pytest.mark.parametrize(
    ("stack", "reason"),
    [
        (_stack("lstm"), r"those of GRU\(3, 4, reset=after\), GRU.*; the model has LSTM\(3, 4\), LSTM"),
        (_stack(reset="before"), r"those of GRU\(3, 4, reset=after\).*the model has GRU\(3, 4, reset=before\)"),
        (_stack(bias=False), "use cell.bias=true"),
        (nn.Linear(3, 4), "the model has no recurrent layer"),
    ],
)
def test_load_refuses_other_layers_and_changes_nothing(stack, reason):
    before = [parameter.clone() for parameter in stack.parameters()]
    with pytest.raises(InputError, match=reason):
        weights.load(stack, nn.GRU(3, 4, 2))
    assert all(map(torch.equal, stack.parameters(), before))


def test_a_run_starts_from_a_file(tmp_path):
    torch.manual_seed(7)
    module = nn.LSTM(4, 6)
    torch.save(module.state_dict(), tmp_path / "lstm.pt")
    options = ["task=hello", "cell=lstm", "model.hidden_size=6", "model.encoder=one_hot", "optimizer.lr=1e-9"]
    options += ["trainer.steps=2", "logger.tensorboard=false", "logger.progress=false"]
    options += [f"trainer.init_weights={tmp_path}/lstm.pt", f"run_dir={tmp_path}/run"]
    train(config.compose(options))
    from rnnlab.training import load

    _, model, _ = load(tmp_path / "run", "cpu")
    torch.testing.assert_close(model.stack.layers[0].cell.U, module.weight_hh_l0, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="started from the weights in"):
        load(tmp_path / "run", "cpu", "initial")
    with pytest.raises(InputError, match="both set"):
        train(
            config.compose(
                [*options, f"trainer.init_from={tmp_path}/run/checkpoints/last.pt", f"run_dir={tmp_path}/other"]
            )
        )
    with pytest.raises(InputError, match=r"the model has LSTM\(4, 5\)"):
        train(config.compose([*options, "model.hidden_size=5", f"run_dir={tmp_path}/third"]))
    assert not (tmp_path / "third").exists()
