"""Trace and compile the step of a cell, and cache the result.

A traced step is used for every call with the same shapes and dtypes and the same `fingerprint` of the cell. Before its
first use it is compared with the cell's own step, forward and backward, on random numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from itertools import count
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from rnnlab.cells import Cell
from rnnlab.engine import reference
from rnnlab.engine.cache import NoCompiler
from rnnlab.engine.cpu import compiler
from rnnlab.engine.cpu.emit import Source
from rnnlab.engine.cpu.head_kernel import DTYPES, HeadKernel
from rnnlab.engine.cpu.heads import HeadSource
from rnnlab.engine.cpu.kernel import Kernel as CpuKernel
from rnnlab.engine.gpu.emit import Source as TritonSource
from rnnlab.engine.gpu.kernel import Kernel as GpuKernel
from rnnlab.engine.ir.derive import derive
from rnnlab.engine.ir.emit_python import Steps, emit
from rnnlab.engine.ir.program import Program, Unsupported, interned
from rnnlab.engine.ir.split import splits
from rnnlab.engine.ir.trace import trace
from rnnlab.engine.ir.verify import compare, verify
from rnnlab.engine.ir.watch import fingerprint, without_hooks
from rnnlab.engine.loops.lower import Lowered, lower
from rnnlab.engine.once import once, warn_once
from rnnlab.engine.prove import prove
from rnnlab.engine.readout import Readout
from rnnlab.trees import State, map_state, tensors_of

log = logging.getLogger(__name__)

VARIANTS = 16
"""Largest number of traces of a cell for the same shapes; a cell that changes more often runs in the plain loop."""


class Traced:
    """A cell's step, traced for tensors of certain shapes.

    Args:
        cell: the cell.
        constants: first argument of the step; only tensors in it that require gradients get gradients.
        inputs: second argument of the step, likewise.
        state: third argument of the step.
        training: whether gradients are enabled.
        raw: whether the step includes ``cell.activate``.

    Raises:
        Unsupported: the step cannot be traced or differentiated; the message names the operation.
    """

    def __init__(
        self, cell: Cell, constants: Any, inputs: Any, state: State, training: bool, raw: bool = False
    ) -> None:
        parts = _copies(constants, inputs, state, training)
        before = fingerprint(cell)
        self.program = interned(_program(cell, parts, training, raw))
        if fingerprint(cell) != before:
            raise Unsupported("an assignment to an attribute of the cell")
        _check_rows(cell, self.program, (constants, inputs, state), training, raw)
        leaves = zip([*self.program.constants, *self.program.inputs], tensors_of((constants, inputs)), strict=True)
        self.unwanted = frozenset(value for value, tensor in leaves if training and not tensor.requires_grad)
        self.back = _derived(self.program, self.unwanted)
        reached = {*self.back.gradients, *(product.weight for product in self.back.products)}
        self.learns = [leaf in reached for leaf in (*self.program.constants, *self.program.inputs)]
        self.training, self.raw = training, raw
        self.names = ("forward", "backward") if training else ("inference",)
        states = tensors_of(state)
        self.batch_size, self.dtype, self.device = len(states[0]), states[0].dtype, states[0].device
        # Compiled code has one dtype, which is real.
        self.real = all(tensor.dtype == self.dtype for tensor in states)
        self.real &= not any(tensor.is_complex() for tensor in tensors_of((constants, inputs)))
        self.name = type(cell).__name__
        self.obstacle: Exception | None = None  # why a step with heads is not compiled
        if states[0].is_cuda and torch.cuda.is_current_stream_capturing():
            return  # values cannot be compared while a CUDA graph is recorded
        precision = reference.precision(self.device, self.dtype)
        with torch.inference_mode(False), _as_written(parts), _saving():
            verify(cell, self.python, *parts, training, raw)
            if self.device.type != "cpu" and self.kernel is not None:
                self.prove(*parts, precision)

    @once
    def python(self) -> Steps:
        """The forward and the backward step as Python functions."""
        return _emitted(self.program, self.back)

    def c(self) -> str:
        """Print the forward and the backward step as C.

        Raises:
            Unsupported: the steps cannot be written as loops over rows and columns, nor head by head.
        """
        names, single = ("forward", "backward", "inference"), self.dtype != torch.float64
        if not self.has_heads:
            return Source(lower(self.program, self.back, self.batch_size), single, names).text
        source, readout = self.divided
        heading = "/* The readout, which runs for all time steps after the code above. */"
        return source.text if readout is None else f"{source.text}\n\n{heading}\n{readout.c(single)}"

    @once
    def divided(self) -> tuple[HeadSource, Readout | None]:
        """A step with heads as a recurrence, which combines no two heads, and a readout if it needs one.

        Raises:
            Unsupported: the recurrence combines heads, or the readout cannot be written as loops.
        """
        single, reason = self.dtype != torch.float64, None
        for recurrence, rest in splits(self.program):
            try:
                source = HeadSource(recurrence, derive(recurrence, self.unwanted), self.batch_size, single)
            except Unsupported as error:
                reason = error
                continue
            return source, rest and Readout(rest, self.program, self.unwanted, self.batch_size)
        raise reason

    @property
    def has_heads(self) -> bool:
        """Whether a state is a matrix or a tensor with more axes for each sequence."""
        return any(len(value.shape) > 3 for value in self.program.state)

    def triton(self, columns: int | None = None) -> str:
        """Print the forward and the backward step as Triton.

        Args:
            columns: the number of columns of a program; None for all columns, see `rnnlab.engine.gpu.emit`.

        Raises:
            Unsupported: the steps cannot be written as loops over rows and columns.
        """
        lowered = lower(self.program, self.back, self.batch_size, overlays=False)
        sources = [TritonSource(lowered, name, columns) for name in ("forward", "backward", "inference")]
        return "\n\n\n".join(source.text for source in sources)

    @once
    def lowered(self) -> Lowered | None:
        """The forward and the backward step as loops; None if they cannot be compiled. A warning gives the reason."""
        kind = KERNELS.get(self.device.type)
        if kind is None or self.dtype not in kind.dtypes or not self.real or self.heads is not None:
            return None
        try:
            kind.check()
            if self.obstacle is not None:
                raise self.obstacle
            return _lowered(self.program, self.back, self.batch_size, kind.overlays)
        except RecursionError:
            warn_once(f"{self.name} runs {kind.slower}: its step has too many consecutive operations")
        except Unsupported as error:
            warn_once(f"{self.name} runs {kind.slower}: its step uses {error}")
        except NoCompiler as error:
            warn_once(f"fused cells run {kind.slower}: {error}")
        return None

    @once
    def heads(self) -> HeadKernel | None:
        """The recurrence compiled head by head; None if it has no matrix states or cannot be compiled this way."""
        if not self.has_heads or self.device.type != "cpu" or self.dtype not in DTYPES or not self.real:
            return None
        try:
            compiler.compiler()
            source, readout = self.divided
            if readout is not None:
                readout.compile(self.dtype, self.names)
            return HeadKernel(source, self.dtype)
        except (Unsupported, NoCompiler, RecursionError) as error:
            self.obstacle = error  # `lowered` warns
            return None

    @property
    def readout(self) -> Readout | None:
        """The compiled readout of a step that is compiled head by head, if it has one."""
        return None if self.heads is None else self.divided[1]

    @once
    def kernel(self) -> Any:
        """The compiled functions of the step; None if they cannot be compiled. A warning gives the reason."""
        kind = KERNELS.get(self.device.type)
        try:
            return self.lowered and kind(self.lowered, self.dtype, self.names, self.device)
        except NoCompiler as error:
            warn_once(f"fused cells run {kind.slower}: {error}")
        return None

    def prove(self, constants: Any, inputs: Any, state: State, precision: str) -> None:
        """Compare the kernels with the step in Python, and do without them if they fail or their results differ."""
        start = perf_counter()
        try:
            prove(self.kernel, self.python, *map(tensors_of, (constants, inputs, state)), precision)
        except Exception as error:
            self.kernel = None
            reason = str(error).strip().partition("\n")[0]
            warn_once(f"{self.name} runs {GpuKernel.slower}: they fail with {type(error).__name__}: {reason}")
        else:
            log.info("%s: kernels for %s compiled in %.1f s", self.name, self.device, perf_counter() - start)


_derived, _emitted, _lowered = map(lru_cache(maxsize=64), (derive, emit, lower))
"""Equal steps, such as those of the layers of a stack, are derived, printed and lowered once."""

KERNELS: dict[str, Any] = {"cpu": CpuKernel, "cuda": GpuKernel}
"""The compiled form of a step on each type of device."""


def _program(cell: Cell, parts: tuple[Any, Any, State], training: bool, raw: bool = False) -> Program:
    # In inference mode torch does not decompose its composite operations.
    with torch.inference_mode(False), torch.set_grad_enabled(training), _as_written(parts), _saving(), without_hooks():
        return trace(cell, *parts, raw)


def _check_rows(cell: Cell, program: Program, given: tuple[Any, Any, State], training: bool, raw: bool) -> None:
    """Check that the step has the same trace with another batch size.

    Raises:
        Unsupported: the traces differ; the step may compute with the batch size, for example.
    """
    rows = len(tensors_of(given[2])[0])
    if rows == 1:  # a batch of one sequence has its own trace
        return
    other = _few(cell, but=rows)
    try:
        constants, prepared = _prepared(cell, other, raw=raw)
    except TypeError:  # its prepare has required arguments that are not known here
        return
    parts = (constants, map_state(lambda tensor: tensor[0], prepared), cell.initial_state(other))
    if _nesting(parts) != _nesting(given):
        return
    if str(_program(cell, _copies(*parts, training), training, raw)) != str(program):
        raise Unsupported("arithmetic with the batch size")


def _few(cell: Cell, but: int = 1) -> int:
    """Return a small batch size that differs from every size of a parameter, so that axes cannot be confused."""
    sizes = {size for parameter in cell.parameters() for size in parameter.shape}
    return next(number for number in count(2) if number not in sizes and number != but)


def _prepared(cell: Cell, rows: int, *per_step: str, raw: bool = False) -> tuple[Any, Any]:
    """Return a cell's result for one time step of zeros; arguments ``per_step`` are ones ``[1, rows]``."""
    like = cell.like
    with aside(cell):
        context = {name: like.new_ones(1, rows) for name in per_step}
        return trial(cell)(like.new_zeros(1, rows, cell.input_size), **context, **raw_option(raw))


