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
from rnnlab.export import exported_program, parts, weights
from rnnlab.export.interface import describe
from rnnlab.interface import InputError
from rnnlab.training import load

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
"""The formats, with the suffix of a file of each."""
NEEDED = {"onnx": "onnx", "safetensors": "safetensors"}
"""The package that a format needs, in the extra ``export``."""
TOLERANCE = 1e-3
"""Largest difference between a graph and its model that is accepted; rounding in float32 gives 1e-7 to 1e-5."""
PARTS = ("encoder", "decoder")
"""The parts of a model with a source, each of which has its own graph."""


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
            An ``onnx`` model with a source has two files, see `part_paths`.
        step: whether to export one time step, for streams; not for ``safetensors``.
        lengths: whether an ``onnx`` graph has an input for the lengths of padded sequences.
        steps: number of time steps of a ``torch_export`` program whose loop is unrolled; 0 for a loop over any number
            of steps.
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
    if model.source is not None and format == "onnx":
        if step or lengths:
            raise InputError(
                "step=true and lengths=true are for models without a source; the encoder of this model always reads "
                "lengths, and its decoder always computes one step; omit them"
            )
        chosen = dict(zip(part_paths(path), parts.encoder_decoder(model), strict=True))
        return _write_onnx(chosen, False, about)
    part = parts.Steps(model, step, task.has_elapsed)
    if format == "onnx":
        return _write_onnx({path: part}, lengths, about)
    return _write_program(path, part, steps, about)


def part_paths(path: str | Path) -> list[Path]:
    """The files of a model with a source: ``model.encoder.onnx`` and ``model.decoder.onnx`` for ``model.onnx``."""
    path = Path(path)
    return [path.with_name(f"{path.stem}.{part}{path.suffix}") for part in PARTS]


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


def _write_onnx(chosen: dict[Path, parts.Part], lengths: bool, about: dict[str, Any]) -> list[str]:
    """Write a graph for each part, after all of them have been compared with the model."""
    from rnnlab.export import check, graph

    graphs = {path: graph.build(part, lengths, about) for path, part in chosen.items()}
    compared = {}
    for path, part in chosen.items() if find_spec("onnxruntime") is not None else ():
        difference = check.largest_difference(graphs[path], part)
        if not difference <= TOLERANCE:
            raise InputError(f"the results of the graph differ by {difference:.1e} from the model; nothing was written")
        compared[path] = [f"Checked with onnxruntime: largest difference {difference:.1e}"]
    lines = []
    for path, made in graphs.items():
        _write(path, lambda file, made=made: file.write(made.SerializeToString()))
        inputs, outputs = (_ports_of(infos) for infos in (made.graph.input, made.graph.output))
        lines += [f"Written: {path}", _listed("inputs", inputs), _listed("outputs", outputs), *compared.get(path, [])]
    return lines


def _ports_of(infos: Any) -> list[tuple[str, list[str]]]:
    """The names and shapes of the inputs or outputs of a graph."""
    return [(info.name, [d.dim_param or str(d.dim_value) for d in info.type.tensor_type.shape.dim]) for info in infos]


def _listed(title: str, ports: list[tuple[str, list[str]]]) -> str:
    named = (f"{name} [{', '.join(shape)}]" for name, shape in ports)
    return f"{title}: {'; '.join(named)}"


def _write_program(path: Path, part: parts.Part, steps: int, about: dict[str, Any]) -> list[str]:
    program = exported_program.build(part, steps)
    given, returned = (
        [(port.name, [*map(str, port.shape)]) for port in ports] for ports in (part.given, part.returned)
    )
    about = {**about, "arguments": [name for name, _ in given], "results": [name for name, _ in returned]}
    _write(path, lambda file: torch.export.save(program, file, extra_files={"rnnlab.json": json.dumps(about)}))
    fixed = [f"time = {steps}, with an unrolled loop"] if steps else []
    return [f"Written: {path}", _listed("arguments", given), _listed("results", returned), *fixed]


def _write(path: Path, write: Callable[[Any], Any]) -> None:
    with files.replacing(path) as file:
        write(file)
