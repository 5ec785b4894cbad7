"""Run the recipes in conf/experiment/results and write a page of their results next to published numbers.

python scripts/results.py [NAME ...] [long=false] [jobs=CORES] [out=docs/results.md]

Without names, all experiments run; long runs only with ``long=true``. Finished runs are not repeated. The page contains
all results so far. The row of a run that has no finished seed here is copied from the existing page. To add an
experiment, write its file; nothing else is needed.

Keys of the section ``results`` of a file:
seeds       seeds of each run
runs        overrides of each run by name: a list, or ``{overrides: [...], long: true, seeds: [0]}`` for a run that
            takes hours, or has its own seeds
long        whether all runs of the file take hours
metrics     metrics that the page shows, such as ``test/bleu``, of the best checkpoint
goals       a list; each goal names a ``run`` and a ``value`` (one of the metrics) with ``above`` or ``below``, or with
            ``above_run`` and ``margin``: the mean over the seeds must exceed that of another run by this margin
published   a list of published numbers: ``result``, ``model``, ``convention`` (tokenisation, split, seeds, metric) and
            ``source``
note        a remark for the page, such as why no published number is comparable
pending     why the rows of the existing page do not apply to new settings; they are not copied
"""

import math
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import experiments

GROUP = "results"
SIGNATURE = "Signature of sacrebleu: "
"""Start of the lines of a page with the signatures of a metric."""


def read(name: str) -> dict[str, Any]:
    """Return the section ``results`` of an experiment's file."""
    return experiments.read(GROUP, name)


def places(name: str, run: str) -> dict[int, Path]:
    """Return the directories of a run by seed."""
    return {seed: experiments.directory(GROUP, name, run, seed) for seed in seeds_of(name, run)}


def seeds_of(name: str, run: str) -> list[int]:
    """Return the seeds of a run: its own, or those of its file."""
    about = read(name)
    one = about["runs"][run]
    return one.get("seeds", about["seeds"]) if isinstance(one, dict) else about["seeds"]


def is_long(name: str, run: str) -> bool:
    """Return whether a run is marked as long, by itself or with its file."""
    about = read(name)
    one = about["runs"][run]
    return bool(about.get("long") or (isinstance(one, dict) and one.get("long")))


def overrides(name: str, run: str) -> list[str]:
    """Return the overrides of a run."""
    one = read(name)["runs"][run]
    return one["overrides"] if isinstance(one, dict) else one


def number(value: float) -> str:
    """Return a score as text; infinity stands for a run that diverged."""
    return f"{value:.4g}" if math.isfinite(value) else "diverged"


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def processor(machine: dict[str, Any]) -> str:
    """Return the name of the GPU or processor that a run was trained on."""
    if machine["device"] != "cpu":
        return machine["device"]
    threads = machine["threads"]
    return f"{machine['processor']}, {threads} thread{'s' if threads > 1 else ''}"


def judge(goal: dict[str, Any], name: str) -> str:
    """Return a goal and whether it is met, or that a seed is missing."""
    what = goal["value"].replace("/", " ")
    bounds = [f"{word} {goal[word]:g}" for word in ("above", "below") if word in goal]
    low, high = goal.get("above", float("-inf")), goal.get("below", float("inf"))
    found = experiments.scores(goal, list(places(name, goal["run"]).values()))
    if "above_run" in goal:
        bounds.append(f"above {goal['above_run']} by {goal['margin']:g}")
        other = experiments.scores(goal, list(places(name, goal["above_run"]).values()))
        low = float("inf") if other is None else other["mean"] + goal["margin"]
        found = None if other is None else found
    verdict = "not run" if found is None else "yes" if low < found["mean"] < high else "**no**"
    return f"{what} {' and '.join(bounds)}: {verdict}"


def header(metrics: list[str]) -> list[str]:
    """Return the titles of the columns of a table."""
    shown = [f"{metric.replace('/', ' ')}, mean (each seed)" for metric in metrics]
    return ["run", "cell", "seeds", *shown, "parameters", "training time of a run", "processor", "goal"]


def row(name: str, run: str) -> list[str]:
    """Return the row of a run for its finished seeds."""
    about = read(name)
    finished = {seed: summary for seed, place in places(name, run).items() if (summary := experiments.finished(place))}
    goals = [judge(goal, name) for goal in about.get("goals", ()) if goal["run"] == run]
    if not finished:
        status = "not run, takes hours" if is_long(name, run) else "not run"
        return [run, *[""] * (len(about["metrics"]) + 5), status]
    count = len(seeds_of(name, run))
    seeds = ", ".join(map(str, finished)) + (f" (of {count})" if len(finished) < count else "")
    columns = []
    for metric in about["metrics"]:
        values = [experiments.value({"value": metric}, places(name, run)[seed]) for seed in finished]
        columns.append(f"{number(statistics.fmean(values))} ({', '.join(map(number, values))})")
    summaries = list(finished.values())
    time = duration(statistics.fmean(summary["seconds"] for summary in summaries))
    return [
        run,
        distinct(summary["cell"] for summary in summaries),
        seeds,
        *columns,
        distinct(f"{summary['parameters']:,}" for summary in summaries),
        time,
        distinct(processor(summary["machine"]) for summary in summaries),
        "; ".join(goals),
    ]


