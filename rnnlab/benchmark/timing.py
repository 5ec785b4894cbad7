"""Measure interleaved times, the cost of the first use, and peak memory."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from rnnlab import cells
from rnnlab.benchmark.contenders import Contender, Missing, native, of_layer, work_of
from rnnlab.benchmark.floor import products
from rnnlab.benchmark.peers import CONTENDERS
from rnnlab.benchmark.settings import KINDS, Candidate, Settings, Size
from rnnlab.layers import Recurrent
from rnnlab.training.device import pick_device


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set the number of torch's threads in this context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def same_precision() -> Iterator[None]:
    """Let cuDNN round float32 products only if `torch.set_float32_matmul_precision` lets all other products, too."""
    is_rounded = torch.get_float32_matmul_precision() != "highest"
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=is_rounded):
        yield


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_of(contender: Contender, kind: str, inputs: Tensor) -> float:
    """Return the time of one call in seconds; gradients are cleared before it and not timed."""
    inputs.grad = None
    if contender.module is not None:
        contender.module.train(kind == "training").zero_grad(set_to_none=True)
    function = getattr(contender, kind)
    _wait(inputs.device)
    started = perf_counter()
    function()
    _wait(inputs.device)
    return perf_counter() - started


def measure(candidate: Candidate, size: Size, settings: Settings) -> dict[str, Any]:
    """Time a cell, its floor and its peers at one size.

    After a warm-up every contender is timed once in each round, so that other load on the machine affects all of them.
    Their order is drawn for each round, because the contender before decides what is in the cache.

    Returns:
        cell, backend, T, B, H; products (see `Products`); seconds, by contender (``floor``, ``ours`` and the peers) and
        kind, one for every round; and missing, the reason for every contender that could not be measured.
    """
    torch.manual_seed(0)
    device = pick_device(settings.device)
    work = work_of(candidate.create(size.hidden_size), size, settings.threads, device, settings.lengths)
    ours = Recurrent(work.cell, settings.backend)
    contenders, missing = [], {}
    for name in ("floor", "ours", *settings.peers):
        try:
            contender = of_layer("ours", ours, work) if name == "ours" else CONTENDERS[name](work)
            for kind in KINDS:
                time_of(contender, kind, work.inputs)
            contenders.append(contender)
        except Missing as reason:
            missing[name] = str(reason)
        except Exception as error:
            if name not in ("torchrecurrent", "jax"):
                raise
            missing[name] = f"it fails with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    seconds = {contender.name: {kind: [] for kind in KINDS} for contender in contenders}
    order = random.Random(0)
    for _ in range(settings.rounds):
        for kind in KINDS:
            for contender in order.sample(contenders, len(contenders)):
                seconds[contender.name][kind].append(time_of(contender, kind, work.inputs))
    return {
        "cell": candidate.label,
        "backend": ours.choice.name,
        **dict(zip("TBH", size, strict=True)),
        "products": products(work.cell, work.inputs)._asdict() if "floor" in seconds else None,
        "seconds": seconds,
        "missing": missing,
    }


def first_use(candidate: Candidate, size: Size, settings: Settings) -> dict[str, Any]:
    """Measure the extra seconds of a process's first training step, including the construction of the cell.

    The imports of torch and rnnlab are not counted.

    Returns:
        cell, T, B, H; cold: with an empty cache of compiled steps; cached: with the libraries compiled before;
        reference: with the reference loop, which compiles nothing, as a measure of torch's own initialisation.
    """
    found = {"cell": candidate.label, **dict(zip("TBH", size, strict=True))}
    with tempfile.TemporaryDirectory(prefix="rnnlab-bench-") as cache:
        for name, backend in (("cold", settings.backend), ("cached", settings.backend), ("reference", "reference")):
            job = _job("first_use", candidate, size, settings, backend)
            found[name] = _in_fresh_process(job, {"RNNLAB_CACHE": cache, "TRITON_CACHE_DIR": cache})
    return found


def memory(candidate: Candidate, size: Size, settings: Settings) -> dict[str, Any]:
    """Measure the peak memory of a training step in bytes, beyond weights, inputs and torch itself.

    Returns:
        cell, T, B, H; ours, in bytes; and torch.nn, in bytes, None if it has no such layer.

    Raises:
        Missing: peak memory cannot be measured on this system.
    """
    if pick_device(settings.device).type == "cpu" and not os.access("/proc/self/clear_refs", os.W_OK):
        raise Missing("peak memory on a CPU is read from /proc/self, which needs Linux; it was not measured")
    found = {"cell": candidate.label, **dict(zip("TBH", size, strict=True)), "torch.nn": None}
    # Freed memory must return to the system at once; otherwise the next step would reuse it without raising the peak.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    with tempfile.TemporaryDirectory(prefix="rnnlab-bench-") as cache:
        found["ours"] = _in_fresh_process(
            _job("memory", candidate, size, settings, settings.backend), {"RNNLAB_CACHE": cache, **malloc}
        )
    if candidate.create(size.hidden_size).native() is not None:
        found["torch.nn"] = _in_fresh_process(_job("memory", candidate, size, settings, "torch.nn"), malloc)
    return found


def _job(what: str, candidate: Candidate, size: Size, settings: Settings, backend: str) -> dict[str, Any]:
    return {
        "what": what,
        "candidate": candidate,
        "size": size,
        "backend": backend,
        "threads": settings.threads,
        "device": settings.device,
    }


def _in_fresh_process(job: dict[str, Any], environment: dict[str, str]) -> float:
    """Return the result of `_do` for ``job`` in a new process."""
    code = "import json, sys; path, job = json.loads(sys.argv[1]); sys.path[:] = path; "
    code += "from rnnlab.benchmark.timing import _do; print(_do(job))"
    command = [sys.executable, "-P", "-c", code, json.dumps([sys.path, job])]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(f"a process for {job} failed:\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def _do(job: dict[str, Any]) -> float:
    """Perform a measurement that needs a new process."""
    candidate, size, device = Candidate(*job["candidate"]), Size(*job["size"]), pick_device(job["device"])
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    return {"first_use": _first_use, "memory": _peak}[job["what"]](candidate, size, device, job)


def _first_use(candidate: Candidate, size: Size, device: torch.device, job: dict[str, Any]) -> float:
    cells.find(candidate.name)  # the import is not timed
    started = perf_counter()
    layer = Recurrent(candidate.create(size.hidden_size), job["backend"])
    taken = perf_counter() - started
    work = work_of(layer.cell, size, job["threads"], device)
    contender = of_layer("ours", layer, work)
    taken += time_of(contender, "training", work.inputs)
    return taken - statistics.median(time_of(contender, "training", work.inputs) for _ in range(5))


def _peak(candidate: Candidate, size: Size, device: torch.device, job: dict[str, Any]) -> float:
    cell = candidate.create(size.hidden_size).to(device)
    module = native(cell) if job["backend"] == "torch.nn" else Recurrent(cell, job["backend"])
    # A warm-up on two steps loads code and starts threads.
    short = work_of(cell, size._replace(steps=min(2, size.steps)), job["threads"], device)
    time_of(of_layer("short", module, short), "training", short.inputs)
    work = work_of(cell, size, job["threads"], device)
    contender = of_layer("whole", module, work)
    module.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        contender.training()
        return torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present value
    before = _resident_peak()
    contender.training()
    return _resident_peak() - before


def _resident_peak() -> int:
    """Return the peak resident memory of this process in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])
