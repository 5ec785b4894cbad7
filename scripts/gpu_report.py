"""Tables and goals of the measurements of ``gpu_check.py``."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

WAYS = ("torch.nn", "whole", "per step", "recorded")
KINDS = ("inference", "training")
LSTM_PRODUCTS = ("gru", "rnn", "peephole", "layernorm_lstm", "mingru")
"""Cells with at most as many products a step as an LSTM."""

Row = dict[str, Any]


class Ratio(NamedTuple):
    """How many times as fast one way is as another in one case; ``label`` names the case."""

    value: float
    label: str


class Results:
    """All measurements, by cell, size, precision and way."""

    def __init__(self, rows: list[Row]) -> None:
        self.used = [row for row in rows if row["part"] == "compile"]
        self.rows = [row for row in rows if row["part"] == "measure"]
        self.by_case = {self.key(row): row for row in self.rows}

    @staticmethod
    def key(row: Row, **other: str) -> tuple[str, ...]:
        """Return the place of a row, or of the row that differs from it in these columns."""
        return tuple((row | other)[name] for name in ("cell", "size", "precision", "way"))

    def ratios(self, chosen: Callable[[Row], bool], **other: str) -> list[Ratio]:
        """Return how many times as fast as another row each chosen row is."""
        found = []
        for row in filter(chosen, self.rows):
            peer = self.by_case.get(self.key(row, **other), {})
            for kind in KINDS:
                if kind in row and kind in peer:
                    label = f"{row['cell']} {row['size']} {row['precision']} {row['way']} {kind}"
                    found.append(Ratio(peer[kind] / row[kind], label))
        return found

    def goals(self) -> Iterator[tuple[str, float, list[Ratio]]]:
        """Return for each goal its text, the least ratio that it demands, and the ratios of all cases."""
        widths = {"256", "512", "1024"}

        def is_automatic(row: Row) -> bool:
            # Where `auto` prefers torch.nn, the only compiled way counts.
            return row["way"] == row["auto"] or (row["auto"] == "torch.nn" and row["way"] == "per step")

        yield (
            "whole, LSTM where auto chooses it: at least 1.0x cuDNN",
            1.0,
            self.ratios(lambda row: row["cell"] == "lstm" and row["way"] == row["auto"] == "whole", way="torch.nn"),
        )
        yield (
            "whole, other cells: at most 1.5x the time of LSTM",
            1 / 1.5,
            self.ratios(lambda row: row["cell"] in LSTM_PRODUCTS and row["way"] == "whole", cell="lstm"),
        )
        yield (
            "per step, float32, widths 256 to 1024: at least 2x cuDNN",
            2.0,
            self.ratios(
                lambda row: (
                    row["way"] == "per step" and row["precision"] == "ieee" and row["size"].split("x")[2] in widths
                ),
                way="torch.nn",
            ),
        )
        yield (
            "any cell: at least 2x the recorded operations",
            2.0,
            self.ratios(is_automatic, way="recorded"),
        )
        ready = [row for row in self.used if row["way"] == "auto" and "problem" not in row]
        yield (
            "first use: at most 5 s",
            1.0,
            [Ratio(5 / max(row["took"], 1e-9), f"{row['cell']} {row['size']}: {row['took']:.1f} s") for row in ready],
        )


def times(results: Results) -> Iterator[str]:
    """Return the lines of the table of times."""
    yield "microseconds a step, inference / training; input size = hidden size; the products with the inputs included"
    yield f"{'T x B x H':<14}{'cell':<16}{'precision':<11}{'auto':<10}" + "".join(f"{way:>18}" for way in WAYS)
    for cell, size, precision in dict.fromkeys(key[:3] for key in results.by_case):
        found = {way: results.by_case.get((cell, size, precision, way), {}) for way in WAYS}
        auto = next((row["auto"] for way, row in found.items() if row and way != "recorded"), "-")
        columns = (
            "/".join(f"{row[kind]:8.2f}" for kind in KINDS) if "training" in row else "-" for row in found.values()
        )
        yield f"{size:<14}{cell:<16}{precision:<11}{auto:<10}" + "".join(f"{column:>18}" for column in columns)


def extremes(results: Results) -> Iterator[str]:
    """Return the lines of the table of errors and of memory."""
    yield "largest error against float64 relative to a tensor's largest magnitude (outputs, gradients), and most memory"
    for precision, way in dict.fromkeys((row["precision"], row["way"]) for row in results.rows):
        rows = [row for row in results.rows if (row["precision"], row["way"]) == (precision, way) and "peak" in row]
        if rows:
            worst = max(rows, key=lambda row: row["gradient error"])
            outputs, peak = max(row["output error"] for row in rows), max(row["peak"] for row in rows)
            yield (
                f"{precision:<11}{way:<10}{outputs:10.1e}{worst['gradient error']:10.1e}{peak:9.0f} MiB"
                f"   worst: {worst['cell']} {worst['size']}"
            )


def verdicts(results: Results) -> Iterator[str]:
    """Return a line for each goal."""
    for text, least, ratios in results.goals():
        missed = [ratio for ratio in ratios if not ratio.value >= least]  # NaN misses as well
        verdict = "not measured" if not ratios else "FAIL" if missed else "pass"
        yield f"{verdict:<13}{text}: {len(ratios) - len(missed)} of {len(ratios)} cases"
        if ratios:
            worst = min(ratios, key=lambda ratio: ratio.value)
            yield f"{'':<13}least {worst.value:.2f}, demanded {least:.2f}: {worst.label}"


def problems(results: Results) -> Iterator[str]:
    """Return a line for each case that failed."""
    failed = [row for row in [*results.used, *results.rows] if "problem" in row]
    yield f"{len(failed)} failures"
    for row in failed:
        yield f"  {row['part']} {row['cell']} {row['size']} {row.get('precision', '')} {row['way']}: {row['problem']}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def machine(device: str) -> str:
    """Describe the device and the versions of the software."""
    name = torch.cuda.get_device_name() if device == "cuda" else "Triton's interpreter on a CPU"
    software = f"Python {platform.python_version()}, torch {torch.__version__}, Triton {_version('triton')}"
    return f"{name}, {software}, cuDNN {torch.backends.cudnn.version()}"


def report(path: Path, device: str) -> None:
    """Print all tables, the goals last."""
    lines = path.read_text().splitlines() if path.exists() else []
    results = Results([json.loads(line) for line in lines])
    print(machine(device))
    for part in (times, extremes, problems, verdicts):
        print()
        for line in part(results):
            print(line)
