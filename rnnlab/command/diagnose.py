"""``rnnlab diagnose``: a diagnostic report of a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rnnlab.command import options
from rnnlab.command.evaluate import DATA_ROOT
from rnnlab.command.options import REQUIRED, option

SYNOPSIS = (("diagnose run=DIR", "write a diagnostic report: gradients through time, memory, gates"),)


@dataclass
class Options:
    """Options of the command."""

    run: str = option(REQUIRED, "directory of the run; run= may be left out", "DIR")
    out: str = option("diagnosis", "new folder for page.html, diagnostics.json and figures; OUT-2 if it exists")
    split: str = option("", "split from which sequences are taken; train if the task has no valid", "valid")
    checkpoint: str = option("best", "checkpoint: best, last, or initial (the model before training)")
    steps: int = option(200, "largest number of steps; the gradients of tasks without a stream use whole sequences")
    sequences: int = option(4, "number of sequences for Jacobians, exponents and memory; gradients use the whole batch")
    device: str = option("cpu", "device: cpu, cuda or auto")
    data_root: str = option("", DATA_ROOT, "DIR")


def run(arguments: list[str]) -> int:
    """Write the report into a folder."""
    chosen = options.read(Options, arguments)
    from rnnlab import diagnostics, files
    from rnnlab.training import load

    effort = diagnostics.Effort(steps=chosen.steps, sequences=chosen.sequences)
    task, model, content = load(
        chosen.run, chosen.device, chosen.checkpoint, data_root=chosen.data_root or None, check_data=True
    )
    split = chosen.split or ("valid" if "valid" in task.splits else "train")
    found = diagnostics.diagnose(model, task, split, effort)
    step = 0 if chosen.checkpoint == "initial" else content["progress"]["step"]
    name = f"{content['config']['task']['name']} with {content['config']['cell']['name']}, step {step}"
    found = {"run": chosen.run, "checkpoint": chosen.checkpoint, "step": step, **found}
    folder = files.new_folder(Path(chosen.out).expanduser())
    for sentence in diagnostics.write(found, folder, name):
        print(sentence)
    return 0
