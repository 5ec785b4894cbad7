"""Weights read from Keras give its outputs: files that Keras 3 wrote, and layers of an installed Keras."""

import json
import os
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from rnnlab import weights
from rnnlab.interface import InputError

FILES = Path(__file__).parent / "keras"


def _outputs(stack, inputs):
    """The outputs of a stack for inputs ``[B, T, F]``, in this order of axes."""
    with torch.no_grad():
        return stack(torch.from_numpy(inputs).transpose(0, 1))[0].transpose(0, 1).numpy()


@pytest.mark.parametrize("name", ["stacked.keras", "gru.weights.h5"])
def test_files_that_keras_wrote(name):
    pytest.importorskip("h5py")
    expected = np.load(FILES / "expected.npz")
    stack = weights.read(FILES / name)
    outputs = _outputs(stack, expected["inputs"])
    np.testing.assert_allclose(outputs, expected[name.split(".")[0]], rtol=0, atol=1e-5)


def test_layers_of_a_file_are_chosen_by_name():
    pytest.importorskip("h5py")
    stack = weights.read(FILES / "stacked.keras", ["lowest"])
    assert (len(stack.layers), stack.output_size) == (1, 4)
    with pytest.raises(InputError, match=r"no recurrent layer 'gru'; it has lowest \(3 to 4 features\)"):
        weights.read(FILES / "stacked.keras", ["gru"])


def _edited(tmp_path, edit):
    """The path of a file whose configuration differs from that of Keras."""
    path = tmp_path / "edited.keras"
    with ZipFile(FILES / "stacked.keras") as archive, ZipFile(path, "w") as out:
        config = json.loads(archive.read("config.json"))
        edit([layer["config"] for layer in config["config"]["layers"]])
        out.writestr("config.json", json.dumps(config))
        out.writestr("model.weights.h5", archive.read("model.weights.h5"))
    return path


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda layers: layers[-1].update(activation="elu"), "activation='elu'; SimpleRNN needs tanh or relu"),
        (lambda layers: layers[-3].update(recurrent_activation="hard_sigmoid"), "recurrent_activation='hard_sigmoid'"),
        (lambda layers: layers[-3].update(go_backwards=True), "go_backwards=True"),
        (lambda layers: layers[-2].update(merge_mode="mul"), "merge_mode='mul'"),
        (lambda layers: layers[-3].update(name="other"), "has no weights of the layer other"),
    ],
)
def test_layers_without_counterpart_are_refused(edit, reason, tmp_path):
    pytest.importorskip("h5py")
    with pytest.raises(InputError, match=reason):
        weights.read(_edited(tmp_path, edit))


def test_arrays_of_a_layer():
    """An LSTM of Keras in NumPy: kernels on the right, gates in the order i, f, c, o."""
    draw = np.random.default_rng(0)
    kernel, recurrent, bias = (draw.normal(size=shape).astype("f") for shape in ((3, 16), (4, 16), (16,)))
    inputs = draw.normal(size=(2, 9, 3)).astype("f")
    h = c = np.zeros((2, 4), "f")
    for t in range(9):
        i, f, g, o = np.split(inputs[:, t] @ kernel + h @ recurrent + bias, 4, axis=-1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
    found = _outputs(weights.read([kernel, recurrent, bias]), inputs)
    np.testing.assert_allclose(found[:, -1], h, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_layers_of_keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    whole = {"return_sequences": True}
    layers = keras.layers
    made = [
        layers.SimpleRNN(4, **whole),
        layers.SimpleRNN(4, activation="relu", **whole),
        layers.GRU(4, **whole),
        layers.GRU(4, reset_after=False, **whole),
        layers.LSTM(4, use_bias=False, **whole),
        layers.Bidirectional(layers.LSTM(4, **whole)),
        layers.Bidirectional(layers.GRU(4, **whole), merge_mode="sum"),
    ]
    draw = np.random.default_rng(0)
    for layer in made:
        layer.build((None, None, 3))
        layer.set_weights([draw.normal(size=weight.shape) * 0.4 for weight in layer.get_weights()])
        stack = weights.read(layer)
        for length in (1, 2, 3, 17, 64, 200):
            inputs = draw.normal(size=(1, length, 3)).astype("f")
            expected = keras.ops.convert_to_numpy(layer(inputs))
            np.testing.assert_allclose(_outputs(stack, inputs), expected, rtol=0, atol=1e-5)
