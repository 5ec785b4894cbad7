"""Export the model of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import rnnlab
from rnnlab import files
from rnnlab.export import exported_program, weights
from rnnlab.export.interface import describe
from rnnlab.interface import InputError
from rnnlab.models import Model
from rnnlab.training import load

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
"""The formats, with the suffix of a file of each."""
NEEDED = {"onnx": "onnx", "safetensors": "safetensors"}
"""The package that a format needs, in the extra ``export``."""
TOLERANCE = 1e-3
"""Largest difference between a graph and its model that is accepted; rounding in float32 gives 1e-7 to 1e-5."""
STEPS = 32
"""Number of time steps of an exported program of PyTorch, unless the user gives one."""


def export_run(
    run: str | Path,
    format: str = "onnx",
    out: str | Path | None = None,
    *,
    step: bool = False,
    lengths: bool = False,
    steps: int = 0,
    checkpoint: str = "best",
    data_root: str | None = None,
) -> list[str]:
    """Write the model of a run to a file.

    Args:
        run: directory of the run.
        format: ``onnx``, ``torch_export`` or ``safetensors``.
        out: path of the file; None for ``model.onnx``, ``model.pt2`` or ``model.safetensors`` in the run's directory.
        step: whether to export one time step, for streams; not for ``safetensors``.
        lengths: whether an ``onnx`` graph has an input for the lengths of padded sequences.
        steps: number of time steps of a ``torch_export`` program; 0 for 32.
        checkpoint: ``best`` or ``last``.
        data_root: folder of the data; None to use the environment variable RNNLAB_DATA or the folder of the run.

    Returns:
        lines that say what was written.

    Raises:
        InputError: an option is not valid, or the model uses something that the format cannot represent.
    """
    _check(format, step, lengths, steps, checkpoint)
    backend = "reference" if format == "torch_export" else None
    task, model, content = load(run, "cpu", checkpoint, backend=backend, data_root=data_root)
    if task.has_elapsed and format != "safetensors":
        raise InputError("the model reads elapsed times, which no graph has as an input; use format=safetensors")
    path = Path(run, f"model{SUFFIXES[format]}") if out is None else Path(out).expanduser()
    about = {
        **describe(model),
        "config": content["config"],
        "task": task.memory(),
        "step": content["progress"]["step"],
        "versions": {"rnnlab": rnnlab.__version__, "torch": torch.__version__},
    }
    if format == "safetensors":
        return [f"Written: {path}, {weights.write(path, model, about)}"]
    about = json.loads(weights.dumped(about))
    model = model.float()
    if format == "onnx":
        return _write_onnx(path, model, step, lengths, about)
    return _write_program(path, model, step, steps or STEPS, about)


def _check(format: str, step: bool, lengths: bool, steps: int, checkpoint: str) -> None:
    if format not in SUFFIXES:
        raise InputError(f"format={format!r} is not one of {', '.join(SUFFIXES)}")
    if checkpoint not in ("best", "last"):
        raise InputError(f"checkpoint={checkpoint!r} is not one of best, last")
    if step and format == "safetensors":
        raise InputError("step=true has no effect on format=safetensors; omit it")
    if lengths and (step or format != "onnx"):
        raise InputError("lengths=true is for format=onnx without step=true; omit it")
    if steps and (step or format != "torch_export"):
        raise InputError(f"steps={steps} is for format=torch_export without step=true; omit it")
    if steps < 0:
        raise InputError(f"steps={steps} must be at least 1")
    package = NEEDED.get(format)
    if package is not None and find_spec(package) is None:
        raise InputError(
            f"format={format} needs the package {package}, which is not installed; pip install 'rnnlab[export]'"
        )


def _write_onnx(path: Path, model: Model, step: bool, lengths: bool, about: dict[str, Any]) -> list[str]:
    from rnnlab.export import check, graph

    made = graph.build(model, step, lengths, about)
    lines = []
    if find_spec("onnxruntime") is not None:
        difference = check.largest_difference(made, model, step)
        if not difference <= TOLERANCE:
            raise InputError(f"the results of the graph differ by {difference:.1e} from the model; nothing was written")
        lines.append(f"Checked with onnxruntime: largest difference {difference:.1e}")
    _write(path, lambda file: file.write(made.SerializeToString()))
    return [f"Written: {path}", _listed("inputs", made.graph.input), _listed("outputs", made.graph.output), *lines]


def _listed(title: str, infos: Any) -> str:
    """The names and shapes of the inputs or outputs of a graph."""
    shapes = [[dim.dim_param or str(dim.dim_value) for dim in info.type.tensor_type.shape.dim] for info in infos]
    named = (f"{info.name} [{', '.join(shape)}]" for info, shape in zip(infos, shapes, strict=True))
    return f"{title}: {'; '.join(named)}"


def _write_program(path: Path, model: Model, step: bool, steps: int, about: dict[str, Any]) -> list[str]:
    program = exported_program.build(model, step, steps)
    _write(path, lambda file: torch.export.save(program, file, extra_files={"rnnlab.json": json.dumps(about)}))
    length = "one time step" if step else f"{steps} time steps"
    return [f"Written: {path}, {length}, any number of sequences"]


def _write(path: Path, write: Callable[[Any], Any]) -> None:
    with files.replacing(path) as file:
        write(file)
