"""Measure the kernels of a GPU: the parts of ``gpu_check.sh`` that are written in Python.

    python scripts/gpu_check.py PART [folder=runs/gpu_check] [device=cuda] [seconds=150] [sizes=256x64x128,...]
                                [cells=lstm,...] [steps=300]

PART is ``compile`` (compile all kernels in parallel, so that no later part waits for it), ``measure`` (times, memory
and errors), ``train`` (tokens a second of the default training) or ``report`` (tables, and the goals). ``compile`` and
``measure`` append to FOLDER/results.jsonl, which ``report`` reads. ``device=cpu`` with ``TRITON_INTERPRET=1`` runs the
same code in Triton's interpreter.

The ways to run a cell: ``torch.nn`` (cuDNN); ``whole``, one kernel for all time steps; ``per step``, kernels for every
time step; ``recorded``, operations of PyTorch compiled and recorded as a CUDA graph.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnnlab import cells, engine
from rnnlab.cells import Cell
from rnnlab.engine import traced
from rnnlab.engine.gpu.emit import Source
from rnnlab.engine.gpu.fit import fits
from rnnlab.engine.gpu.kernel import COLUMNS, Kernel
from rnnlab.engine.reference import precision as word_of
from rnnlab.layers import Recurrent

CELLS = "lstm,gru,rnn,peephole,layernorm_lstm,mingru"
SIZES = "256x64x128,256x64x512,256x64x256,256x16x64,256x64x1024,256x256x256,256x1x64,256x16x1024"
"""T x B x H, the most informative first: `measure` stops when its time is over."""
RECORDED = 2
"""Number of sizes at which cells are also recorded: compiling operations takes half a minute."""
PRECISIONS = ("ieee", "tf32", "bf16")
WAYS = {"whole": 0, "per step": COLUMNS}
COMPARED = 64
"""Number of time steps over which results are compared with float64."""
CALLS = 4
"""Number of calls that are timed together, one after another without waiting, as in training."""
WORKERS = 14


class Switched(Kernel):
    """Kernels of one way, which can change from call to call."""

    way: int | None = None

    def source(self, name: str, precision: str) -> Source:
        """Return the kernels of a function in the way that is switched on for all cells; None chooses."""
        self.columns = Switched.way
        return super().source(name, precision)

    def possible(self, precision: str) -> bool:
        """Whether a way is one of its own for this step, and its weights fit on the chip."""
        sources = [self.source(name, precision) for name in self.arrays]
        if Switched.way:
            return all(source.per_step for source in sources)
        # float32 numbers take the same memory in both precisions; their multiplications may be slow.
        return all(fits(source, "tf32" if precision == "ieee" else precision, self.device) for source in sources)


class Case(NamedTuple):
    """A cell and a size."""

    cell: str
    size: str
    device: str

    def layer(self, kernel: type[Kernel] | None, backend: str = "fused") -> Recurrent:
        """Return the layer, run by this class of kernels; None for recorded operations."""
        torch.manual_seed(0)
        width = int(self.size.split("x")[2])
        cell = cells.create(self.cell, input_size=width, hidden_size=width).to(self.device)
        Switched.way = None  # a step is tried when it is traced, and may not run in every way
        if kernel is None:
            traced.KERNELS.pop(self.device, None)
        else:
            traced.KERNELS[self.device] = kernel
        return Recurrent(cell, backend)

    def inputs(self, steps: int | None = None) -> Tensor:
        """Return random inputs ``[T, B, H]``, of this number of steps at most."""
        torch.manual_seed(1)
        inputs = torch.randn(*map(int, self.size.split("x")))[:steps]
        return inputs.to(self.device).requires_grad_()


@contextmanager
def rounding(device: str, precision: str) -> Iterator[None]:
    """Return a context in which matrix products have a precision."""
    torch.set_float32_matmul_precision("highest" if precision == "ieee" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "ieee"
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        yield


def infer(layer: Recurrent, inputs: Tensor) -> Tensor:
    """Return the outputs, without gradients."""
    with torch.no_grad():
        return layer(inputs)[0]


def train(layer: Recurrent, inputs: Tensor) -> Tensor:
    """Return the outputs, and leave gradients in the inputs and the parameters."""
    layer.zero_grad(set_to_none=True)
    inputs.grad = None
    outputs = layer(inputs)[0]
    torch.autograd.backward(outputs, torch.ones_like(outputs))
    return outputs


def wait(device: str) -> None:
    """Wait until the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(function: Callable[[], Any], device: str, rounds: int = 5) -> float:
    """Return the median time of a call, after three calls: the second records, see `rnnlab.engine.gpu.graphs`."""
    calls, rounds, warm = (CALLS, rounds, 3) if device == "cuda" else (1, 1, 0)
    for _ in range(warm):
        function()
    found = []
    for _ in range(rounds):
        wait(device)
        start = perf_counter()
        for _ in range(calls):
            function()
        wait(device)
        found.append((perf_counter() - start) / calls)
    return statistics.median(found)


