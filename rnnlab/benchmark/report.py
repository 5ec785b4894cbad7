"""Run a benchmark: print tables while it runs, and write files at the end."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rnnlab import __version__, files
from rnnlab.benchmark.contenders import Missing
from rnnlab.benchmark.settings import KINDS, Say, Settings
from rnnlab.benchmark.timing import first_use, measure, memory, same_precision, threads
from rnnlab.interface import InputError
from rnnlab.training.device import machine, pick_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(settings: Settings, say: Say = print) -> dict[str, Any]:
    """Run a benchmark and print its tables.

    Args:
        settings: the settings of the benchmark.
        say: function that prints a line; it is called with each line of the tables as soon as the line is complete.

    Returns:
        plain containers: machine, settings, results (see `measure`), and if requested first_use and memory.
    """
    about = describe(settings)
    say(f"{about['processor']}, {about['cores']} cores, torch {about['torch']}, {about['device']}")
    say(f"threads={settings.threads}, float32, input size = hidden size; {settings.rounds} rounds, interleaved")
    say("over floor: our time / that of the matrix products alone. Peers: their time / ours; above 1, ours is faster.")
    table, results = _Table(settings), []
    say(table.heading("medians"))
    with threads(settings.threads), same_precision():
        for candidate in settings.candidates:
            for size in settings.sizes:
                results.append(measure(candidate, size, settings))
                say(table.line(results[-1], statistics.median))
            if len(settings.sizes) > 1:
                say(table.means(results[-len(settings.sizes) :], statistics.median))
    say(table.heading("fastest rounds, which noise affects least"))
    for start in range(0, len(results), len(settings.sizes)):
        rows = results[start : start + len(settings.sizes)]
        for row in rows:
            say(table.line(row, min))
        if len(rows) > 1:
            say(table.means(rows, min))
    result = {"machine": about, "settings": _plain(settings), "results": results}
    for sentence in _notes(results):
        say(sentence)
    if settings.first_use:
        result["first_use"] = _say_first_use(settings, table.width, say)
    if settings.memory:
        result["memory"] = _say_memory(settings, table.width, say)
    return result


def describe(settings: Settings) -> dict[str, Any]:
    """Describe the machine and the versions of the packages."""
    versions = {}
    for package in ("torchrecurrent", "jax"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        **machine(pick_device(settings.device)),
        "threads": settings.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rnnlab": __version__,
        **versions,
    }


def _plain(settings: Settings) -> dict[str, Any]:
    """Return settings as plain containers for a file."""
    return {
        **vars(settings),
        "candidates": [candidate._asdict() for candidate in settings.candidates],
        "sizes": [str(size) for size in settings.sizes],
    }


Pick = Callable[[list[float]], float]


def ratio(row: dict[str, Any], above: str, below: str, kind: str, pick: Pick) -> float | None:
    """Return one contender's time divided by another's; None if one of them is missing.

    Args:
        row: a result of `measure`.
        above: the contender in the numerator.
        below: the contender in the denominator.
        kind: one of `KINDS`.
        pick: reduces the times of all rounds to one: `statistics.median` or `min`.
    """
    seconds = row["seconds"]
    if above not in seconds or below not in seconds:
        return None
    return pick(seconds[above][kind]) / pick(seconds[below][kind])


class _Table:
    """A table: cell and size, the floor, and the ratios of training and inference for the floor and every peer."""

    def __init__(self, settings: Settings) -> None:
        self.pairs = [("ours", "floor"), *((peer, "ours") for peer in settings.peers)]
        self.width = max(len(candidate.label) for candidate in settings.candidates) + 2

    def heading(self, title: str) -> str:
        groups = "".join(f"{'over floor' if below == 'floor' else above:>16}" for above, below in self.pairs)
        names = f"{'cell':<{self.width}}{'backend':<11}{'T':>6}{'B':>6}{'H':>6}{'floor ms':>10}"
        return f"\n{title + groups.rjust(len(names) + len(groups) - len(title))}\n{names}" + (
            f"{'train':>9}{'infer':>7}" * len(self.pairs)
        )

    def line(self, row: dict[str, Any], pick: Pick) -> str:
        floor = row["seconds"].get("floor")
        time = f"{1e3 * pick(floor['training']):>10.2f}" if floor else f"{'missing':>10}"
        sizes = "".join(f"{row[letter]:>6}" for letter in "TBH")
        numbers = ([ratio(row, *pair, kind, pick) for kind in KINDS] for pair in self.pairs)
        return f"{row['cell']:<{self.width}}{row['backend']:<11}{sizes}{time}" + "".join(map(_two, numbers))

    def means(self, rows: list[dict[str, Any]], pick: Pick) -> str:
        """Return a line of geometric means over the sizes at which a contender is not missing."""
        numbers = ([_mean(ratio(row, *pair, kind, pick) for row in rows) for kind in KINDS] for pair in self.pairs)
        return f"{rows[0]['cell']:<{self.width}}{'geometric mean':<39}" + "".join(map(_two, numbers))


def _mean(ratios: Iterable[float | None]) -> float | None:
    known = [number for number in ratios if number is not None]
    return statistics.geometric_mean(known) if known else None


def _two(numbers: list[float | None]) -> str:
    """Format the two columns of one contender."""
    return f"{'missing':>16}" if None in numbers else f"{numbers[0]:>9.2f}{numbers[1]:>7.2f}"


def _notes(results: list[dict[str, Any]]) -> list[str]:
    """Return the reasons for missing contenders, and remarks on the others."""
    missing = [(row["cell"], *reason) for row in results for reason in row["missing"].items()]
    notes = [f"{name} is missing for {cell}: {why}" for cell, name, why in dict.fromkeys(missing)]
    if any("jax" in row["seconds"] for row in results):
        notes.append("the threads of jax are set by PJRT_NPROC, which jax reads only once, at its first use")
    return ["", *notes] if notes else []


def _say_first_use(settings: Settings, width: int, say: Say) -> list[dict[str, Any]]:
    size, found = settings.sizes[0], []
    say(f"\nfirst use: extra seconds of the first training step over later ones, in new processes, at {size}")
    say(f"{'cell':<{width}}{'cold':>10}{'cached':>10}{'reference':>12}")
    for candidate in settings.candidates:
        found.append(first_use(candidate, size, settings))
        cold, cached, plain = (found[-1][name] for name in ("cold", "cached", "reference"))
        say(f"{candidate.label:<{width}}{cold:>10.3f}{cached:>10.3f}{plain:>12.3f}")
    return found


def _say_memory(settings: Settings, width: int, say: Say) -> list[dict[str, Any]] | None:
    say("\npeak memory of a training step beyond weights and inputs, MB")
    found: list[dict[str, Any]] = []
    for candidate in settings.candidates:
        for size in settings.sizes:
            try:
                found.append(memory(candidate, size, settings))
            except Missing as reason:
                say(str(reason))
                return None
            if len(found) == 1:
                say(f"{'cell':<{width}}{'T':>6}{'B':>6}{'H':>6}{'ours':>10}{'torch.nn':>10}{'torch.nn / ours':>17}")
            ours, native = found[-1]["ours"] / 1e6, found[-1]["torch.nn"]
            line = f"{candidate.label:<{width}}" + "".join(f"{number:>6}" for number in size) + f"{ours:>10.1f}"
            line += f"{'missing':>10}" if native is None else f"{native / 1e6:>10.1f}"
            say(line + (f"{native / 1e6 / ours:>17.2f}" if native and ours else ""))
    return found


def check_out(out: str) -> None:
    """Check that files can be written at ``out``, without writing any. Call this before measuring, which takes minutes.

    Raises:
        InputError: the folder of ``out`` is not writable.
    """
    folder = Path(out).expanduser().absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"out={out!r}: {folder} is not a writable folder")


def save(result: dict[str, Any], out: str) -> list[str]:
    """Write ``OUT.json`` and, if matplotlib is installed, the figure ``OUT.png``.

    Nothing is overwritten: if one of the files exists, both are named ``OUT-2``, or with the next free number.

    Returns:
        sentences that name the files.
    """
    base = Path(out.removesuffix(".json")).expanduser()
    base.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        name = base.name if number == 1 else f"{base.name}-{number}"
        numbers, picture = base.with_name(f"{name}.json"), base.with_name(f"{name}.png")
        number += 1
        if os.path.lexists(picture):
            continue
        try:
            numbers.open("x").close()  # reserves the name among several processes
            break
        except FileExistsError:
            continue
    files.write_json(numbers, result)
    try:
        figure = draw(result)
    except ImportError:
        return [f"Written: {numbers}", "No figure: matplotlib is not installed; use pip install 'rnnlab[plots]'"]
    with files.replacing(picture) as file:
        figure.savefig(file, format="png", dpi=150)
    return [f"Written: {numbers} and {picture}"]


def draw(result: dict[str, Any]) -> Figure:
    """Plot the median times of the floor and the peers divided by ours: one column per cell, training above inference.

    Args:
        result: a result of `run`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(row["cell"] for row in result["results"]))
    sizes = result["settings"]["sizes"]
    figure = Figure(figsize=(2 + 3.2 * len(labels), 6.5), layout="constrained")
    grid = figure.subplots(2, len(labels), sharex=True, sharey="row", squeeze=False)
    for panels, kind in zip(grid, KINDS, strict=True):
        panels[0].set_ylabel(f"{kind}: time / ours")
        for axes, label in zip(panels, labels, strict=True):
            rows = [row for row in result["results"] if row["cell"] == label]
            for i, name in enumerate(("floor", *result["settings"]["peers"])):
                ratios = [ratio(row, name, "ours", kind, statistics.median) for row in rows]
                points = [(place, value) for place, value in enumerate(ratios) if value is not None]
                if points:
                    axes.plot(*zip(*points, strict=True), marker="o", linewidth=1, color=f"C{i}", label=name)
            axes.axhline(1, color="black", linewidth=0.8)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.set_xticks(range(len(sizes)), sizes, rotation=60)
            axes.spines[["top", "right"]].set_visible(False)
    for axes, label in zip(grid[0], labels, strict=True):
        axes.set_title(label)
    handles = {text: line for axes in grid.flat for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    machine, first = result["machine"], result["results"][0]
    figure.suptitle(f"{first['backend']}, threads={machine['threads']}, {machine['processor']}", fontsize="medium")
    return figure
