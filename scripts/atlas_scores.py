"""Train every cell on the tasks of conf/experiment/atlas and write the scores to docs/scores.csv, for the cell atlas.

python scripts/atlas_scores.py [cells=NAME,NAME] [tasks=NAME,NAME] [seeds=0,1] [rates=3e-3,1e-2] [out=docs/scores.csv]

All runs take place in this process, one after the other, with one thread. The file has one row for each run: cell,
task, learning rate, seed, width, and the score on the test set after the last training step; the score of a run that
diverged is nan. Runs whose row is in the file are not repeated, so the command continues where it was stopped.
"""

import csv
import itertools
import logging
import math
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from rnnlab import cells, config
from rnnlab.training import train

ROOT = Path(__file__).resolve().parents[1]
TASKS = {"adding": "loss", "parity": "accuracy", "copying": "accuracy", "mqar": "accuracy"}
"""The metric of each task; ``loss`` is the mean squared error."""
KEY = ("cell", "task", "lr", "seed")
FIELDS = (*KEY, "hidden_size", "score")


def score(cell: str, task: str, rate: str, seed: str, folder: str) -> dict[str, str]:
    """Train one run and return its row."""
    place = Path(folder) / f"{cell}-{task}-{rate}-{seed}"
    own = [f"cell={cell}", f"optimizer.lr={rate}", f"seed={seed}", f"run_dir={place}"]
    quiet = ["logger.progress=false", "logger.tensorboard=false", "trainer.device=cpu"]
    # These options save time; no score depends on them.
    quiet += ["trainer.prefetch=false", "trainer.checkpoint_every=600", "trainer.log_every=600"]
    settings = config.compose([f"experiment=atlas/{task}", *own, *quiet])
    summary = train(settings)
    if summary["status"] == "stopped":
        raise KeyboardInterrupt
    found = summary["test"][TASKS[task]] if summary["status"] == "finished" else math.nan
    width = str(settings["model"]["hidden_size"])
    return dict(zip(FIELDS, (cell, task, rate, seed, width, f"{found:.4g}"), strict=True))


def read(path: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the rows of a file by cell, task, learning rate and seed; none if it does not exist."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {tuple(row[key] for key in KEY): row for row in csv.DictReader(file)}


def write(path: Path, rows: dict[tuple[str, ...], dict[str, str]]) -> None:
    """Write the rows, sorted."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows[key] for key in sorted(rows))


def main() -> None:
    """Train the missing runs: all cells with the first seed and the first learning rate, then the next."""
    given = {"cells": ",".join(cells.available()), "tasks": ",".join(TASKS), "seeds": "0,1", "rates": "3e-3,1e-2"}
    given |= {"out": str(ROOT / "docs" / "scores.csv")}
    if not all(argument.partition("=")[0] in given and "=" in argument for argument in sys.argv[1:]):
        raise SystemExit(__doc__)
    given |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    names, tasks, seeds, rates = (given[key].split(",") for key in ("cells", "tasks", "seeds", "rates"))
    out = Path(given["out"])
    rows = read(out)
    logging.disable(logging.INFO)
    for seed, rate, cell in itertools.product(seeds, rates, names):
        for key in ((cell, task, rate, seed) for task in tasks):
            if key not in rows:
                with tempfile.TemporaryDirectory() as folder:
                    rows[key] = score(*key, folder)
        write(out, rows)
        print(seed, rate, cell, *(rows[cell, task, rate, seed]["score"] for task in tasks), flush=True)


if __name__ == "__main__":
    main()