def peak_of(function: Callable[[], Any], device: str) -> float:
    """Return the most memory that a call takes, in MiB; 0 on a CPU."""
    if device == "cpu":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def results_of(layer: Recurrent, inputs: Tensor) -> list[Tensor]:
    """Return the outputs, and the gradients of inputs and parameters."""
    outputs = train(layer, inputs)
    return [outputs.detach(), inputs.grad, *(parameter.grad for parameter in layer.parameters())]


def errors(found: list[Tensor], truth: list[Tensor]) -> tuple[float, float]:
    """Return the largest error of the outputs and of the gradients, relative to a tensor's largest magnitude."""
    each = [
        ((a.double() - b).abs().max() / b.abs().max()).item()
        for a, b in zip(found, truth, strict=True)
        if b is not None
    ]
    return each[0], max(each[1:])


def measured(layer: Recurrent, case: Case, precision: str, truth: list[Tensor]) -> dict[str, float]:
    """Return microseconds a step, memory and errors of a layer."""
    inputs, steps = case.inputs(), int(case.size.split("x")[0])
    with rounding(case.device, precision):
        output_error, gradient_error = errors(results_of(layer, case.inputs(COMPARED)), truth)
        return {
            "inference": 1e6 * seconds_of(lambda: infer(layer, inputs), case.device) / steps,
            "training": 1e6 * seconds_of(lambda: train(layer, inputs), case.device) / steps,
            "peak": peak_of(lambda: train(layer, inputs), case.device),
            "output error": output_error,
            "gradient error": gradient_error,
        }


def attempt(row: dict[str, Any], folder: str, measure: Callable[[], dict[str, Any]]) -> None:
    """Add measurements, or the reason why there are none, to a row, and store and print it."""
    start = perf_counter()
    try:
        row |= measure()
    except Exception as error:
        row["problem"] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:200]
    row["took"] = round(perf_counter() - start, 2)
    line = json.dumps({key: float(f"{one:.4g}") if isinstance(one, float) else one for key, one in row.items()})
    print(line, flush=True)
    with Path(folder, "results.jsonl").open("a") as file:
        file.write(f"{line}\n")


def automatic(cell: Cell, case: Case, precision: str) -> str:
    """Return the way in which ``backend="auto"`` runs a cell."""
    Switched.way = None
    with rounding(case.device, precision):
        name = engine.choose(cell).name
        if name != "fused":
            return "torch.nn" if name == "native" else name
        kernel = engine.fused.traced(cell).kernel
        if kernel is None:
            return "recorded"
        return "per step" if kernel.launches_per_step(word_of(torch.device(case.device), torch.float32)) else "whole"


def measure_case(job: tuple[Case, bool, str]) -> None:
    """Measure all ways and precisions of a cell at a size."""
    case, is_recorded, folder = job
    double = case.layer(Switched, "reference").double()
    truth = results_of(double, case.inputs(COMPARED).detach().double().requires_grad_())
    layer = case.layer(Switched)
    native = case.layer(Switched, "native") if layer.cell.native() is not None else None
    for precision in PRECISIONS:
        row = {"part": "measure", "cell": case.cell, "size": case.size, "precision": precision}
        row["auto"] = automatic(layer.cell, case, precision)
        if native is not None:
            attempt({**row, "way": "torch.nn"}, folder, partial(measured, native, case, precision, truth))
        for way in possible(layer, case, precision):
            attempt({**row, "way": way}, folder, partial(measured, layer, case, precision, truth))
    if is_recorded:
        recorded, row = case.layer(None), {"part": "measure", "cell": case.cell, "size": case.size}
        row |= {"precision": "ieee", "way": "recorded", "auto": "-"}
        attempt(row, folder, partial(measured, recorded, case, "ieee", truth))


def possible(layer: Recurrent, case: Case, precision: str) -> Iterator[str]:
    """Switch to each way that a layer can run in, and return its name."""
    kernel = engine.fused.traced(layer.cell).kernel
    if kernel is None:
        raise RuntimeError(f"{case.cell} is not compiled; the log says why")
    for way, columns in WAYS.items():
        Switched.way = columns
        if kernel.possible(precision):
            yield way


