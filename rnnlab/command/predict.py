"""``rnnlab predict``: apply a trained model to own data."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from rnnlab.command import options
from rnnlab.command.evaluate import DATA_ROOT
from rnnlab.command.options import REQUIRED, option
from rnnlab.interface import InputError

SYNOPSIS = (("predict run=DIR data=FILE", "apply a trained model to own data: classes, forecasts or texts"),)


@dataclass
class Options:
    """Options of the command."""

    run: str = option(REQUIRED, "directory of the run; run= may be left out", "DIR")
    data: str = option(
        REQUIRED, "file in a format of the training data, or .npz or .npy; or a folder: see docs/own_data.md", "FILE"
    )
    out: str = option("", "CSV file to write, which must not exist; default: print", "FILE")
    batch_size: int = option(256, "largest number of sequences per batch")
    device: str = option("auto", "device: auto, cpu or cuda")
    data_root: str = option("", DATA_ROOT, "DIR")


def run(arguments: list[str]) -> int:
    """Print the predictions or write them to a file."""
    chosen = options.read(Options, arguments)
    path, out = Path(chosen.data).expanduser(), Path(chosen.out).expanduser()
    if not path.exists():
        raise InputError(f"data={chosen.data} does not exist; give the path of a file or a folder")
    options.check_new(chosen.out)
    from rnnlab import files
    from rnnlab.training import trained

    loaded = trained.load(chosen.run, chosen.device, data_root=chosen.data_root or None)
    rows = loaded.predict(loaded.predicting().read_own(path), chosen.batch_size).rows()
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    if not chosen.out:
        print(text.getvalue(), end="")
        return 0
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(out, text.getvalue().encode())
    print(f"Written: {out} ({len(rows) - 1} rows)")
    return 0