@contextmanager
def aside(cell: Cell) -> Iterator[None]:
    """Return a context for operations that are no part of a call: random numbers, saved tensors and autocast."""
    device = cell.like.device
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus), torch.autocast(device.type, enabled=False), _saving():
        yield


def _copies(constants: Any, inputs: Any, state: State, training: bool) -> tuple[Any, Any, State]:
    """Copy the arguments of a step; a tensor that occurs several times is copied once."""

    def copy(tensor: Tensor, learns: bool) -> Tensor:
        with torch.inference_mode(False):
            return tensor.detach().clone().requires_grad_(training and learns)

    copies = {id(tensor): copy(tensor, tensor.requires_grad) for tensor in tensors_of((constants, inputs))}
    parts = [map_state(lambda tensor: copies[id(tensor)], part) for part in (constants, inputs)]
    # The state requires gradients and is no leaf, like the state after the first step.
    state = map_state(lambda tensor: copy(tensor, tensor.is_floating_point() or tensor.is_complex()), state)
    with torch.inference_mode(False), torch.set_grad_enabled(training):
        return (*parts, map_state(torch.clone, state))


def _saving() -> AbstractContextManager:
    """Disable hooks on saved tensors, such as those of checkpointing, during a trial run."""
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


def _as_written(parts: Any) -> AbstractContextManager:
    """Disable autocast: a trace has one dtype."""
    return torch.autocast(tensors_of(parts)[0].device.type, enabled=False)