def compile_case(job: tuple[Case, bool, str]) -> None:
    """Compile the kernels of a cell for a size, in all ways and precisions; store the seconds of the first use."""
    case, is_recorded, folder = job
    torch.set_num_threads(1)
    wait(case.device)
    torch.ones(16, 16, device=case.device) @ torch.ones(16, 16, device=case.device)  # start the device and its library
    row = {"part": "compile", "cell": case.cell, "size": case.size}

    def use(layer: Recurrent) -> dict[str, Any]:
        inputs = case.inputs(3)
        train(layer, inputs)
        infer(layer, inputs)
        wait(case.device)
        return {}

    if is_recorded:
        attempt({**row, "way": "recorded"}, folder, lambda: use(case.layer(None)))
        return
    with rounding(case.device, "ieee"):
        attempt({**row, "way": "auto"}, folder, lambda: use(case.layer(Kernel)))
    layer = case.layer(Switched)
    for precision in PRECISIONS:
        with rounding(case.device, precision):
            for _ in possible(layer, case, precision):
                use(layer)


def cases(sizes: str, names: str, device: str) -> list[tuple[Case, bool]]:
    """Return all cases, and whether they are recorded as well: these first, then one cell after another."""
    ordered, every = sizes.split(","), names.split(",")
    first, rest = ordered[:RECORDED], ordered[RECORDED:]
    found = [(Case(name, size, device), True) for size in first for name in every]
    return found + [(Case(name, size, device), False) for name in every for size in rest]


def compile_all(found: list[tuple[Case, bool]], folder: str, end: float) -> None:
    """Compile the kernels of all cases in parallel; the slowest compilations start first."""
    jobs = [(case, True, folder) for case, is_recorded in found if is_recorded]
    jobs += [(case, False, folder) for case, _ in found]
    in_processes(compile_case, jobs, min(WORKERS, os.cpu_count() or 1), 4, end)


def measure_all(found: list[tuple[Case, bool]], folder: str, end: float) -> None:
    """Measure all cases, one after another, as long as there is time."""
    in_processes(measure_case, [(case, is_recorded, folder) for case, is_recorded in found], 1, 12, end)


def in_processes(work: Callable[[Any], None], jobs: list[Any], workers: int, each: int, end: float) -> None:
    """Do jobs in other processes, a few in each: after an invalid access a process can do no more on a GPU."""
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=each) as pool:
        done = pool.imap_unordered(work, jobs)
        for number in range(len(jobs)):
            try:
                done.next(timeout=max(0.1, end - monotonic()))
            except multiprocessing.TimeoutError:
                print(f"time is over; {len(jobs) - number} of {len(jobs)} cases are missing")
                return
            except Exception as error:
                print(f"a case failed: {type(error).__name__}: {error}", flush=True)


def train_all(device: str, steps: str) -> None:
    """Run the default training in every precision, and print tokens a second."""
    for precision in ("fp32", "tf32", "bf16"):
        with tempfile.TemporaryDirectory() as folder:
            options = {"trainer.device": device, "trainer.precision": precision, "trainer.steps": steps}
            options |= {"trainer.eval_every": steps, "logger.progress": "false", "run_dir": f"{folder}/run"}
            command = [sys.executable, "-m", "rnnlab", "train", *(f"{key}={one}" for key, one in options.items())]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{precision}: exit {done.returncode}: {done.stderr.strip()[-1000:]}")
                continue
            lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
            speeds = [line["tokens_per_second"] for line in lines if line["split"] == "train"]
            loss = next(line["loss"] for line in lines if line["split"] == "test")
            backend = next(line for line in done.stdout.splitlines() if line.startswith("backend"))
            print(f"{precision}: {statistics.median(speeds):.0f} tokens a second, test loss {loss:.3f}; {backend}")


def main(part: str, **options: str) -> None:
    """Run a part."""
    given = {"folder": "runs/gpu_check", "device": "cuda", "seconds": "150", "sizes": SIZES, "cells": CELLS}
    given |= {"steps": "300"} | options
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    end, folder = monotonic() + float(given["seconds"]), given["folder"]
    Path(folder).mkdir(parents=True, exist_ok=True)
    if part == "train":
        train_all(given["device"], given["steps"])
    elif part == "report":
        import gpu_report  # beside this file

        gpu_report.report(Path(folder, "results.jsonl"), given["device"])
    else:
        every = {"compile": compile_all, "measure": measure_all}[part]
        every(cases(given["sizes"], given["cells"], given["device"]), folder, end)


if __name__ == "__main__":
    if not sys.argv[1:] or not all("=" in argument for argument in sys.argv[2:]):
        raise SystemExit(__doc__)
    main(sys.argv[1], **dict(argument.split("=", 1) for argument in sys.argv[2:]))
