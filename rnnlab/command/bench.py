"""``rnnlab bench``: measure the speed of cells."""

from __future__ import annotations

from dataclasses import dataclass

from rnnlab.command import options
from rnnlab.command.options import option

SYNOPSIS = (("bench [key=value ...]", "measure training and inference time, relative to the floor and to peers"),)
NOTES = (
    "rnnlab bench --all measures all built-in cells with backend=auto, relative to their floor (the time of the "
    "unavoidable matrix products). Its options are sizes=64x32x128, threads, rounds and device."
)


@dataclass
class Options:
    """Options of the command."""

    cells: str = option("rnn,lstm,gru", "cells, with options in brackets: cells='gru,gru(reset=before),my_cells:Mine'")
    sizes: str = option(
        "64x32x128,128x64x256,512x16x256,100x1x256,128x64x512",
        "steps x batch size x hidden size; the input size equals the hidden size",
        "64x32x128,...",
    )
    backend: str = option("fused", "backend of the cells: auto, reference, fused, scan, native")
    threads: int = option(1, "number of threads for torch and JAX")
    rounds: int = option(7, "number of timings of each cell and each baseline")
    device: str = option("cpu", "device: cpu or cuda")
    out: str = option("bench", "write OUT.json and OUT.png, or OUT-2.* if they exist; out= writes no files")
    lengths: bool = option(False, "use sequences of random lengths, packed for torch.nn")
    first_use: bool = option(False, "also measure the cost of the first use of a cell")
    memory: bool = option(False, "also measure the peak memory of a training step")


@dataclass
class AllOptions:
    """Options of ``rnnlab bench --all``."""

    sizes: str = option("64x32x128", "steps x batch size x hidden size")
    threads: int = option(1, "number of threads for torch")
    rounds: int = option(7, "number of timings of each cell")
    device: str = option("cpu", "device: cpu or cuda")


def run(arguments: list[str]) -> int:
    """Measure cells relative to the floor of their matrix products and to other implementations."""
    if "--all" in arguments:
        return _run_all([argument for argument in arguments if argument != "--all"])
    chosen = options.read(Options, arguments)
    from rnnlab import benchmark, config, lookup

    candidates = []
    for label, name, given in benchmark.read_cells(chosen.cells):
        section = config.compose([f"cell={name}", *(f"cell.{one}" for one in given)])["cell"]
        candidates.append(benchmark.Candidate(label, *lookup.read_section(section)))
    rest = {key: value for key, value in vars(chosen).items() if key not in ("cells", "sizes", "out")}
    settings = benchmark.Settings(tuple(candidates), benchmark.read_sizes(chosen.sizes), **rest)
    if chosen.out:
        benchmark.check_out(chosen.out)
    result = benchmark.run(settings, _print_at_once)
    for sentence in benchmark.save(result, chosen.out) if chosen.out else []:
        print(sentence)
    return 0


def _run_all(arguments: list[str]) -> int:
    """Measure all built-in cells with ``backend=auto``, relative to their floor."""
    chosen = options.read(AllOptions, arguments)
    from rnnlab import benchmark
    from rnnlab import cells as home

    candidates = tuple(benchmark.Candidate(name, name, {}) for name in home.available())
    rest = {key: value for key, value in vars(chosen).items() if key != "sizes"}
    settings = benchmark.Settings(candidates, benchmark.read_sizes(chosen.sizes), backend="auto", peers=(), **rest)
    benchmark.run(settings, _print_at_once)
    return 0


def _print_at_once(line: str) -> None:
    print(line, flush=True)