_TRACED: WeakKeyDictionary[Cell, dict[Any, dict[Any, Traced | Unsupported]]] = WeakKeyDictionary()


def snapshot(module: nn.Module, made: dict[int, nn.Module] | None = None) -> nn.Module:
    """Return a copy of a module that keeps its current tensors and options when the original changes."""
    made = {} if made is None else made  # a module that occurs twice is copied once
    if id(module) in made:
        return made[id(module)]
    found = made[id(module)] = module.__class__.__new__(module.__class__)
    inner = {name: None if one is None else snapshot(one, made) for name, one in module._modules.items()}
    held = {"_parameters": dict(module._parameters), "_buffers": dict(module._buffers), "_modules": inner}
    vars(found).update(vars(module) | held)
    return found


def trial(cell: Cell) -> Cell:
    """Return a copy of a cell, hooks included, whose calls change neither the cell nor its buffers."""
    found = snapshot(cell)
    for module in found.modules():
        module._buffers.update({name: None if t is None else t.clone() for name, t in module._buffers.items()})
    return found


def program_of(cell: Cell, *per_step: str) -> Program:
    """Return the forward step of ``cell`` for inference, traced on a few rows of zeros.

    Args:
        cell: the cell.
        per_step: names of further arguments of ``prepare``, each ``[T, B]``, such as ``elapsed``.

    Raises:
        Unsupported: the step cannot be traced; the message names the operation.
    """
    rows = _few(cell)
    constants, prepared = _prepared(cell, rows, *per_step)
    first = map_state(lambda tensor: tensor[0], prepared)
    return _program(cell, _copies(constants, first, cell.initial_state(rows), False), False)


