"""Run the experiments in conf/experiment/acceptance and write a table of expected and measured scores.

python scripts/acceptance.py [NAME ...] [long=false] [jobs=CORES] [out=docs/acceptance.md]

Without names, all experiments run except the long ones. Each file states its source, its runs, its seeds, and the
expected scores with their tolerance. Finished runs are not repeated. The page contains all results so far. The section
of an experiment that has no runs here is copied from the existing page. If the settings of a file are new, its
``pending`` says so, and the page shows this text until there are results for the new settings. ``found`` is a finding
that explains the results.

Keys of an expectation:
run                 name of one of the file's runs
value               ``test/NAME``: metric of the best checkpoint on test; ``valid/NAME``: best value on valid
until               for valid: the best value up to this training step
over                name of the baseline by which the value is divided
above, below        bounds on the score
above_run, margin   the score must exceed that of another run by this margin
score               ``mean`` over seeds (the default), or ``best`` seed; the page shows both
"""

import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml

from rnnlab import tasks
from rnnlab.training.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / "conf" / "experiment" / "acceptance"
RUNS = Path("runs") / "acceptance"


def read(name: str) -> dict[str, Any]:
    """Return the section ``acceptance`` of an experiment's file."""
    return yaml.safe_load((FILES / f"{name}.yaml").read_text())["acceptance"]


def directory(name: str, run: str, seed: int) -> Path:
    """Return the directory of a run."""
    return RUNS / name / f"{run}-s{seed}"


def train(name: str, run: str, overrides: list[str], seed: int) -> None:
    """Train one run with one thread in its own process, and print its status."""
    place = directory(name, run, seed)
    command = [sys.executable, "-m", "rnnlab", "train", f"experiment=acceptance/{name}", *overrides, f"seed={seed}"]
    command += [f"run_dir={place}", "logger.progress=false"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    last = (done.stdout + done.stderr).strip().splitlines()
    ended = RunDirectory(place).summary()
    print(f"{place}: {ended['status'] if ended else last[-1] if last else 'no output'}", flush=True)


def value(expectation: dict[str, Any], run: Path) -> float | None:
    """Return the value of an expectation for one run.

    It is None if the run is not finished, and the worst infinity if it diverged.
    """
    summary = RunDirectory(run).summary()
    if summary is None or summary["status"] == "stopped":
        return None
    split, name = expectation["value"].split("/")
    task = tasks.find(summary["task"])
    lower = task.metrics[name].better == "lower"
    if summary["status"] == "diverged":
        return float("inf") if lower else float("-inf")
    if split == "test":
        found = summary["test"][name]
    else:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        until = expectation.get("until", summary["steps"])
        values = [line[name] for line in lines if line["split"] == split and line["step"] <= until]
        found = min(values) if lower else max(values)
    if "over" in expectation:
        found /= summary["baselines"][split][expectation["over"]][name]
    return found


def scores(expectation: dict[str, Any], name: str, run: str, seeds: list[int]) -> dict[str, Any] | None:
    """Return mean, best and single values of a run over its seeds, or None if a seed is not finished."""
    values = [value(expectation, directory(name, run, seed)) for seed in seeds]
    if None in values:
        return None
    metric = tasks.find(RunDirectory(directory(name, run, seeds[0])).summary()["task"]).metrics
    better = min if metric[expectation["value"].split("/")[1]].better == "lower" else max
    return {"mean": statistics.fmean(values), "best": better(values), "single": values}


def judge(expectation: dict[str, Any], name: str, seeds: list[int]) -> list[str]:
    """Return a row of the table: run, expectation, mean, best, single values, and whether the expectation is met."""
    run, kind = expectation["run"], expectation.get("score", "mean")
    what = expectation["value"].replace("/", " ")
    what += f" by step {expectation['until']:,}" if "until" in expectation else ""
    what += f" over {expectation['over']}" if "over" in expectation else ""
    what = f"best {what}" if kind == "best" else what
    bounds = [f"{word} {expectation[word]:g}" for word in ("above", "below") if word in expectation]
    if "above_run" in expectation:
        bounds.append(f"above {expectation['above_run']} by {expectation['margin']:g}")
    row = [run, f"{what}: {' and '.join(bounds)}"]
    found = scores(expectation, name, run, seeds)
    if found is None:
        return [*row, "", "", "", "not run"]
    low, high = expectation.get("above", float("-inf")), expectation.get("below", float("inf"))
    if "above_run" in expectation:
        other = scores(expectation, name, expectation["above_run"], seeds)
        if other is None:
            return [*row, "", "", "", "not run"]
        low = other[kind] + expectation["margin"]
        row[1] += f" ({expectation['above_run']}: {other[kind]:.3g})"
    single = ", ".join(f"{one:.3g}" for one in found["single"])
    verdict = "yes" if low < found[kind] < high else "**no**"
    return [*row, f"{found['mean']:.3g}", f"{found['best']:.3g}", single, verdict]


def table(before: str = "") -> str:
    """Return the page of all experiments.

    Args:
        before: the existing page; sections of experiments without runs here are copied from it.
    """
    sections = {part.splitlines()[0]: part.rstrip("\n") for part in before.split("\n## ")[1:]}
    lines = [
        "# Acceptance",
        "",
        "This page lists published and calibrated scores of cells on the tasks, and the scores that rnnlab reaches.",
        "`make acceptance` runs the experiments and writes this page.",
        "",
        "- The expected scores and tolerances were committed before the runs that they apply to.",
        "- A score is the mean over seeds unless the column says best.",
        "- Expectations that are not met are shown too, as **no**.",
        "- Settings are in `conf/experiment/acceptance`.",
        "",
        f"torch {torch.__version__}, CPU, float32.",
    ]
    for file in sorted(FILES.glob("*.yaml")):
        about, has_run = read(file.stem), (RUNS / file.stem).exists()
        if file.stem in sections and not has_run and "pending" not in about:
            lines += ["", f"## {sections[file.stem]}"]
            continue
        title = file.read_text().splitlines()[1].removeprefix("# ")
        lines += ["", f"## {file.stem}", "", f"{title} Source: {about['source']}.", ""]
        lines += [f"Earlier result: {about['before']}.", ""] if "before" in about else []
        lines += [f"Finding: {about['found']}.", ""] if "found" in about else []
        if "pending" in about and not has_run:
            lines += [f"Not run yet with these settings: {about['pending']}.", ""]
        lines += ["| run | expected | mean | best | each seed | as expected |", "|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(judge(one, file.stem, about['seeds']))} |" for one in about["expect"]]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Run the named experiments and write the page."""
    options = {"long": "false", "jobs": str(os.cpu_count()), "out": str(ROOT / "docs" / "acceptance.md")}
    known = sorted(file.stem for file in FILES.glob("*.yaml"))
    names = [argument for argument in arguments if "=" not in argument]
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    wrong = [name for name in names if name not in known] + [key for key in given if key not in options]
    if wrong:
        sys.exit(f"unknown: {', '.join(wrong)}; experiments: {', '.join(known)}; options: {', '.join(options)}")
    options |= given
    chosen = names or [name for name in known if options["long"] == "true" or not read(name).get("long")]
    with ThreadPoolExecutor(int(options["jobs"])) as pool:
        for name in chosen:
            about = read(name)
            for seed in about["seeds"]:
                for run, overrides in about["runs"].items():
                    pool.submit(train, name, run, overrides, seed)
    page = Path(options["out"])
    page.write_text(table(page.read_text() if page.exists() else ""))
    print(f"Written: {page}")


if __name__ == "__main__":
    main(sys.argv[1:])
