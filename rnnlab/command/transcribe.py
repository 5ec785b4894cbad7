"""``rnnlab transcribe``: write down what is spoken in sound files."""

from __future__ import annotations

from dataclasses import dataclass

from rnnlab.command import options
from rnnlab.command.errors import BAD_INPUT, complain, sentence
from rnnlab.command.evaluate import DATA_ROOT
from rnnlab.command.options import REQUIRED, option
from rnnlab.interface import InputError

SYNOPSIS = (("transcribe run=DIR FILE ...", "write down what is spoken in sound files, with a trained model"),)
NOTES = (
    "The command prints one line for each file: WAV, FLAC or OGG, of any usual rate and number of channels. A file "
    "that cannot be transcribed is reported and gives an empty line; then the exit code is 2. Write ./NAME for a file "
    "whose name contains '='."
)


@dataclass
class Options:
    """Options of the command."""

    run: str = option(REQUIRED, "directory of the run; run= may be left out", "DIR")
    beam_size: int = option(8, "number of prefixes of beam search, for strings of digits; 1 is greedy")
    device: str = option("cpu", "device: cpu, cuda or auto")
    data_root: str = option("", DATA_ROOT, "DIR")


def run(arguments: list[str]) -> int:
    """Print the words of each file."""
    chosen, paths = options.read_with_texts(Options, arguments)
    from rnnlab.tasks.speech.base import Speech
    from rnnlab.training import load

    if chosen.beam_size < 1:
        raise InputError(f"beam_size={chosen.beam_size} must be at least 1")
    if not paths:
        raise InputError("no sound file is given; write rnnlab transcribe run=DIR recording.wav")
    task, model, content = load(chosen.run, chosen.device, data_root=chosen.data_root or None)
    if not isinstance(task, Speech):
        name = content["config"]["task"]["name"]
        raise InputError(
            f"{chosen.run} is a run of the task {name}, which recognises no speech; give a run of spoken_digits or "
            "digit_strings"
        )
    code = 0
    for path in paths:
        try:
            print(task.transcribe(model, path, chosen.beam_size), flush=True)
        except (InputError, OSError) as error:
            complain(sentence(error))
            print(flush=True)
            code = BAD_INPUT
    return code
