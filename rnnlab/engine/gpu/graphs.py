"""Record the kernels of many time steps as CUDA graphs, because launching a kernel takes longer than running it.

`Chunks` records the Triton kernels of one time step, for the steps of any sequence. The rest of this module runs steps
for which there are no Triton kernels: `torch.compile` fuses the operations of a step into few kernels, and the loop
over time with all its kernels is recorded once for every length. If compiling or recording fails, one warning gives the
reason, and the loop runs without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache, partial
from math import inf
from threading import RLock
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from rnnlab.engine.ir import loop
from rnnlab.engine.ir.emit_python import Steps
from rnnlab.engine.ir.loop import Tree
from rnnlab.engine.once import warn_once
from rnnlab.trees import map_state, tensors_of

GRAPHS = 16
"""Largest number of graphs kept at once; each holds the memory of its sequence."""
LONGEST = 4096
"""Largest number of time steps that is recorded: a graph holds every kernel of every step."""


def forward(
    steps: Steps, constants: Sequence[Tensor], inputs: Sequence[Tensor], state: Sequence[Tensor], live: Tensor | None
) -> tuple[Tensor, Tree, Any]:
    """Run the forward step; arguments and results as for `rnnlab.engine.ir.loop.forward`."""
    if inputs[0].device.type not in RECORDERS:
        return loop.forward(steps, constants, inputs, state, live)
    masks = () if live is None else (live,)
    return _run(_forward_of_trees, steps, (tuple(constants), tuple(inputs), tuple(state), masks))


def inference(
    steps: Steps, constants: Sequence[Tensor], inputs: Sequence[Tensor], state: Sequence[Tensor], live: Tensor | None
) -> tuple[Tensor, Tree]:
    """Run the forward step and return only outputs and final state."""
    masks = () if live is None else (live,)
    return _run(_inference_of_trees, steps, (tuple(constants), tuple(inputs), tuple(state), masks))


def backward(
    steps: Steps,
    constants: Sequence[Tensor],
    inputs: Sequence[Tensor],
    kept: Any,
    live: Tensor | None,
    output_gradients: Tensor,
    state_gradients: Sequence[Tensor],
) -> list[Tensor | None]:
    """Run the backward step; arguments and results as for `rnnlab.engine.ir.loop.backward`."""
    if isinstance(kept, list):
        return loop.backward(steps, constants, inputs, kept, live, output_gradients, state_gradients)
    masks = () if live is None else (live,)
    gradients = (output_gradients, tuple(state_gradients))
    found = _run(_backward_of_trees, steps, (tuple(constants), tuple(inputs), kept, masks, gradients))
    return [gradient if isinstance(gradient, Tensor) else None for gradient in found]


# A recorded function takes and returns nested tuples of tensors, with () instead of None.


def _forward_of_trees(steps: Steps, constants: Tree, inputs: Tree, state: Tree, masks: Tree) -> Tree:
    outputs, final, kept = loop.forward(steps, constants, inputs, state, *masks or (None,))
    return outputs, final, tuple(torch.stack(column) for column in zip(*kept, strict=True))


def _inference_of_trees(steps: Steps, constants: Tree, inputs: Tree, state: Tree, masks: Tree) -> Tree:
    return loop.forward(steps, constants, inputs, state, *masks or (None,))[:2]


def _backward_of_trees(
    steps: Steps, constants: Tree, inputs: Tree, kept: Tree, masks: Tree, gradients: tuple[Tensor, Tree]
) -> Tree:
    by_step = list(zip(*(column.unbind() for column in kept), strict=True))
    found = loop.backward(steps, constants, inputs, by_step, *masks or (None,), *gradients)
    return tuple(() if gradient is None else gradient for gradient in found)


class CudaGraphs:
    """Records the kernels of a function and launches them again; the only class here that needs CUDA.

    All graphs are recorded on one stream and share one memory pool: they run one after the other, and their results
    are copied before the next one runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.done = torch.cuda.Event()

    def record(self, function: Callable[[], Tree], warm: bool = False) -> tuple[Tree, Callable[[], None]]:
        """Record a function; return its results and a function that computes them again in the same memory.

        Args:
            function: the function.
            warm: whether it was called before. Libraries and kernels are loaded at their first use, which cannot be
                recorded, so otherwise it is called first.
        """
        if not warm:
            function()
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.stream(torch.cuda.current_stream(self.stream.device)),  # restores the stream after a failure
                torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"),
            ):
                results = function()
        except Exception:
            with suppress(Exception), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=self.stream):
                torch.zeros(1, device=self.stream.device)  # torch draws random numbers again after a successful capture
            raise
        return results, graph.replay

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for graphs on other streams, and make them wait until this context ends."""
        stream = torch.cuda.current_stream(self.stream.device)
        stream.wait_event(self.done)
        yield
        self.done.record(stream)

    def wait(self) -> None:
        """Wait until all graphs have run."""
        torch.cuda.synchronize(self.stream.device)


RECORDERS: dict[str, type] = {"cuda": CudaGraphs}
"""The recorder of each device type."""


def recorder_of(device: torch.device) -> Any:
    """Return what records on a device; None if nothing does, or while the user records a graph."""
    if device.type not in RECORDERS or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        return None
    if device not in _RECORDER:
        _RECORDER[device] = RECORDERS[device.type](device)
    return _RECORDER[device]


def make_room(recorded: dict[Any, Chunks], device: torch.device) -> None:
    """Drop all recorded launches if there are too many, for example of batches of many sizes."""
    recorder = recorder_of(device)
    if recorder is not None and len(recorded) >= GRAPHS:
        recorder.wait()
        recorded.clear()


class Chunks:
    """The kernels of one time step, launched for the steps of a sequence.

    Args:
        launch: launches the kernels for some time steps, ``(table, count)``. They read their arguments from the table,
            among them the first of the time steps, which ``launch`` advances by ``count``.
        size: the number of entries of the table.
        device: the device.
    """

    COUNTS = (64, 8, 1)
    """The numbers of time steps that are recorded as a graph."""

    def __init__(self, launch: Callable[[Tensor, int], None], size: int, device: torch.device) -> None:
        self.launch, self.size, self.device = launch, size, device
        self.table: Tensor | None = None
        self.replays: dict[int, Callable[[], None]] = {}

    def run(self, fill: Callable[[Tensor], None], steps: int) -> None:
        """Launch the kernels for ``steps`` time steps, with a table that ``fill`` fills.

        The first call records nothing, as kernels are loaded at their first use.
        """
        recorder = recorder_of(self.device)
        if recorder is None or self.table is None:
            table = torch.empty(self.size, dtype=torch.int64, device=self.device)
            fill(table)
            self.launch(table, steps)
            if recorder is not None:  # another table: the next call may come while these launches wait elsewhere
                self.table = torch.empty_like(table)
            return
        with recorder.alone():
            fill(self.table)
            for count in self.COUNTS:
                if steps >= count and count not in self.replays:
                    _, self.replays[count] = recorder.record(partial(self.launch, self.table, count), warm=True)
                for _ in range(steps // count):
                    self.replays[count]()
                steps %= count


class _Recorded:
    """A function recorded with arguments in private memory."""

    def __init__(self, recorder: Any, function: Callable[..., Tree], arguments: Tree) -> None:
        self.arguments = arguments
        self.results, self.replay = recorder.record(partial(function, *arguments))

    def __call__(self, arguments: Tree) -> Tree:
        for mine, given in zip(tensors_of(self.arguments), tensors_of(arguments), strict=True):
            mine.copy_(given)
        self.replay()
        return map_state(torch.clone, self.results)


class Graphs:
    """The recorded functions of one device, by function and shapes.

    The first call with new shapes is not recorded, as every sequence may have another length. If there are too many
    graphs, all are dropped at once: dropping a single graph can free memory of the others (pytorch/pytorch#193402).
    After that, a graph is recorded only after twice as many calls with the same shapes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.recorder = RECORDERS[device.type](device)
        self.recorded: dict[Any, _Recorded] = {}
        self.seen: dict[Any, int] = {}
        self.patience = 1

    def run(self, function: Callable[..., Tree], steps: Steps, arguments: Tree) -> Tree:
        """Return ``function(steps, *arguments)`` in memory that no other tensor shares."""
        counts = tuple(len(tensors_of(part)) for part in arguments)
        key = (function, steps, counts, *((tensor.shape, tensor.dtype) for tensor in tensors_of(arguments)))
        if key in self.recorded:
            with self.recorder.alone():
                return self.recorded[key](arguments)
        own = map_state(lambda tensor: tensor.clone(memory_format=torch.contiguous_format), arguments)
        self.seen[key] = self.seen.get(key, 0) + 1
        if self.seen[key] > self.patience and len(arguments[1][0]) <= LONGEST:
            if len(self.recorded) >= GRAPHS:
                self.drop(patience=2 * self.patience)
            try:
                with self.recorder.alone():
                    self.recorded[key] = _Recorded(self.recorder, partial(function, steps), own)
                    return self.recorded[key](arguments)
            except Exception as error:
                warn_once(f"fused cells run without CUDA graphs, slower: recording one failed with {_said(error)}")
                self.drop(patience=inf)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of the compiler; its errors are raised
            return function(steps, *own)

    def drop(self, patience: float) -> None:
        """Drop all graphs; a new one is recorded after more than ``patience`` calls with the same shapes."""
        self.recorder.wait()
        self.recorded.clear()
        self.seen.clear()
        self.recorder = RECORDERS[self.device.type](self.device)  # the old pool accepts no graphs
        self.patience = patience


_GRAPHS: dict[torch.device, Graphs] = {}
_RECORDER: dict[torch.device, Any] = {}
LOCK = RLock()  # a forward pass and a backward pass may come from two threads
_NOT_COMPILED: set[Steps] = set()


def _run(function: Callable[..., Tree], steps: Steps, arguments: Tree) -> Tree:
    """Return ``function(steps, *arguments)``, compiled and recorded if possible."""
    device = arguments[1][0].device
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False), LOCK:
        if torch.is_anomaly_enabled() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
            return function(steps, *arguments)  # for debugging, or within a graph that the user records
        if device not in _GRAPHS:
            _GRAPHS[device] = Graphs(device)
        if steps not in _NOT_COMPILED:
            try:
                constants, inputs, *_ = arguments
                widths = [(tensor.dtype, tensor.shape) for tensor in constants]
                widths += [(tensor.dtype, tensor.shape[2:]) for tensor in inputs]
                return _GRAPHS[device].run(function, compiled(steps, tuple(widths)), arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                _NOT_COMPILED.add(steps)
                warn_once(f"a fused cell runs without torch.compile, slower: it failed with {_said(error)}")
        return _GRAPHS[device].run(function, steps, arguments)


@lru_cache(maxsize=64)
def compiled(steps: Steps, widths: Any) -> Steps:
    """Return the same steps compiled by ``torch.compile``, for any batch size and fixed widths."""
    return replace(steps, forward=_compiled(steps.forward), backward=_compiled(steps.backward))


def _compiled(function: Callable[..., Tree]) -> Callable[..., Tree]:
    # A copy of the code: torch limits how often one code object is compiled.
    own = FunctionType(function.__code__.replace(), function.__globals__)
    # Shape padding is off: torch decides on it by timing, but a resumed run must give the same numbers.
    fast = torch.compile(own, fullgraph=True, dynamic=False, options={"shape_padding": False})
    met: set[int] = set()

    def any_rows(tensor: Tensor) -> Tensor:
        copy = tensor.clone()  # a view would be compiled for its offset
        if copy.dim():
            torch._dynamo.maybe_mark_dynamic(copy, 0)
        return copy

    def call(constants: Tree, inputs: Tree, state: Tree, *others: Any) -> Tree:
        by_row = (inputs, state, *others)
        if len(state[0]) not in met:
            met.add(len(state[0]))
            by_row = map_state(any_rows, by_row)
        return fast(constants, *by_row)

    return call


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
