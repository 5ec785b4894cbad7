"""Read the weights of recurrent layers that other programs have trained: PyTorch, Keras and ONNX.

- `read`: weights as a stack of layers. `load`: copy them into a model.
- `parts`: a cell and a stack from weights. `torch_nn`, `keras`, `onnx_graph`: the formats.
"""

from rnnlab.layers import to_torch
from rnnlab.weights.reading import load, read

__all__ = ["load", "read", "to_torch"]
