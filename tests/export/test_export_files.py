"""Exported runs: files that other programs read, and the command that writes them."""

import json
import random
import subprocess
import sys

import onnx
import processes
import pytest
import torch
from export.test_export_onnx import made, run
from safetensors.torch import load_file

from rnnlab import cells, config
from rnnlab.export import export_run, exported_program, read, weights
from rnnlab.export.interface import describe
from rnnlab.export.parts import Steps
from rnnlab.interface import Batch, InputError, Tokens


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


LOAD = """
import json, sys, torch
extra = {"rnnlab.json": ""}
program = torch.export.load(sys.argv[1], extra_files=extra).module()
assert "rnnlab" not in sys.modules
torch.manual_seed(0)
given = torch.load(sys.argv[2])
with torch.no_grad():
    torch.save([program(*tensors) for tensors in given], sys.argv[3])
"""


def in_a_new_process(path, given):
    """The results of a program for each of several lists of arguments."""
    torch.save(given, path.with_suffix(".given"))
    files = [str(path), str(path.with_suffix(".given")), str(path.with_suffix(".found"))]
    subprocess.run([sys.executable, "-c", LOAD, *files], check=True, timeout=300)
    return torch.load(files[-1])


@pytest.mark.slow
@pytest.mark.parametrize("options", [["step=true"], ["steps=4"], []])
def test_the_command_writes_a_program(trained, tmp_path, options):
    done = processes.rnnlab("export", str(trained), "format=torch_export", *options, f"out={tmp_path}/m.pt2")
    assert "arguments: inputs [" in done.stdout
    extra = {"rnnlab.json": ""}
    torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    about = json.loads(extra["rnnlab.json"])
    assert about["arguments"] == ["inputs", *(state["name"] for state in about["states"])]
    tokens, expected = outputs_of(_model(trained))
    states = [torch.full((3, *state["shape"]), state["initial"]) for state in about["states"]]
    if options == ["step=true"]:
        program, made_ = torch.export.load(tmp_path / "m.pt2").module(), []
        for x in tokens:
            output, *states = program(x, *states)
            made_.append(output)
        outputs = torch.stack(made_)
    else:
        ((outputs, *_),) = in_a_new_process(tmp_path / "m.pt2", [[tokens, *states]])
    torch.testing.assert_close(outputs.detach(), expected, rtol=0, atol=1e-6)


def _compared(part, tmp_path, lengths, steps=0, call=None):
    """Compare a program, read from a file, with the model, for several numbers of steps and sequences."""
    torch.export.save(exported_program.build(part, steps), tmp_path / "m.pt2")
    generator = torch.Generator().manual_seed(1)
    given = [part.examples(num_steps, batch_size, generator) for num_steps, batch_size in lengths]
    with torch.no_grad():
        found = (call or _in_this_process)(tmp_path / "m.pt2", given)
        for tensors, results in zip(given, found, strict=True):
            for ours, theirs in zip(part(*tensors), results, strict=True):
                torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5 * max(1.0, float(ours.abs().max())))


def _in_this_process(path, given):
    program = torch.export.load(path).module()
    return [program(*tensors) for tensors in given]


@pytest.mark.slow
@pytest.mark.parametrize("name", cells.available())
def test_programs_of_every_cell(name, tmp_path):
    draw = random.Random(name)
    lengths = [(1, 1), *((draw.randint(2, 200), draw.randint(1, 5)) for _ in range(3))]
    _compared(Steps(made(name)), tmp_path, lengths)
    _compared(Steps(made(name), step=True), tmp_path, [(1, 1), (1, 4)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "mlstm", "orthogonal", "brc"])
def test_programs_in_a_new_process(name, tmp_path):
    _compared(Steps(made(name, num_layers=2)), tmp_path, [(1, 1), (200, 2), (37, 5)], call=in_a_new_process)
    _compared(Steps(made(name)), tmp_path, [(3, 1), (3, 4)], steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": "sum"}])
def test_programs_with_elapsed_times(tmp_path, options):
    _compared(Steps(made("cfc", **options), elapsed=True), tmp_path, [(1, 1), (7, 3), (61, 2)])
