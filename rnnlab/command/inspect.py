"""``rnnlab inspect``: print how a file or folder of own data is read."""

from __future__ import annotations

from dataclasses import dataclass

from rnnlab.command import options
from rnnlab.command.options import REQUIRED, option

SYNOPSIS = (("inspect data=FILE", "print how labelled sequences are read: classes, columns, lengths, splits"),)


@dataclass
class Options:
    """Options of the command."""

    data: str = option(REQUIRED, "CSV file, .txt file or folder, as in task.file of task=table", "FILE")
    sequence: str = option("sequence", "column of a CSV file with the name of the sequence")
    label: str = option("label", "column of a CSV file with the class")
    text: str = option("", "column of a CSV file with texts, instead of sequence")
    elapsed: str = option("", "column with the time of each row, as in task.elapsed")


def run(arguments: list[str]) -> int:
    """Print the lines that a training of ``task=table`` starts with."""
    chosen = options.read(Options, arguments)
    from rnnlab.tasks.classification.table import Table

    own = {"sequence": chosen.sequence, "label": chosen.label, "text": chosen.text, "elapsed": chosen.elapsed}
    print(*Table(file=chosen.data, **own).describe(), sep="\n")
    return 0
