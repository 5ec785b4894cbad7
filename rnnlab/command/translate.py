"""``rnnlab translate``: run a text-to-text model, such as a translator, on the user's own text."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rnnlab.command import options
from rnnlab.command.errors import BAD_INPUT, complain, is_text
from rnnlab.command.evaluate import DATA_ROOT
from rnnlab.command.options import REQUIRED, option
from rnnlab.interface import InputError

if TYPE_CHECKING:
    from torch import nn

    from rnnlab.tasks.text.base import TextToText

SYNOPSIS = (
    ("translate run=DIR TEXT ...", "translate each text with a trained model"),
    ("translate run=DIR file=IN out=OUT", "translate a file, line by line; without file= standard input"),
)
NOTES = (
    "A text is an argument that is not of the form option=value. The number of lines of the output equals that of the "
    "input. An empty line gives an empty line. A line that cannot be translated is reported and gives an empty line; "
    "then the exit code is 2."
)


@dataclass
class Options:
    """Options of the command."""

    run: str = option(REQUIRED, "directory of the run; run= may be left out", "DIR")
    file: str = option("", "UTF-8 file to translate, one text per line", "FILE")
    out: str = option("", "file for the translations; default: standard output", "FILE")
    beam_size: int = option(5, "number of hypotheses of beam search; 1 is greedy")
    device: str = option("cpu", "device: cpu, cuda or auto")
    data_root: str = option("", DATA_ROOT, "DIR")


def run(arguments: list[str]) -> int:
    """Print or write the translations."""
    chosen, texts = options.read_with_texts(Options, arguments)
    from rnnlab import files
    from rnnlab.data import read_lines
    from rnnlab.tasks.text.base import TextToText
    from rnnlab.training import load

    if chosen.beam_size < 1:
        raise InputError(f"beam_size={chosen.beam_size} must be at least 1")
    if texts and chosen.file:
        raise InputError("texts and file= are both given; give either texts or a file")
    lines = read_lines(Path(chosen.file).expanduser()) if chosen.file else texts
    task, model, content = load(chosen.run, chosen.device, data_root=chosen.data_root or None)
    if not isinstance(task, TextToText):
        name = content["config"]["task"]["name"]
        raise InputError(
            f"{chosen.run} is a run of the task {name}, which translates no text; give a run of a "
            "task such as translation"
        )
    if not (texts or chosen.file) and not chosen.out:
        for line in sys.stdin:
            found, _ = _translated(task, model, [line.rstrip("\r\n")], chosen.beam_size)
            print(found[0], flush=True)
        return 0
    lines = lines or [line.rstrip("\r\n") for line in sys.stdin]
    found, code = _translated(task, model, lines, chosen.beam_size)
    if chosen.out:
        files.write_bytes(Path(chosen.out).expanduser(), "".join(f"{text}\n" for text in found).encode())
    else:
        print("\n".join(found))
    return code


def _translated(task: TextToText, model: nn.Module, lines: list[str], beam_size: int) -> tuple[list[str], int]:
    """The translation of each line, and the exit code.

    A line that cannot be translated is reported on standard error, and its translation is empty.
    """
    known: dict[int, str] = {}
    for number, line in enumerate(lines):
        try:
            if not is_text(line):
                raise InputError(f"{line[:40]!r} is not valid text in the encoding {sys.stdin.encoding}")
            task.encode_source(line)
            known[number] = line
        except InputError as error:
            complain(f"line {number + 1}: {error}" if len(lines) > 1 else str(error))
    written = task.answer(model, list(known.values()), beam_size)
    found = [""] * len(lines)
    for number, text in zip(known, written, strict=True):
        found[number] = text
    return found, 0 if len(known) == len(lines) else BAD_INPUT
