"""``rnnlab generate``: generate text or files from a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from rnnlab.command import options
from rnnlab.command._converse import converse, print_pieces
from rnnlab.command.evaluate import DATA_ROOT
from rnnlab.command.options import REQUIRED, option
from rnnlab.interface import InputError

SYNOPSIS = (
    ("generate run=DIR", "generate text or other files from a trained model"),
    ("generate run=DIR interactive=true", "converse with a text model, a line at a time"),
)


@dataclass
class Options:
    """Options of the command."""

    run: str = option(REQUIRED, "directory of the run; run= may be left out", "DIR")
    prompt: str = option("", "prompt, taken literally; default: the prompt of the task", "TEXT")
    length: int = option(500, "number of steps to generate; for a text, characters")
    temperature: float = option(0.8, "0: the most probable value at each step; 1: samples from the model distribution")
    top_k: int = option(0, "number of most probable classes to sample from; 0 for all")
    seed: int = option(0, "seed of the samples")
    interactive: bool = option(False, "answer each line of standard input")
    out: str = option("", "new folder for the generated files; OUT-2 if it exists", "FOLDER")
    device: str = option("cpu", "device: cpu, cuda or auto")
    data_root: str = option("", DATA_ROOT, "DIR")


def run(arguments: list[str]) -> int:
    """Print the prompt and the generated text while it is generated, or write the generated files to a folder."""
    chosen = options.read(Options, arguments)
    from rnnlab.training import load
    from rnnlab.training.device import check_seed

    for name in ("length", "temperature", "top_k"):
        if getattr(chosen, name) < 0:
            raise InputError(f"{name}={getattr(chosen, name)} is negative; it must be 0 or more")
    if not isfinite(chosen.temperature):
        raise InputError(f"temperature={chosen.temperature} is not a finite number; it must be 0 or more")
    if chosen.interactive and chosen.out:
        raise InputError("interactive=true and out= are both set; a conversation is not written to files, so omit out=")
    check_seed(chosen.seed)
    task, model, _ = load(chosen.run, chosen.device, data_root=chosen.data_root or None)
    draws = (chosen.temperature, chosen.top_k, chosen.seed)
    if chosen.out:
        from rnnlab import files
        from rnnlab.interface import samples_of

        samples = samples_of(task.generate(model, chosen.prompt, chosen.length, *draws))
        folder = files.new_folder(Path(chosen.out).expanduser())
        for sample in samples:
            path = folder / f"sample{sample.suffix}"
            files.write_bytes(path, sample.data())
            print(f"Written: {path}")
        return 0
    speaker = task.speaker(model, *draws)
    if chosen.interactive:
        converse(lambda line: speaker.reply(line, chosen.length))
    else:
        print_pieces(speaker.generate(chosen.prompt or task.default_prompt, chosen.length))
    return 0
