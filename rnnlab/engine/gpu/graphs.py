"""A derived step over a sequence in Python, and on a GPU the same compiled and recorded.

`forward` and `backward` are the loop over time. On a GPU every operation of a step is a kernel, and to start one takes
longer than to run it. There `torch.compile` makes few kernels of a step, and the loop with all its kernels is recorded
once as a CUDA graph, which starts as one. Whatever fails of that, a warning says so, and the loop runs without it.
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
from rnnlab.interface import map_state, tensors_of

GRAPHS = 16
"""So many graphs are kept at once; each holds the memory of its sequence."""
LONGEST = 4096
"""A longer sequence is not recorded: a graph holds every kernel of every step."""


def forward(
    steps: Steps, constants: Sequence[Tensor], inputs: Sequence[Tensor], state: Sequence[Tensor], live: Tensor | None
) -> tuple[Tensor, Tree, Any]:
    """Outputs ``[T, B, ...]``, the final state, and what `backward` needs; ``live`` is bool ``[T, B]`` or None."""
    if inputs[0].device.type not in RECORDERS:
        return loop.forward(steps, constants, inputs, state, live)
    masks = () if live is None else (live,)
    return _run(_forward_of_trees, steps, (tuple(constants), tuple(inputs), tuple(state), masks))


def inference(
    steps: Steps, constants: Sequence[Tensor], inputs: Sequence[Tensor], state: Sequence[Tensor], live: Tensor | None
) -> tuple[Tensor, Tree]:
    """Outputs and final state alone."""
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
    """The gradients of constants, inputs and state; None where there is none."""
    if isinstance(kept, list):
        return loop.backward(steps, constants, inputs, kept, live, output_gradients, state_gradients)
    masks = () if live is None else (live,)
    gradients = (output_gradients, tuple(state_gradients))
    found = _run(_backward_of_trees, steps, (tuple(constants), tuple(inputs), kept, masks, gradients))
    return [gradient if isinstance(gradient, Tensor) else None for gradient in found]


# What is recorded takes and returns nested tuples of tensors: no lists, and () where there is none.


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
    """Records what is launched on a GPU and launches it again: the one part that needs CUDA.

    All graphs are recorded on one stream and share one pool of memory: they run one after the other, and their results
    are copied out before the next one runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.done = torch.cuda.Event()

    def record(self, function: Callable[[], Tree]) -> tuple[Tree, Callable[[], None]]:
        """What ``function`` returned, in memory of its own, and what computes it again from what it read."""
        function()  # libraries and kernels are loaded at their first use, which cannot be recorded
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.stream(torch.cuda.current_stream(self.stream.device)),  # to which a failure does not return
                torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"),
            ):
                results = function()
        except Exception:
            with suppress(Exception), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=self.stream):
                torch.zeros(1, device=self.stream.device)  # one that succeeds, or torch could draw no numbers any more
            raise
        return results, graph.replay

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other graph runs meanwhile, on whatever stream it was started."""
        stream = torch.cuda.current_stream(self.stream.device)
        stream.wait_event(self.done)
        yield
        self.done.record(stream)

    def wait(self) -> None:
        """Wait until every graph has run."""
        torch.cuda.synchronize(self.stream.device)


RECORDERS: dict[str, type] = {"cuda": CudaGraphs}
"""What records on a type of device."""


class _Recorded:
    """A function recorded on arguments in memory of its own."""

    def __init__(self, recorder: Any, function: Callable[..., Tree], arguments: Tree) -> None:
        self.arguments = arguments
        self.results, self.replay = recorder.record(partial(function, *arguments))

    def __call__(self, arguments: Tree) -> Tree:
        for mine, given in zip(tensors_of(self.arguments), tensors_of(arguments), strict=True):
            mine.copy_(given)
        self.replay()
        return map_state(torch.clone, self.results)


class Graphs:
    """The functions recorded on one device, by what they were given.

    What comes for the first time runs as it is: sequences of ever new lengths would be recorded for nothing. When there
    are too many graphs all are dropped at once, since a graph that is dropped alone can take memory of its neighbours
    with it (pytorch/pytorch#193402), and from then on twice as many calls have to come before one is recorded.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.recorder = RECORDERS[device.type](device)
        self.recorded: dict[Any, _Recorded] = {}
        self.seen: dict[Any, int] = {}
        self.patience = 1

    def run(self, function: Callable[..., Tree], steps: Steps, arguments: Tree) -> Tree:
        """``function(steps, *arguments)``, in memory that nobody else holds."""
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
            warnings.simplefilter("ignore")  # of the compiler's; what matters it raises
            return function(steps, *own)

    def drop(self, patience: float) -> None:
        """Forget every graph; more than ``patience`` calls with the same shapes have to come for a new one."""
        self.recorder.wait()
        self.recorded.clear()
        self.seen.clear()
        self.recorder = RECORDERS[self.device.type](self.device)  # a pool without graphs takes no new ones
        self.patience = patience


_GRAPHS: dict[torch.device, Graphs] = {}
_LOCK = RLock()  # a forward pass and a backward pass may come from two threads
_NOT_COMPILED: set[Steps] = set()


def _run(function: Callable[..., Tree], steps: Steps, arguments: Tree) -> Tree:
    """``function(steps, *arguments)``, compiled and recorded as far as that can be done."""
    device = arguments[1][0].device
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False), _LOCK:
        if torch.is_anomaly_enabled() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
            return function(steps, *arguments)  # somebody looks for a mistake, or records a graph of his own
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
    """The same steps, whose operations ``torch.compile`` fuses, for any number of rows of certain widths."""
    return replace(steps, forward=_compiled(steps.forward), backward=_compiled(steps.backward))


def _compiled(function: Callable[..., Tree]) -> Callable[..., Tree]:
    # Code of its own: torch counts how often a piece of code is compiled, and at some time refuses.
    own = FunctionType(function.__code__.replace(), function.__globals__)
    # Products are not padded where that is timed to be faster: a run that goes on tomorrow shall give the same numbers.
    fast = torch.compile(own, fullgraph=True, dynamic=False, options={"shape_padding": False})
    met: set[int] = set()

    def any_rows(tensor: Tensor) -> Tensor:
        copy = tensor.clone()  # what is a piece of another tensor would be compiled for that place in it
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
