"""Exported runs: files that other programs read, and the command that writes them."""

import json

import onnx
import processes
import pytest
import torch
from export.test_export_onnx import made, run
from safetensors.torch import load_file

from rnnlab import cells, config
from rnnlab.export import export_run, exported_program, read, weights
from rnnlab.export.check import random_inputs, random_state
from rnnlab.export.interface import describe
from rnnlab.interface import Batch, InputError, Tokens
from rnnlab.trees import tensors_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small trained run of two layers."""
    folder = tmp_path_factory.mktemp("export")
    from rnnlab.training import train

    options = ["task=hello", "cell=lstm", "model.hidden_size=6", "model.num_layers=2", "trainer.steps=5"]
    train(config.compose([*options, "logger.tensorboard=false", "logger.progress=false", f"run_dir={folder}/run"]))
    return folder / "run"


def outputs_of(model):
    tokens = torch.arange(12).reshape(4, 3) % 4
    with torch.no_grad():
        return tokens, model(Batch(tokens, tokens))[0]


def test_the_weights_are_read_without_the_run(trained, tmp_path):
    from rnnlab.training import load

    _, model, content = load(trained, "cpu")
    export_run(trained, "safetensors", tmp_path / "m.safetensors")
    again, about = read(tmp_path / "m.safetensors")
    assert torch.equal(outputs_of(again)[1], outputs_of(model)[1])
    assert about["config"] == json.loads(json.dumps(content["config"]))
    assert about["input"] == {"kind": "Tokens", "size": 4}
    assert [state["name"] for state in about["states"]] == [f"layers.{i}.{s}" for i in (0, 1) for s in "hc"]
    assert load_file(tmp_path / "m.safetensors").keys() == model.state_dict().keys()


def test_a_description_cannot_run_code_or_be_damaged(trained, tmp_path):
    export_run(trained, "safetensors", tmp_path / "m.safetensors")
    beside = tmp_path / "m.json"
    about = json.loads(beside.read_text())
    beside.write_text(json.dumps({**about, "config": {**about["config"], "cell": {"name": "antigravity:fly"}}}))
    with pytest.raises(InputError, match="user-defined"):
        read(tmp_path / "m.safetensors")
    beside.write_text(json.dumps({**about, "config": {**about["config"], "cell": {"name": "rnn"}}}))
    with pytest.raises(InputError, match="are not a model"):  # the weights of another cell
        read(tmp_path / "m.safetensors")
    beside.write_text(json.dumps(about))
    (tmp_path / "m.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="are not a model"):
        read(tmp_path / "m.safetensors")


def test_a_model_with_a_source_is_read(tmp_path):
    from rnnlab.models.encoder_decoder import EncoderDecoder

    sizes = {"hidden_size": 6, "num_layers": 1}
    model = EncoderDecoder(
        Tokens(5), 5, lambda i, h: cells.create("gru", input_size=i, hidden_size=h), "auto", Tokens(7), **sizes
    ).eval()
    sections = {"model": {"name": "encoder_decoder", **sizes}, "cell": {"name": "gru"}, "engine": {"backend": "auto"}}
    weights.write(tmp_path / "m.safetensors", model, {**describe(model), "config": sections})
    again, _ = read(tmp_path / "m.safetensors")
    tokens = torch.ones(3, 2, dtype=torch.int64)
    batch = Batch(tokens, tokens, source=tokens)
    assert torch.equal(again(batch)[0], model(batch)[0])


@pytest.mark.parametrize(
    "options",
    [["format=x"], ["steps=3"], ["step=true", "lengths=true"], ["step=true", "format=safetensors"], ["checkpoint=x"]],
)
def test_options_that_do_not_fit_are_refused(trained, options):
    done = processes.rnnlab("export", f"run={trained}", *options, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("rnnlab: ")
    assert done.stderr.count("\n") == 1


def test_the_command_writes_a_graph(trained, tmp_path):
    done = processes.rnnlab("export", str(trained), f"out={tmp_path}/m.onnx")
    assert "Checked with onnxruntime: largest difference" in done.stdout
    assert "layers.1.c [batch, 6]" in done.stdout
    graph = onnx.load(tmp_path / "m.onnx")
    model, about = _model(trained), json.loads(graph.metadata_props[0].value)
    tokens, expected = outputs_of(model)
    states = [torch.full((3, *state["shape"]), state["initial"]) for state in about["states"]]
    torch.testing.assert_close(run(graph, tokens, *states)[0], expected, rtol=0, atol=1e-6)


def _model(trained):
    from rnnlab.training import load

    return load(trained, "cpu")[1]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["true", "false"])
def test_the_command_writes_a_program(trained, tmp_path, step):
    steps = [] if step == "true" else ["steps=4"]
    processes.rnnlab("export", str(trained), "format=torch_export", f"step={step}", *steps, f"out={tmp_path}/m.pt2")
    extra = {"rnnlab.json": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    tokens, expected = outputs_of(_model(trained))
    states = [
        torch.full((3, *state["shape"]), state["initial"]) for state in json.loads(extra["rnnlab.json"])["states"]
    ]
    if step == "false":
        outputs, *_ = program.module()(tokens, *states)
    else:
        made_ = []
        for x in tokens:
            output, *states = program.module()(x, *states)
            made_.append(output)
        outputs = torch.stack(made_)
    torch.testing.assert_close(outputs.detach(), expected, rtol=0, atol=1e-6)


NOT_EXPORTED = {"orthogonal": "data-dependent"}
"""Cells that torch.export cannot export, with a word of the reason."""


@pytest.mark.slow
@pytest.mark.parametrize("name", cells.available())
def test_programs_of_every_cell(name):
    model = made(name)
    if name in NOT_EXPORTED:
        with pytest.raises(InputError, match=NOT_EXPORTED[name]):
            exported_program.build(model, step=True)
        return
    for step in (True, False):
        program = exported_program.build(model, step, steps=3).module()
        flat = exported_program.Flat(model, step)
        generator = torch.Generator().manual_seed(1)
        for batch_size in (1, 4):
            inputs = random_inputs(model, *([batch_size] if step else [3, batch_size]), generator=generator)
            given = (inputs, *tensors_of(random_state(model, batch_size, generator)))
            with torch.no_grad():
                torch.testing.assert_close(program(*given), flat(*given), rtol=0, atol=1e-5)
