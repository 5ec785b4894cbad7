"""Exported encoders and decoders: onnxruntime computes what the model computes, and generates the same tokens."""

import json

import numpy as np
import onnx
import onnxruntime
import processes
import pytest
import tiers
import torch
from export.test_export_onnx import opened

from rnnlab import cells, config
from rnnlab.export import check, export_run
from rnnlab.export.graph import build
from rnnlab.export.parts import encoder_decoder
from rnnlab.generation import generate
from rnnlab.heads import Categorical
from rnnlab.interface import Images, InputError, Tokens, Vectors
from rnnlab.models import Model
from rnnlab.models.encoder_decoder import EncoderDecoder

START, WRITE = 1, 11
PICTURE, VIDEO = Images((3, 16, 20), single=True), Images((3, 16, 16))


def made(source=Tokens(7), cell="gru", **options):  # noqa: B008 - a constant
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "embedding_size": 6, "channels": [4, 8]}
    factory = lambda i, h: cells.create(cell, input_size=i, hidden_size=h)  # noqa: E731
    model = EncoderDecoder(Tokens(WRITE), WRITE, factory, "reference", source, **sizes | options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)  # so that outputs and attention vary
    return model


MODELS = {
    **{
        f"{attention}-{bridge}": {"attention": attention, "bridge": bridge}
        for attention in ("none", "additive", "dot", "general")
        for bridge in ("state", "input", "both", "none")
    },
    "input feeding": {"input_feeding": True, "bridge": "both", "num_layers": 2, "cell": "lstm"},
    "vectors": {"source": Vectors(3), "bidirectional": "none", "num_layers": 2, "norm": "layer"},
    "connection": {"cell": "janet", "bidirectional": "sum", "num_layers": 2, "connection": "highway"},
    "matrix": {"cell": "mlstm"},
    **{f"picture-{kind}": {"source": PICTURE, "attention": kind} for kind in ("none", "additive", "dot", "general")},
    "picture, input feeding": {"source": PICTURE, "input_feeding": True},
    "video": {"source": VIDEO, "cell": "janet"},
    "video-none": {"source": VIDEO, "attention": "none"},
}
QUICK = {"input feeding"}


@pytest.mark.parametrize("name", tiers.quick_if(MODELS, QUICK.__contains__))
def test_both_parts_compute_what_the_model_computes(name):
    for part in encoder_decoder(made(**MODELS[name])):
        assert check.largest_difference(build(part), part) <= 1e-5


def greedy(encoder, decoder, source, steps):
    """Tokens ``[steps, B]`` of greedy decoding with onnxruntime; ``source`` holds the inputs of the encoder."""
    states = dict(zip([one.name for one in encoder.get_outputs()], encoder.run(None, source), strict=True))
    changing = [one.name.removesuffix(".next") for one in decoder.get_outputs()[1:]]
    token, written = np.full(len(next(iter(states.values()))), START), []
    for _ in range(steps):
        outputs, *new = decoder.run(None, {"inputs": token, **states})
        states.update(zip(changing, new, strict=True))
        token = outputs.argmax(-1)
        written.append(token)
    return np.stack(written)


@pytest.mark.parametrize("name", tiers.every(2, ["additive-state", "input feeding", "picture-additive", "video"]))
def test_greedy_decoding_writes_the_same_tokens(name):
    model = made(**MODELS[name])
    encoder, decoder = (opened(build(part)) for part in encoder_decoder(model))
    draw = torch.Generator().manual_seed(1)
    for batch_size, num_steps in ((1, 1), (4, 9)):
        lengths = torch.randint(1, num_steps + 1, (batch_size,), generator=draw)
        if isinstance(model.source, Images):
            num_steps = 1 if model.source.single else num_steps
            source = 3 * torch.randn(num_steps, batch_size, *model.source.shape, generator=draw)
        else:
            source = torch.randint(model.source.size, (num_steps, batch_size), generator=draw)
        is_single = model.encoder is None
        given = {"source": source[0].numpy()} if is_single else {"source": source.numpy(), "lengths": lengths.numpy()}
        prompt = torch.full((1, batch_size), START)
        found = generate(
            model, Categorical(WRITE), prompt, steps=12, source=source, source_lengths=None if is_single else lengths
        )
        expected = torch.stack(list(found))
        assert greedy(encoder, decoder, given, 12).tolist() == expected.tolist()
    assert len(expected.unique()) > 1


def test_a_source_of_another_model_is_refused():
    class Other(Model):
        pass

    with pytest.raises(InputError, match="Other reads a source"):
        encoder_decoder(Other(Tokens(3), 3, None, source=Tokens(3)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small trained run of a translation."""
    from rnnlab.training import train

    folder = tmp_path_factory.mktemp("sources")
    sizes = ["model.hidden_size=8", "model.embedding_size=6", "trainer.steps=2", "task.eval_size=20"]
    options = ["task=translation", "model=encoder_decoder", "cell=gru", *sizes]
    train(config.compose([*options, "logger.tensorboard=false", "logger.progress=false", f"run_dir={folder}/run"]))
    return folder / "run"


@pytest.mark.slow
def test_the_command_writes_two_graphs(trained, tmp_path):
    done = processes.rnnlab("export", str(trained), f"out={tmp_path}/m.onnx")
    assert done.stdout.count("Checked with onnxruntime: largest difference") == 2
    assert "inputs: source [source_time, batch]; lengths [batch]" in done.stdout
    encoder, decoder = (onnx.load(tmp_path / f"m.{part}.onnx") for part in ("encoder", "decoder"))
    for graph in (encoder, decoder):
        assert json.loads(graph.metadata_props[0].value)["source"]["kind"] == "Tokens"
    names = [one.name for one in onnxruntime.InferenceSession(encoder.SerializeToString()).get_outputs()]
    assert ["inputs", *names] == [one.name for one in decoder.graph.input]
    again = processes.rnnlab("export", str(trained), f"out={tmp_path}/m.onnx", check=False)
    assert again.returncode == 2
    assert "m.encoder.onnx exists" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"step": True}, {"lengths": True}, {"format": "torch_export"}])
def test_options_without_effect_are_refused(trained, options):
    with pytest.raises(InputError, match="encoder"):
        export_run(trained, **options)