def traced(cell: Cell) -> Traced:
    """Return the step of ``cell``, traced on a few rows of zeros.

    Raises:
        Unsupported: the step cannot be traced or differentiated; the message names the operation.
    """
    rows = _few(cell)
    if activates(cell):
        found = by_head(cell, *_prepared(cell, rows, raw=True), cell.initial_state(rows))
        if found is not None:
            return found
    return traced_for(cell, *_prepared(cell, rows), cell.initial_state(rows))


def activates(cell: Cell) -> bool:
    """Whether a step of ``cell`` that is compiled head by head includes its `activate`, if it can be compiled."""
    kind = type(cell)
    is_own = kind.activate is not Cell.activate and kind.forward is Cell.forward
    return is_own and cell.like.device.type == "cpu" and reference.autocast_dtype(cell.like.device) is None


def raw_option(raw: bool) -> dict[str, bool]:
    """Return the argument with which a cell returns the values of its ``prepare``; other cells need not know it."""
    return {"raw": True} if raw else {}


def by_head(cell: Cell, constants: Any, raw: Any, state: State) -> Traced | None:
    """Return the step of a cell with its `activate`, compiled head by head; None if this cannot be compiled.

    Args:
        cell: the cell.
        constants: first result of the cell's ``prepare``.
        raw: second result of the cell's ``prepare``, ``[T, B, ...]``.
        state: the state.
    """
    try:
        found = traced_for(cell, constants, raw, state, raw=True)
    except Unsupported:
        return None
    return None if found.heads is None else found


def traced_for(cell: Cell, constants: Any, prepared: Any, state: State, raw: bool = False) -> Traced:
    """Return the step of ``cell`` for tensors of these shapes and dtypes; trace it if it is not in the cache.

    Args:
        cell: the cell.
        constants: first result of the cell's ``prepare``, constant over the sequence.
        prepared: the values that the step reads, ``[T, B, ...]``.
        state: the state.
        raw: whether the step includes the cell's ``activate``.

    Raises:
        Unsupported: the step cannot be traced or differentiated; the message names the operation.
    """
    places = [id(tensor) for tensor in tensors_of(constants)]
    same = tuple([places.index(place) for place in places])  # which constants are the same tensor
    call = torch.is_grad_enabled(), raw, same, kinds((constants, prepared, state)), fingerprint(cell)
    last, found = _LAST.get(cell, (None, None))
    if last != call:
        found = _find(cell, constants, prepared, state, same, call[-1], raw)
        _LAST[cell] = call, found
    return found


_LAST: WeakKeyDictionary[Cell, tuple[Any, Traced]] = WeakKeyDictionary()
"""The last call of each cell, because comparing with it takes two thirds of the time of `_find`."""


