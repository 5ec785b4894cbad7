"""Write the files of Keras that the tests read: ``KERAS_BACKEND=torch python tests/weights/write_keras.py``.

The archives are written again with compression, because a file of HDF5 consists mostly of zeros.
"""

from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import keras
import numpy as np
from keras import layers

HERE = Path(__file__).parent / "keras"
WHOLE = {"return_sequences": True}


def randomised(model, draw):
    """The model with random weights, so that no bias is zero."""
    model.set_weights([draw.normal(size=weight.shape).astype("f") * 0.4 for weight in model.get_weights()])
    return model


def stacked():
    """All kinds of layers, one of them in a model within the model, and layers that are not recurrent at the ends."""
    inner = keras.Sequential([keras.Input((None, 4)), layers.LSTM(5, **WHOLE)])
    return keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.Masking(),
            layers.Bidirectional(layers.GRU(4, reset_after=False, **WHOLE), merge_mode="sum", name="lowest"),
            layers.Dropout(0.5),
            inner,
            layers.GRU(4, **WHOLE),
            layers.Bidirectional(layers.LSTM(2, **WHOLE)),
            layers.SimpleRNN(3, activation="relu", use_bias=False, **WHOLE),
        ]
    )


def main():
    HERE.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(2, 60, 3)).astype("f")
    one = randomised(keras.Sequential([keras.Input((None, 3)), layers.GRU(4, **WHOLE)]), draw)
    one.save_weights(HERE / "gru.weights.h5")
    model = randomised(stacked(), draw)
    model.save(HERE / "whole.keras")
    with (
        ZipFile(HERE / "whole.keras") as archive,
        ZipFile(HERE / "stacked.keras", "w", ZIP_DEFLATED, compresslevel=9) as out,
    ):
        for name in archive.namelist():
            out.writestr(name, archive.read(name))
    (HERE / "whole.keras").unlink()
    expected = {"stacked": model.predict(inputs, verbose=0), "gru": one.predict(inputs, verbose=0)}
    np.savez_compressed(HERE / "expected.npz", inputs=inputs, **expected)


if __name__ == "__main__":
    main()
