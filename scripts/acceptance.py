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

import sys
from pathlib import Path
from typing import Any

import experiments
import torch

GROUP = "acceptance"
RUNS = Path("runs") / GROUP


def read(name: str) -> dict[str, Any]:
    """Return the section ``acceptance`` of an experiment's file."""
    return experiments.read(GROUP, name)


def scores(expectation: dict[str, Any], name: str, run: str, seeds: list[int]) -> dict[str, Any] | None:
    """Return mean, best and single values of a run over its seeds, or None if a seed is not finished."""
    return experiments.scores(expectation, [experiments.directory(GROUP, name, run, seed) for seed in seeds])


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
    sections = experiments.sections(before)
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
    for file in experiments.files(GROUP):
        about, has_run = read(file.stem), (RUNS / file.stem).exists()
        if file.stem in sections and not has_run and "pending" not in about:
            lines += ["", f"## {file.stem}", "", sections[file.stem]]
            continue
        lines += ["", f"## {file.stem}", "", f"{experiments.title(file)} Source: {about['source']}.", ""]
        lines += [f"Earlier result: {about['before']}.", ""] if "before" in about else []
        lines += [f"Finding: {about['found']}.", ""] if "found" in about else []
        if "pending" in about and not has_run:
            lines += [f"Not run yet with these settings: {about['pending']}.", ""]
        lines += ["| run | expected | mean | best | each seed | as expected |", "|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(judge(one, file.stem, about['seeds']))} |" for one in about["expect"]]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Run the named experiments and write the page."""
    names, options = experiments.arguments(GROUP, arguments)
    known = [file.stem for file in experiments.files(GROUP)]
    chosen = names or [name for name in known if options["long"] == "true" or not read(name).get("long")]
    runs = [
        (name, run, overrides, seed)
        for name in chosen
        for seed in read(name)["seeds"]
        for run, overrides in read(name)["runs"].items()
    ]
    experiments.train_all(GROUP, runs, int(options["jobs"]))
    page = Path(options["out"])
    page.write_text(table(page.read_text() if page.exists() else ""))
    print(f"Written: {page}")


if __name__ == "__main__":
    main(sys.argv[1:])