def kinds(tree: Any) -> Any:
    """Return type, shape and whatever else a trace depends on, for each tensor in nested tuples; True for None."""
    if isinstance(tree, tuple | list):
        return tuple([kinds(part) for part in tree])
    return tree is None or (type(tree), tree.shape, tree.dtype, tree.device, tree.layout, tree.requires_grad)


def _find(
    cell: Cell, constants: Any, prepared: Any, state: State, same: tuple[int, ...], key: tuple[Any, ...], raw: bool
) -> Traced:
    """Return the traced step of a cell with the fingerprint ``key``; trace it if there is none. See `traced_for`."""
    fixed, given, states = tensors_of(constants), tensors_of(prepared), tensors_of(state)
    rows, training = states[0].shape[0], torch.is_grad_enabled()
    tensors = (*fixed, *given, *states)
    # A step may also depend on the shapes of its arguments, but not on the batch size.
    shapes = [*[t.shape for t in fixed], *[t.shape[1:] for t in given], *[t.shape for t in states]]
    if rows > 1:
        shapes = [("B", *shape[1:]) if shape and shape[0] == rows else shape for shape in shapes]
    # After the first step, states require gradients.
    learns = tuple([t.requires_grad for t in (*fixed, *given)]) if training else None
    kinds = tuple([(type(t), t.dtype, t.device, t.layout) for t in tensors])
    call = (training, raw, same, _nesting((constants, prepared)), tuple(shapes), learns, kinds)
    variants = _TRACED.setdefault(cell, {}).setdefault(call, {})
    found = variants.get(key)
    if found is None:
        if len(variants) >= VARIANTS:
            raise Unsupported("a value that changes from call to call; return it from prepare instead")
        try:
            _check_plain(tensors)
            if raw:
                _check_activate(cell, constants, prepared)
            found = Traced(cell, constants, map_state(lambda tensor: tensor[0], prepared), state, training, raw)
        except Unsupported as error:
            found = error
        found = variants.setdefault(key, found)  # another thread may have been faster
    if isinstance(found, Unsupported):
        raise found.with_traceback(None)
    return found


def _check_activate(cell: Cell, constants: Any, raw: Any) -> None:
    """Check that ``activate`` gives one step the values that it gives all steps.

    Raises:
        Unsupported: it does not; a warning says so.
    """
    with aside(cell), torch.no_grad():
        expected = tensors_of(cell.activate(constants, map_state(lambda tensor: tensor[:1], raw)))
        try:
            found = tensors_of(cell.activate(constants, map_state(lambda tensor: tensor[0], raw)))
            compare(found, [tensor[0] for tensor in expected], "the values differ")
        except (Unsupported, RuntimeError, ValueError, IndexError) as error:
            warn_once(
                f"activate of {type(cell).__name__} is not compiled with the step, which is slower: it gives one step "
                "other values than all steps; address axes from the end"
            )
            raise Unsupported("an activate that depends on the number of axes") from error


def _check_plain(tensors: Iterable[Tensor]) -> None:
    """Check that all tensors are plain strided tensors on one device.

    Raises:
        Unsupported: a tensor is of a subclass, or has another layout or device.
    """
    devices = {tensor.device for tensor in tensors}
    for tensor in tensors:
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
            raise Unsupported(f"a tensor of type {type(tensor).__name__}")
        if tensor.layout != torch.strided:
            raise Unsupported(f"a tensor with layout {tensor.layout}")
    if len(devices) > 1:
        raise Unsupported(f"tensors on several devices: {', '.join(sorted(map(str, devices)))}")


def known(cell: Cell) -> list[Traced]:
    """List the traced steps of ``cell``."""
    found = [step for steps in _TRACED.get(cell, {}).values() for step in steps.values()]
    return [step for step in found if isinstance(step, Traced)]


def _nesting(tree: Any) -> Any:
    """Return the nesting of ``tree``: True for None, False for a tensor."""
    return tuple(map(_nesting, tree)) if isinstance(tree, tuple | list) else tree is None
