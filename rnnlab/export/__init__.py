"""Export trained models: ONNX graphs, exported programs of PyTorch, and safetensors.

- `interface`: inputs, outputs and states of a model. `parts`: the functions of a model that are exported.
- `record`: a part of a model as a program. `operations`, `graph`: the program as an ONNX graph. `check`: compare the
  graph with the model.
- `exported_program`: ``torch.export``. `weights`: safetensors and JSON.
- `run`: export a run.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnlab.export.run import export_run
    from rnnlab.export.weights import read

_HOMES = {"export_run": "run", "read": "weights"}
__all__ = ["export_run", "read"]


def __getattr__(name: str) -> Any:  # PyTorch is imported only when a model is exported or read
    if name in _HOMES:
        return getattr(import_module(f"rnnlab.export.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