def distinct(texts: Iterable[str]) -> str:
    """Return the different texts in their order, joined."""
    return "; ".join(dict.fromkeys(texts))


def signatures(name: str) -> list[str]:
    """Return lines with the signatures of sacrebleu of the metrics that the page shows of an experiment."""
    names = [metric.split("/")[1] for metric in read(name)["metrics"] if metric.startswith("test/")]
    found: dict[str, None] = {}
    for run in read(name)["runs"]:
        for place in places(name, run).values():
            file = place / "written" / "test" / "scores.txt"
            for line in file.read_text().splitlines() if file.exists() and experiments.finished(place) else ():
                label, signature = line.split()[0], line.split()[-1]  # chrF has the label chrF2
                if "|" in signature and label.lower().rstrip("0123456789") in names:
                    found[f"{SIGNATURE}{label} `{signature}`."] = None
    return [*found]


def section(file: Path, before: str) -> list[str]:
    """Return the lines of an experiment.

    Args:
        file: file of the experiment.
        before: the section of the existing page; empty if there is none.
    """
    name, about = file.stem, read(file.stem)
    columns = header(about["metrics"])
    lines = ["", f"## {name}", "", experiments.title(file), ""]
    lines += [f"{about['note']}.", ""] if "note" in about else []
    lines += [f"Not run yet with these settings: {about['pending']}.", ""] if "pending" in about else []
    lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    # Rows and signatures of the existing page apply if its table has the same columns.
    old = before.splitlines() if lines[-2] in before.splitlines() and "pending" not in about else []
    kept = {line.split(" | ")[0].removeprefix("| "): line for line in old if line.startswith("| ")}
    for run in about["runs"]:
        here = any(map(experiments.finished, places(name, run).values()))
        lines.append(kept[run] if run in kept and not here else f"| {' | '.join(row(name, run))} |")
    signed = signatures(name) or [line for line in old if line.startswith(SIGNATURE)]
    lines += ["", *signed] if signed else []
    if about["published"]:
        lines += ["", "Published:", ""]
        lines += [
            f"- {one['result']}: {one['model']}. Convention: {one['convention']}. Source: {one['source']}."
            for one in about["published"]
        ]
    return lines


def table(before: str = "") -> str:
    """Return the page of all experiments.

    Args:
        before: the existing page; rows of runs without finished seeds here are copied from it.
    """
    sections = experiments.sections(before)
    lines = [
        "# Results",
        "",
        "This page lists recipes that train on a CPU, the scores that they reach, and published numbers.",
        "`make results` runs the recipes and writes this page. The recipes are in `conf/experiment/results`.",
        "",
        "- A goal applies to the mean over the seeds. Goals that are not met are shown too, as **no**.",
        "- The scores are those of the checkpoint with the best score on the validation set.",
        "- The training time is that of one run with one thread, without evaluations. Most runs shared the processor",
        "  with others; alone, they take less time.",
        "- A published number is comparable only if it has the same split, tokenisation and metric.",
        "  Otherwise it shows the order of magnitude.",
    ]
    for file in experiments.files(GROUP):
        lines += section(file, sections.get(file.stem, ""))
    return "\n".join(lines) + "\n"


def chosen(names: list[str], long: bool) -> list[tuple[str, str, list[str], int]]:
    """Return the runs to train as ``(name, run, overrides, seed)``, by seed, so that each run has a result early."""
    known = names or [file.stem for file in experiments.files(GROUP)]
    found = [
        (name, run, overrides(name, run), seed)
        for name in known
        for run in read(name)["runs"]
        if long or not is_long(name, run)
        for seed in seeds_of(name, run)
    ]
    return sorted(found, key=lambda one: (known.index(one[0]), one[3]))


def main(arguments: list[str]) -> None:
    """Run the named experiments and write the page."""
    names, options = experiments.arguments(GROUP, arguments)
    runs = chosen(names, options["long"] == "true")
    if left_out := len(chosen(names, long=True)) - len(runs):
        print(f"{left_out} runs that take hours are left out; long=true trains them")
    experiments.train_all(GROUP, runs, int(options["jobs"]))
    page = Path(options["out"])
    page.write_text(table(page.read_text() if page.exists() else ""))
    print(f"Written: {page}")


if __name__ == "__main__":
    main(sys.argv[1:])
