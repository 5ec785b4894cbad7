"""How fast cells run: their time over that of their matrix products alone, and against other ways of running them.

The *floor* of a cell is the time of the products that no way of running it can do without, measured in the same
process: one input projection over all steps, the products of T steps forward and of T steps backward, and one product
each for the gradients of U, W and the inputs. Which products these are is read off the cell itself.

The *peers* are other ways to the same outputs and gradients: ``torch.nn``'s layer; ``naive``, a loop over the steps
with autograd; ``torchrecurrent``'s layer; and a loop under ``jax.lax.scan``, compiled by JAX. One that cannot take part
is named, with the reason.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rnnlab import __version__, cells, engine, files
from rnnlab.cells import Cell
from rnnlab.cells.classic.gru import GRU
from rnnlab.cells.classic.lstm import LSTM
from rnnlab.cells.classic.rnn import RNN
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent, Stack, to_torch
from rnnlab.training.device import machine, pick_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PEERS = ("torch.nn", "naive", "torchrecurrent", "jax")
KINDS = ("training", "inference")
"""A training step: forward and backward, the gradient of the outputs given. Inference: forward, nothing kept."""

Say = Callable[[str], None]


class Missing(Exception):
    """A peer, or the floor, cannot take part; the message says why."""


class Candidate(NamedTuple):
    """A cell to measure: what it is called in the tables, its name for `rnnlab.cells.create`, and its options."""

    label: str
    name: str
    options: dict[str, Any]

    def create(self, hidden_size: int) -> Cell:
        """The cell, its inputs as wide as its state."""
        return cells.create(self.name, input_size=hidden_size, hidden_size=hidden_size, **self.options)


class Size(NamedTuple):
    """T, B and H; the inputs are ``[T, B, H]`` too."""

    steps: int
    batch_size: int
    hidden_size: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


@dataclass(frozen=True)
class Settings:
    """What to measure.

    candidates, sizes: every cell is measured at every size.
    backend: of our layer, one of `rnnlab.engine.BACKENDS`.
    threads: how many torch may use, and JAX.
    rounds: how often each contender is timed.
    device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``.
    peers: which of `PEERS` to measure besides.
    first_use: also how much longer the first training step takes, in fresh processes.
    memory: also the peak memory of a training step, in fresh processes.

    Raises:
        InputError: a number is below 1, there is no such device, or the backend cannot run one of the cells.
    """

    candidates: tuple[Candidate, ...]
    sizes: tuple[Size, ...]
    backend: str = "fused"
    threads: int = 1
    rounds: int = 7
    device: str = "cpu"
    peers: tuple[str, ...] = PEERS
    first_use: bool = False
    memory: bool = False

    def __post_init__(self) -> None:
        for name in ("threads", "rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}; it must be a whole number, at least 1")
        pick_device(self.device)
        for candidate in self.candidates:  # before anything is measured, which takes minutes
            engine.choose(candidate.create(self.sizes[0].hidden_size), self.backend)


def read_cells(text: str) -> list[tuple[str, str, list[str]]]:
    """``"gru,gru(reset=before)"`` as ``[("gru", "gru", []), ("gru(reset=before)", "gru", ["reset=before"])]``.

    Raises:
        InputError: it is not such a list.
    """
    found = []
    for item in re.split(r",(?![^(]*\))", text):  # at commas outside brackets
        parts = re.fullmatch(r"([^\s(),=]+)(?:\(([^()]*)\))?", item.strip())
        options = [option.strip() for option in parts[2].split(",")] if parts and parts[2] else []
        if not parts or not all("=" in option for option in options):
            raise InputError(
                f"cannot read the cell {item!r}; give names, as in cells='gru,gru(reset=before),mine:Cell'"
            )
        found.append((item.strip(), parts[1], options))
    return [cell for i, cell in enumerate(found) if cell not in found[:i]]


def read_sizes(text: str) -> tuple[Size, ...]:
    """``"64x32x128,100x1x256"`` as sizes.

    Raises:
        InputError: it is not such a list.
    """
    found = []
    for item in text.split(","):
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", item.strip()):
            raise InputError(f"cannot read the size {item!r}; give steps x batch x hidden size, as in sizes=64x32x128")
        found.append(Size(*map(int, item.split("x"))))
    return tuple(dict.fromkeys(found))


class Products(NamedTuple):
    """The products of a cell over a sequence, each ``[rows, inner]`` with ``[inner, outer]``.

    whole: those over all steps at once, as (rows, inner, outer).
    steps: those of every step, likewise.
    """

    whole: list[tuple[int, int, int]]
    steps: list[tuple[int, int, int]]


class _Products(TorchDispatchMode):
    """Notes the shapes of the products that reach torch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, int, int]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports torch's compiler at the first use, which takes seconds

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            left, right = args[-2:]
            self.found.append((*left.shape, right.shape[1]))
        return function(*args, **(kwargs or {}))


