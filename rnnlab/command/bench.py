"""``rnnlab bench``: the speed of cells."""

from __future__ import annotations

from dataclasses import dataclass

from rnnlab.command import options
from rnnlab.command.options import option

SYNOPSIS = (("bench [key=value ...]", "measure the time of a training step and of inference, as ratios"),)
NOTES = (
    "rnnlab bench --all measures every built-in cell, as backend=auto runs it, over its floor; it takes "
    "sizes=64x32x128, threads, rounds and device."
)


@dataclass
class Options:
    """Options of the command."""

    cells: str = option("rnn,lstm,gru", "names, with options in brackets: cells='gru,gru(reset=before),my_cells:Mine'")
    sizes: str = option(
        "64x32x128,128x64x256,512x16x256,100x1x256,128x64x512",
        "steps x batch x hidden size; the inputs are as wide as the state",
        "64x32x128,...",
    )
    backend: str = option("fused", "how the layer is run: auto, reference, fused, scan, native")
    threads: int = option(1, "of torch, and of JAX")
    rounds: int = option(7, "how often each contender is timed")
    device: str = option("cpu", "or cuda")
    out: str = option("bench", "results go to OUT.json and OUT.png, or OUT-2 if they exist; out= writes none")
    lengths: bool = option(False, "sequences of random lengths, which torch.nn takes packed")
    first_use: bool = option(False, "also the cost of the first use of a cell")
    memory: bool = option(False, "also the peak memory of a training step")


@dataclass
class AllOptions:
    """Options of ``rnnlab bench --all``."""

    sizes: str = option("64x32x128", "steps x batch x hidden size")
    threads: int = option(1, "of torch")
    rounds: int = option(7, "how often each contender is timed")
    device: str = option("cpu", "or cuda")


def run(arguments: list[str]) -> int:
    """Measure cells against the floor of their matrix products and against peers."""
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
    """Measure each built-in cell, by the backend that ``auto`` chooses, against its floor."""
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
