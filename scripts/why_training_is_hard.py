"""Train five cells on the adding problem and plot their gradients through time, before and after training.

python scripts/why_training_is_hard.py [jobs=CORES] [out=docs/images/why_training_is_hard] [KEY=VALUE ...]

The script trains the runs of conf/experiment/why_training_is_hard.yaml in runs/why_training_is_hard and skips finished
ones. Additional options are passed to the training. It writes OUT.svg and OUT.png, prints the numbers, and writes them
to curves.json in the directory of the runs.
"""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from math import log10
from pathlib import Path

import yaml

from rnnlab import files, report
from rnnlab.diagnostics import figures, flows_of
from rnnlab.training import load

ROOT = Path(__file__).resolve().parents[1]
NAME = Path(__file__).stem
RUNS = Path("runs") / NAME
WHEN = {"at initialisation": "initial", "after training": "last"}


def train(label: str, overrides: list[str]) -> Path:
    """Train one run with one thread in its own process; return its directory."""
    place = RUNS / re.sub(r"\W+", "_", label)
    command = [sys.executable, "-m", "rnnlab", "train", f"experiment={NAME}", *overrides]
    command += [f"run_dir={place}", "logger.progress=false"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 3):  # 3: diverged; the last good checkpoint exists
        sys.exit(f"{label}: {done.stderr.strip()}")
    print(f"{label}: {json.loads((place / 'summary.json').read_text())['status']}", flush=True)
    return place


def curve(run: Path, which: str) -> list[float]:
    """Return ‖dL/ds‖ of the full state s of the run's only layer, by distance from the loss, relative to distance 0."""
    task, model, _ = load(run, "cpu", which)
    flows, _, _ = flows_of(model, task, "test", steps=1)
    (flow,) = flows.values()
    norms = flow.last.by_distance(flow.last.total)
    return (norms / norms[0]).tolist()


def main(arguments: list[str]) -> None:
    """Train the runs, compute the curves, and write figure and table."""
    options = {"jobs": str(os.cpu_count()), "out": str(ROOT / "docs" / "images" / NAME)}
    given = [argument for argument in arguments if argument.partition("=")[0] not in options]
    options |= dict(argument.split("=", 1) for argument in arguments if argument not in given)
    runs = yaml.safe_load((ROOT / "conf" / "experiment" / f"{NAME}.yaml").read_text())["runs"]
    with ThreadPoolExecutor(int(options["jobs"])) as pool:
        places = list(pool.map(lambda run: train(run, [*runs[run], *given]), runs))
    curves = {
        when: {label: curve(place, which) for label, place in zip(runs, places, strict=True)}
        for when, which in WHEN.items()
    }
    rows = [(label, *(cells[label][-1] for cells in curves.values())) for label in runs]
    begun: list[list[float]] = []
    for label, values in list(curves["at initialisation"].items()):
        if values in begun:  # runs with the same initialisation are drawn once
            del curves["at initialisation"][label]
        begun.append(values)
    files.write_json(RUNS / "curves.json", curves)
    out = Path(options["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    report.save(figures.reach(curves), out)
    print("\n| cell | " + " | ".join(f"{when}: farthest over nearest" for when in WHEN) + " | test loss |")
    print("|---|" + "---|" * (len(WHEN) + 1))
    for (label, *ends), place in zip(rows, places, strict=True):
        summary = json.loads((place / "summary.json").read_text())
        loss = f"{summary['test']['loss']:.4g}" if summary["test"] else summary["status"]
        print(f"| {label} | " + " | ".join(f"10^{log10(end):.1f}" if end else "0" for end in ends) + f" | {loss} |")
    print(f"\nWritten: {out}.svg and {out}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
