"""``rnnlab export``: write a trained model in a format that other programs read."""

from __future__ import annotations

from dataclasses import dataclass

from rnnlab.command import options
from rnnlab.command.evaluate import DATA_ROOT
from rnnlab.command.options import REQUIRED, option

SYNOPSIS = (("export run=DIR", "write the model of a run as ONNX, as a torch.export program, or as safetensors"),)


@dataclass
class Options:
    """Options of the command."""

    run: str = option(REQUIRED, "directory of the run; run= may be left out", "DIR")
    format: str = option("onnx", "onnx, torch_export, or safetensors with a JSON description")
    out: str = option("", "file to write; default: model.onnx, model.pt2 or model.safetensors in DIR", "FILE")
    step: bool = option(False, "export one time step, for streams")
    lengths: bool = option(False, "an input for the lengths of padded sequences, for format=onnx")
    steps: int = option(0, "unroll the loop of format=torch_export over this number of steps; 0: any number of steps")
    checkpoint: str = option("best", "checkpoint: best or last")
    data_root: str = option("", DATA_ROOT, "DIR")


def run(arguments: list[str]) -> int:
    """Write the file and print its interface."""
    chosen = options.read(Options, arguments)
    options.check_new(chosen.out)
    from rnnlab.export import export_run
    from rnnlab.export.run import part_paths

    for path in part_paths(chosen.out) if chosen.out else ():
        options.check_new(str(path))
    lines = export_run(
        chosen.run,
        chosen.format,
        chosen.out or None,
        step=chosen.step,
        lengths=chosen.lengths,
        steps=chosen.steps,
        checkpoint=chosen.checkpoint,
        data_root=chosen.data_root or None,
    )
    print("\n".join(lines))
    return 0
