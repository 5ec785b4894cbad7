"""``rnnlab evaluate``: evaluate a trained model."""

from __future__ import annotations

from dataclasses import dataclass

from rnnlab.command import options
from rnnlab.command.options import REQUIRED, option

SYNOPSIS = (("evaluate run=DIR", "print the metrics of the best checkpoint of a run as one JSON object"),)

DATA_ROOT = "folder of the data; default: the environment variable RNNLAB_DATA, or the folder that the run used"


@dataclass
class Options:
    """Options of the command."""

    run: str = option(REQUIRED, "directory of the run; run= may be left out", "DIR")
    split: str = option("test", "split: train, valid or test")
    device: str = option("auto", "device: auto, cpu or cuda")
    out: str = option("", "new folder for what the model writes, such as translations; OUT-2 if it exists", "FOLDER")
    data_root: str = option("", DATA_ROOT, "DIR")


def run(arguments: list[str]) -> int:
    """Print the metrics."""
    chosen = options.read(Options, arguments)
    from rnnlab import files
    from rnnlab.training import evaluate_run

    values = evaluate_run(
        chosen.run, chosen.split, chosen.device, data_root=chosen.data_root or None, out=chosen.out or None
    )
    print(files.to_json({"split": chosen.split, **values}))
    return 0