def products(cell: Cell, inputs: Tensor) -> Products:
    """The products that running ``cell`` over ``inputs`` ``[T, B, F]`` cannot do without.

    Raises:
        Missing: its step cannot be traced.
    """
    try:
        engine.choose(cell, "fused")
    except InputError as error:
        raise Missing(f"the products of a step are unknown: {error}") from error
    with torch.no_grad(), _Products() as noted:
        cell.prepare(inputs)
    steps = []
    for product in engine.fused.traced(cell).back.products:
        outer, inner = product.weight.shape if product.transposed else product.weight.shape[::-1]
        steps.append((product.rows.shape[0] * inputs.shape[1] // 2, inner, outer))  # it was traced on two rows
    return Products(noted.found, steps)


class Contender(NamedTuple):
    """One way to the same outputs and gradients.

    name: what it is called.
    module: what is put into training or evaluation before it is timed, and whose gradients are cleared.
    training: does a training step and returns the gradient of the inputs.
    inference: returns the outputs.
    """

    name: str
    module: nn.Module | None
    training: Callable[[], Any]
    inference: Callable[[], Any]


class Work(NamedTuple):
    """What every contender gets: the cell, inputs ``[T, B, F]``, the gradient of the outputs, and threads."""

    cell: Cell
    inputs: Tensor
    upstream: Tensor
    threads: int


def _work(cell: Cell, size: Size, threads: int, device: torch.device) -> Work:
    inputs = torch.randn(*size, device=device, requires_grad=True)
    upstream = torch.randn(*size[:2], cell.output_size, device=device)
    return Work(cell.to(device), inputs, upstream, threads)


def _floor(work: Work) -> Contender:
    found = products(work.cell, work.inputs)
    if not found.whole and not found.steps:
        raise Missing(f"{type(work.cell).__name__} does no matrix product")
    forward, backward = [], []
    for number, (rows, inner, outer) in enumerate([*found.whole, *found.steps]):
        times = 1 if number < len(found.whole) else len(work.inputs)
        # All memory is taken here. Random numbers, as what was never written to may be faster to multiply.
        shapes = [(times * rows, inner), (outer, inner), (times * rows, outer)]
        left, weight, result = (work.upstream.new_empty(shape).normal_() for shape in shapes)
        of_left, of_weight = left.new_empty(rows, inner), torch.empty_like(weight)
        forward += [(a, weight.t(), c) for a, c in zip(left.split(rows), result.split(rows), strict=True)]
        backward += [(c, weight, of_left) for c in result.split(rows)]
        backward.append((result.t(), left, of_weight))

    def multiply(triples: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        with torch.no_grad():
            for a, b, out in triples:
                torch.mm(a, b, out=out)

    return Contender("floor", None, lambda: multiply(forward + backward), lambda: multiply(forward))


def _module(name: str, module: nn.Module, work: Work) -> Contender:
    """A layer of torch: ``module(inputs) -> (outputs, state)``."""
    plain = work.inputs.detach()

    def training() -> Tensor:
        outputs, _ = module(work.inputs)
        torch.autograd.backward(outputs, work.upstream)
        return work.inputs.grad

    def inference() -> Tensor:
        with torch.no_grad():
            return module(plain)[0]

    return Contender(name, module, training, inference)


def _native(cell: Cell) -> nn.Module:
    if cell.native() is None:
        raise Missing(f"torch.nn has no layer for {type(cell).__name__} as configured")
    return to_torch(Stack([Recurrent(cell, "reference")]))


_CALLED = {"peephole": "PeepholeLSTM", "brc": "BR", "nbrc": "NBR"}
"""Cells that torchrecurrent has under another name, in lower case."""


def _torchrecurrent(work: Work) -> Contender:
    package = _installed("torchrecurrent")
    name = type(work.cell).__name__
    layers = {
        key.lower(): value
        for key, value in vars(package).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and not key.endswith("Cell")
    }
    kind = layers.get(_CALLED.get(name.lower(), name).lower())
    if kind is None:
        raise Missing(f"torchrecurrent has no layer called {name}")
    module = kind(work.cell.input_size, work.cell.hidden_size).to(work.inputs.device)
    return _module("torchrecurrent", module, work)


def _jax(work: Work) -> Contender:
    """The cell's equations under ``jax.lax.scan``, with its weights."""
    make = _JAX.get(type(work.cell))
    if make is None:
        raise Missing(f"there is no loop in JAX for {type(work.cell).__name__}")
    # JAX reads these once, when it is first used: its threads cannot be changed later. Nor must it take most of a GPU.
    with _environment(PJRT_NPROC=str(work.threads), XLA_PYTHON_CLIENT_PREALLOCATE="false"):
        jax = _installed("jax")
        try:
            place = jax.devices(work.inputs.device.type)[work.inputs.device.index or 0]
        except (RuntimeError, IndexError):
            raise Missing(f"JAX finds no {work.inputs.device} here") from None

    def there(tensor: Tensor) -> Any:
        return jax.device_put(tensor.detach().cpu().numpy(), place)

    # Transposed, as JAX's own layers hold their weights.
    parameters = {name: there(tensor.t().contiguous()) for name, tensor in work.cell.named_parameters()}
    inputs, upstream = there(work.inputs), there(work.upstream)
    first = tuple(there(state) for state in work.cell.initial_state(work.inputs.shape[1]))

    def forward(parameters: dict[str, Any], inputs: Any) -> Any:
        x = inputs @ parameters["W"] + parameters.get("b", 0.0)
        return jax.lax.scan(make(jax, work.cell, parameters), first, x)[1]

    def loss(parameters: dict[str, Any], inputs: Any, upstream: Any) -> Any:
        return (forward(parameters, inputs) * upstream).sum()

    compiled = jax.jit(forward)
    differentiated = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))

    def training() -> Any:
        _, (_, gradient) = jax.block_until_ready(differentiated(parameters, inputs, upstream))
        return gradient

    def inference() -> Any:
        return compiled(parameters, inputs).block_until_ready()

    return Contender("jax", None, training, inference)


def _jax_rnn(jax: ModuleType, cell: RNN, p: dict[str, Any]) -> Callable:
    activation = jax.numpy.tanh if cell.activation == "tanh" else jax.nn.relu

    def step(state: Any, x: Any) -> Any:
        h = activation(x + state[0] @ p["U"])
        return (h,), h

    return step


def _jax_lstm(jax: ModuleType, cell: LSTM, p: dict[str, Any]) -> Callable:
    sigmoid, tanh = jax.nn.sigmoid, jax.numpy.tanh

    def step(state: Any, x: Any) -> Any:
        h, c = state
        i, f, g, o = jax.numpy.split(x + h @ p["U"], 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return (h, c), h

    return step


def _jax_gru(jax: ModuleType, cell: GRU, p: dict[str, Any]) -> Callable:
    sigmoid, tanh, split = jax.nn.sigmoid, jax.numpy.tanh, jax.numpy.split
    U_rz, U_n = split(p["U"], [2 * cell.hidden_size], axis=1)

    def step(state: Any, x: Any) -> Any:
        (h,) = state
        x_r, x_z, x_n = split(x, 3, axis=-1)
        if cell.reset == "after":
            u_r, u_z, u_n = split(h @ p["U"], 3, axis=-1)
            n = tanh(x_n + sigmoid(x_r + u_r) * (u_n + p.get("b_u", 0.0)))
        else:
            u_r, u_z = split(h @ U_rz, 2, axis=-1)
            n = tanh(x_n + (sigmoid(x_r + u_r) * h) @ U_n)
        z = sigmoid(x_z + u_z)
        h = (1 - z) * n + z * h
        return (h,), h

    return step


_JAX: dict[type[Cell], Callable] = {RNN: _jax_rnn, LSTM: _jax_lstm, GRU: _jax_gru}

_CONTENDERS: dict[str, Callable[[Work], Contender]] = {
    "floor": _floor,
    "torch.nn": lambda work: _module("torch.nn", _native(work.cell), work),
    "naive": lambda work: _module("naive", Recurrent(work.cell, "reference"), work),
    "torchrecurrent": _torchrecurrent,
    "jax": _jax,
}


def _installed(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Missing(f"{name} is not installed; pip install 'rnnlab[bench]' brings it") from None


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables that are set while the context lasts; what the user set stays."""
    own = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in own})
    try:
        yield
    finally:
        for name in own:
            del os.environ[name]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _time(contender: Contender, kind: str, inputs: Tensor) -> float:
    """The seconds that one call takes; what is cleared between calls is no part of it."""
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
    """The times of a cell at a size, of its floor and of its peers.

    Every contender is timed once a round, so that what else the machine does falls on all; each has been warmed up.

    Returns:
        cell, backend, T, B, H; products (see `Products`); seconds, by contender (``floor``, ``ours`` and the peers) and
        kind, a number for every round; and missing, the reason by the name of every contender that cannot take part.
    """
    torch.manual_seed(0)
    work = _work(candidate.create(size.hidden_size), size, settings.threads, pick_device(settings.device))
    ours = Recurrent(work.cell, settings.backend)
    contenders, missing = [], {}
    for name in ("floor", "ours", *settings.peers):
        try:
            contender = _module("ours", ours, work) if name == "ours" else _CONTENDERS[name](work)
            for kind in KINDS:
                _time(contender, kind, work.inputs)
            contenders.append(contender)
        except Missing as reason:
            missing[name] = str(reason)
        except Exception as error:
            if name not in ("torchrecurrent", "jax"):
                raise
            missing[name] = f"it fails with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    seconds = {contender.name: {kind: [] for kind in KINDS} for contender in contenders}
    for _ in range(settings.rounds):
        for kind in KINDS:
            for contender in contenders:
                seconds[contender.name][kind].append(_time(contender, kind, work.inputs))
    return {
        "cell": candidate.label,
        "backend": ours.choice.name,
        **dict(zip("TBH", size, strict=True)),
        "products": products(work.cell, work.inputs)._asdict() if "floor" in seconds else None,
        "seconds": seconds,
        "missing": missing,
    }


def first_use(candidate: Candidate, size: Size, settings: Settings) -> dict[str, Any]:
    """How many seconds longer than later ones a process's first training step takes, making the cell included.

    Importing torch and rnnlab is not counted.

    Returns:
        cell, T, B, H; cold: with an empty cache of compiled steps; cached: again with what was cached; reference: the
        same for the plain loop, which compiles nothing: what torch itself needs to get going.
    """
    found = {"cell": candidate.label, **dict(zip("TBH", size, strict=True))}
    with tempfile.TemporaryDirectory(prefix="rnnlab-bench-") as cache:
        for name, backend in (("cold", settings.backend), ("cached", settings.backend), ("reference", "reference")):
            job = _job("first_use", candidate, size, settings, backend)
            found[name] = _in_fresh_process(job, {"RNNLAB_CACHE": cache})
    return found


def memory(candidate: Candidate, size: Size, settings: Settings) -> dict[str, Any]:
    """The most memory that a training step holds at once, in bytes, beyond weights, inputs and what torch itself takes.

    Returns:
        cell, T, B, H; ours; and torch.nn, None where it has no such layer.

    Raises:
        Missing: it cannot be measured on this system.
    """
    if pick_device(settings.device).type == "cpu" and not os.access("/proc/self/clear_refs", os.W_OK):
        raise Missing("peak memory on the processor is read from /proc/self, as Linux has it; it was not measured")
    found = {"cell": candidate.label, **dict(zip("TBH", size, strict=True)), "torch.nn": None}
    # Memory that is given up shall go back to the system at once: what one step leaves would hide what another takes.
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
    """What `_do` returns for ``job`` in a process of its own."""
    code = "import json, sys; path, job = json.loads(sys.argv[1]); sys.path[:] = path; "
    code += "from rnnlab import benchmark; print(benchmark._do(job))"
    command = [sys.executable, "-P", "-c", code, json.dumps([sys.path, job])]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise RuntimeError(f"a process for {job} failed:\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def _do(job: dict[str, Any]) -> float:
    """Measure something that takes a process that has done nothing else."""
    candidate, size, device = Candidate(*job["candidate"]), Size(*job["size"]), pick_device(job["device"])
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    return {"first_use": _first_use, "memory": _peak}[job["what"]](candidate, size, device, job)


def _first_use(candidate: Candidate, size: Size, device: torch.device, job: dict[str, Any]) -> float:
    cells.find(candidate.name)  # importing it is not counted
    started = perf_counter()
    layer = Recurrent(candidate.create(size.hidden_size), job["backend"])
    taken = perf_counter() - started
    work = _work(layer.cell, size, job["threads"], device)
    contender = _module("ours", layer, work)
    taken += _time(contender, "training", work.inputs)
    return taken - statistics.median(_time(contender, "training", work.inputs) for _ in range(5))


def _peak(candidate: Candidate, size: Size, device: torch.device, job: dict[str, Any]) -> float:
    cell = candidate.create(size.hidden_size).to(device)
    module = _native(cell) if job["backend"] == "torch.nn" else Recurrent(cell, job["backend"])
    # Two steps first, so that code is loaded and threads are started.
    short = _work(cell, size._replace(steps=min(2, size.steps)), job["threads"], device)
    _time(_module("short", module, short), "training", short.inputs)
    work = _work(cell, size, job["threads"], device)
    contender = _module("whole", module, work)
    module.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        contender.training()
        return torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
    before = _resident_peak()
    contender.training()
    return _resident_peak() - before


def _resident_peak() -> int:
    """The most memory that this process has held in RAM, in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


def run(settings: Settings, say: Say = print) -> dict[str, Any]:
    """Measure everything that ``settings`` asks for.

    Args:
        settings: what to measure.
        say: takes the lines of the tables as they are made.

    Returns:
        machine, settings and results (see `measure`), first_use, memory: what is asked for, in plain containers.
    """
    about = describe(settings)
    say(f"{about['processor']}, {about['cores']} cores, torch {about['torch']}, {about['device']}")
    say(f"threads={settings.threads}, float32, inputs as wide as the state; {settings.rounds} rounds, taken in turns")
    say("over floor: our time / that of the matrix products alone. Peers: their time / ours; above 1 ours is faster.")
    table, results = _Table(settings), []
    say(table.heading("medians"))
    with _threads(settings.threads):
        for candidate in settings.candidates:
            for size in settings.sizes:
                results.append(measure(candidate, size, settings))
                say(table.line(results[-1], statistics.median))
            if len(settings.sizes) > 1:
                say(table.means(results[-len(settings.sizes) :], statistics.median))
    say(table.heading("fastest rounds, which noise touches least"))
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
    """The machine: what was measured on, and with."""
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
    """Settings as they go into a file."""
    return {
        **vars(settings),
        "candidates": [candidate._asdict() for candidate in settings.candidates],
        "sizes": [str(size) for size in settings.sizes],
    }


Pick = Callable[[list[float]], float]


def ratio(row: dict[str, Any], above: str, below: str, kind: str, pick: Pick) -> float | None:
    """One contender's time over another's in a row of `measure`; None where one of them is missing.

    Args:
        row: what `measure` returned.
        above: the contender whose time is divided.
        below: the contender whose time it is divided by.
        kind: one of `KINDS`.
        pick: makes one time of those of all rounds: `statistics.median` or `min`.
    """
    seconds = row["seconds"]
    if above not in seconds or below not in seconds:
        return None
    return pick(seconds[above][kind]) / pick(seconds[below][kind])


class _Table:
    """Lines of equal columns: what each row is, the floor, and two ratios for the floor and for every peer."""

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
        """The geometric means over the sizes, of those where the contender is not missing."""
        numbers = ([_mean(ratio(row, *pair, kind, pick) for row in rows) for kind in KINDS] for pair in self.pairs)
        return f"{rows[0]['cell']:<{self.width}}{'geometric mean':<39}" + "".join(map(_two, numbers))


def _mean(ratios: Iterable[float | None]) -> float | None:
    known = [number for number in ratios if number is not None]
    return statistics.geometric_mean(known) if known else None


def _two(numbers: list[float | None]) -> str:
    """The columns of one contender."""
    return f"{'missing':>16}" if None in numbers else f"{numbers[0]:>9.2f}{numbers[1]:>7.2f}"


def _notes(results: list[dict[str, Any]]) -> list[str]:
    """Why something is missing, and what to know of what is not."""
    missing = [(row["cell"], *reason) for row in results for reason in row["missing"].items()]
    notes = [f"{name} is missing for {cell}: {why}" for cell, name, why in dict.fromkeys(missing)]
    if any("jax" in row["seconds"] for row in results):
        notes.append("jax is asked for so many threads by PJRT_NPROC, which it reads once, when it is first used")
    return ["", *notes] if notes else []


def _say_first_use(settings: Settings, width: int, say: Say) -> list[dict[str, Any]]:
    size, found = settings.sizes[0], []
    say(f"\nfirst use: seconds that the first training step takes beyond later ones, in fresh processes, at {size}")
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
    """Raise an InputError if nothing can be written at ``out``; nothing is written.

    Found out before anything is measured, which takes minutes.
    """
    folder = Path(out).expanduser().absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"out={out!r}: {folder} is not a folder that can be written to")


def save(result: dict[str, Any], out: str) -> list[str]:
    """Write ``OUT.json`` and, where matplotlib is installed, the figure ``OUT.png``.

    Nothing is overwritten: where one of them exists, both are called ``OUT-2``, or whatever number is free.

    Returns:
        sentences that say where they lie.
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
            numbers.open("x").close()  # from here on it is ours, whatever other processes do
            break
        except FileExistsError:
            continue
    files.write_json(numbers, result)
    try:
        figure = draw(result)
    except ImportError:
        return [f"Written: {numbers}", "No figure: matplotlib is not installed; pip install 'rnnlab[plots]' brings it"]
    with files.replacing(picture) as file:
        figure.savefig(file, format="png", dpi=150)
    return [f"Written: {numbers} and {picture}"]


def draw(result: dict[str, Any]) -> Figure:
    """The peers' median times over ours: a column of panels for each cell, above training and below inference.

    Args:
        result: what `run` returned.

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
