"""``rnnlab evaluate``: measure a trained model."""

from __future__ import annotations

from dataclasses import dataclass

from rnnlab.command import options
from rnnlab.command.options import REQUIRED, option

SYNOPSIS = (("evaluate run=DIR", "print the metrics of the best checkpoint of a run as one JSON object"),)

DATA_ROOT = "where the data lie now; without it RNNLAB_DATA, or where the run found them"


@dataclass
class Options:
    """Options of the command."""

    run: str = option(REQUIRED, "the directory of the run; run= may be left out", "DIR")
    split: str = option("test", "or train, valid")
    device: str = option("auto", "or cpu, cuda")
    data_root: str = option("", DATA_ROOT, "DIR")


def run(arguments: list[str]) -> int:
    """Print the metrics."""
    chosen = options.read(Options, arguments)
    from rnnlab import files
    from rnnlab.training import evaluate_run

    values = evaluate_run(chosen.run, chosen.split, chosen.device, data_root=chosen.data_root or None)
    print(files.to_json({"split": chosen.split, **values}))
    return 0
