"""One autograd function for the whole sequence: the traced step forward, its derived step backward.

Where there is a C compiler both are compiled (`rnnlab.engine.compiled`); elsewhere they run as Python, an operation at
a time. In either form nothing is recorded while the loop runs, and the gradients of the weights are left for the end,
where one product over all steps replaces one a step.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rnnlab.cells import Cell
from rnnlab.engine import compiler, graphs, reference
from rnnlab.engine.compiled import Kernel, Memory
from rnnlab.engine.derive import derive
from rnnlab.engine.emit_c import Source
from rnnlab.engine.emit_python import Steps, emit
from rnnlab.engine.formulas import Place
from rnnlab.engine.lower import Lowered, lower
from rnnlab.engine.memory import reusing, take
from rnnlab.engine.product import mm
from rnnlab.engine.program import Unsupported
from rnnlab.engine.trace import trace
from rnnlab.interface import State, map_state, tensors_of

log = logging.getLogger(__name__)


class once:  # noqa: N801 - it is used like `functools.cached_property`
    """A property that is made once: of several threads that make it at the same time, all get the first one's."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, of: Any, owner: type | None = None) -> Any:
        return self if of is None else vars(of).setdefault(self.name, self.make(of))


class Traced:
    """A cell's step as it was traced for tensors of certain shapes.

    Args:
        cell, constants, inputs, state: what the step is called with; tensors of constants and inputs that require no
            gradient get none.

    Raises:
        Unsupported: the step cannot be traced or differentiated; the message names the operation.
    """

    def __init__(self, cell: Cell, constants: Any, inputs: Any, state: State, training: bool) -> None:
        # Copies: on tensors made in inference mode torch does not take its larger operations apart.
        device = tensors_of(state)[0].device.type
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
            copies = {id(tensor): tensor.clone() for tensor in tensors_of((constants, inputs))}
            parts = [map_state(lambda tensor: copies[id(tensor)], part) for part in (constants, inputs)]
            self.program = trace(cell, *parts, map_state(torch.clone, state))
        leaves = zip([*self.program.constants, *self.program.inputs], tensors_of((constants, inputs)), strict=True)
        self.back = derive(self.program, {value for value, tensor in leaves if training and not tensor.requires_grad})
        self.training = training
        states = tensors_of(state)
        self.batch_size, self.dtype, self.device = len(states[0]), states[0].dtype, states[0].device.type
        # Numbers of one type, and not complex: that is what the C has.
        self.real = all(tensor.dtype == self.dtype for tensor in states)
        self.real &= not any(tensor.is_complex() for tensor in tensors_of((constants, inputs)))
        self.name = type(cell).__name__

    @once
    def python(self) -> Steps:
        """The two steps as Python."""
        return emit(self.program, self.back)

    def c(self) -> str:
        """The two steps as C.

        Raises:
            Unsupported: they do not come down to loops over rows and columns.
        """
        names = ("forward", "backward", "inference")
        return Source(lower(self.program, self.back, self.batch_size), self.dtype != torch.float64, names).text

    @once
    def lowered(self) -> Lowered | None:
        """The two steps as loops; None where they cannot be compiled, and the log says why."""
        if self.device != "cpu" or self.dtype not in (torch.float32, torch.float64) or not self.real:
            return None
        try:
            compiler.compiler()
            compiler.blas()
            return lower(self.program, self.back, self.batch_size)
        except RecursionError:
            _warn(f"{self.name} runs as Python instead of C, much slower: its step has too many operations in a row")
        except Unsupported as error:
            _warn(f"{self.name} runs as Python instead of C, much slower: its step does {error}")
        except compiler.NoCompiler as error:
            _warn(f"fused cells run as Python instead of C, much slower: {error}")
        return None

    @once
    def repeated(self) -> set[int]:
        """The inputs whose gradient lies, at least in part, where that of an earlier one does."""
        widths = [array.width for array in self.lowered.inputs]
        places = [(i, place, widths[i]) for i, place in enumerate(self.lowered.input_gradients) if place]
        return {
            i
            for (_, one, width), (i, other, other_width) in combinations(places, 2)
            if one.array is other.array
            and one.offset < other.offset + other_width
            and other.offset < one.offset + width
        }

    @once
    def kernel(self) -> Kernel | None:
        """What is needed of the two steps, compiled; None where that cannot be, and the log says why."""
        try:
            names = ("forward", "backward") if self.training else ("inference",)
            return self.lowered and Kernel(self.lowered, self.dtype, names)
        except compiler.NoCompiler as error:
            _warn(f"fused cells run as Python instead of C, much slower: {error}")
        return None


_WARNED: set[str] = set()
_TRACED: WeakKeyDictionary[Cell, dict[Any, Traced]] = WeakKeyDictionary()


def _warn(sentence: str) -> None:
    if sentence not in _WARNED:
        _WARNED.add(sentence)
        log.warning(sentence)


def traced(cell: Cell) -> Traced:
    """The step of ``cell``, traced on two rows of zeros.

    Raises:
        Unsupported: the step cannot be traced or differentiated; the message names the operation.
    """
    like = next(cell.parameters())
    before = [(buffer, buffer.clone()) for buffer in cell.buffers()]
    with torch.random.fork_rng(_gpus(like.device)), torch.autocast(like.device.type, enabled=False):
        constants, prepared = cell.prepare(like.new_zeros(1, 2, cell.input_size))
    with torch.no_grad():
        for buffer, value in before:  # running statistics, say, which these zeros are none of
            buffer.copy_(value)
    return traced_for(cell, constants, prepared, cell.initial_state(2))


def _options(cell: Cell) -> tuple[Any, ...]:
    """Every plain option of a cell and of what it wraps: what a step does may hang on them."""
    found: list[Any] = []
    for module in cell.modules():
        for key, value in vars(module).items():
            if key not in _OF_EVERY_MODULE and _is_plain(value):
                found.append((key, str(value) if isinstance(value, tuple | list) else value))
    return tuple(found)


_OF_EVERY_MODULE = vars(nn.Module()).keys() - {"training"}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str)


def traced_for(cell: Cell, constants: Any, prepared: Any, state: State) -> Traced:
    """The step of ``cell``, traced for tensors like these, of which ``prepared`` are those of all steps.

    Raises:
        Unsupported: the step cannot be traced or differentiated; the message names the operation.
    """
    # What a step does may hang on the shapes it meets, too; the number of rows is none of them.
    fixed, states, training = tensors_of(constants), tensors_of(state), torch.is_grad_enabled()
    rows = states[0].shape[0]

    def kind(tensor: Tensor, shape: torch.Size) -> tuple[Any, ...]:
        whole = ("B", *shape[1:]) if rows > 1 and shape and shape[0] == rows else shape
        return tensor.dtype, whole, training and tensor.requires_grad

    kinds = [kind(tensor, tensor.shape) for tensor in (*fixed, *states)]
    kinds += [kind(tensor, tensor.shape[1:]) for tensor in tensors_of(prepared)]
    whole = [id(tensor) for tensor in fixed]
    same = tuple(map(whole.index, whole))  # a constant that stands in several places is one
    key = (_options(cell), states[0].device, training, same, _nesting((constants, prepared)), *kinds)
    known = _TRACED.setdefault(cell, {})
    if key not in known:
        first = map_state(lambda tensor: tensor[0], prepared)
        return known.setdefault(key, Traced(cell, constants, first, state, training))
    return known[key]


def _nesting(tree: Any) -> Any:
    """How tensors are nested, and where None stands for one."""
    return tuple(map(_nesting, tree)) if isinstance(tree, tuple | list) else tree is None


def run(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
) -> tuple[Tensor, State]:
    """Run ``cell`` over ``inputs`` with its derived backward step; arguments as for the reference."""
    return run_or(None, cell, inputs, state, lengths, context)


def run_or(
    uncompiled: Callable[..., tuple[Tensor, State]] | None,
    cell: Cell,
    inputs: Tensor,
    state: State,
    lengths: Tensor | None,
    context: dict[str, Any],
) -> tuple[Tensor, State]:
    """`run`; where the step is not compiled, ``uncompiled(step, constants, prepared, state, live)``."""
    if torch.is_autocast_enabled(inputs.device.type):
        return reference.run(cell, inputs, state, lengths, **context)  # autocast casts in every step
    # What is given by name may have the steps of the inputs, and a recorded graph is for one number of steps.
    if lengths is not None and len(lengths) and not context and inputs.device.type == "cpu":
        past = len(inputs) - int(lengths.max())
        if past:
            outputs, final = run_or(uncompiled, cell, inputs[:-past], state, lengths, context)
            return pad(outputs, (0, 0, 0, 0, 0, past)), final
    inputs, live = reference.mask(inputs, lengths)
    training = torch.is_grad_enabled()
    random = _random(inputs.device) if training and cell.training else None
    with reusing(inputs):
        constants, prepared = cell.prepare(inputs, **context)
    try:
        step = traced_for(cell, constants, prepared, state)
    except Unsupported as error:  # with these tensors, though not with those it was tried on
        _warn(f"{type(cell).__name__} runs as reference, its step does {error}")
        return reference.loop(cell, constants, prepared, state, live)
    if step.kernel is None and uncompiled is not None:
        return uncompiled(step, constants, prepared, state, live)
    if step.kernel is None and not training and inputs.device.type not in graphs.RECORDERS:
        return reference.loop(cell, constants, prepared, state, live)  # nothing to derive
    free: list[bool] = []
    if training and step.kernel is not None and step.kernel.lowered.overwrites:
        alone = map_state(_like, prepared)  # bound to a name, as what it is compared with
        free = _owned(prepared, alone)
    if lengths is not None:  # as C reads them, and nobody changes them before the backward pass
        lengths = lengths.to(torch.int64, copy=True).contiguous()
    parts = [tensors_of(part) for part in (constants, prepared, state)]
    shapes = [tensor.shape for tensor in parts[1]]
    plan = _Plan(cell, step, state, (len(parts[0]), len(parts[1])), shapes, live, lengths, context, random, free)
    tensors = [tensor for part in parts for tensor in part]
    if training:
        function = _Eager if step.kernel is None else _Compiled
        outputs, *final = function.apply(plan, inputs, *tensors)
    elif step.kernel is None:
        outputs, final = graphs.inference(step.python, *plan.parts(tensors), live)
    else:
        outputs, *final = _infer(plan, tensors)
    final = iter(final)
    return outputs, map_state(lambda _: next(final), state)


def _gpus(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _random(device: torch.device) -> list[Tensor]:
    """The state of the random numbers, on the CPU and, if that is another, on the device."""
    gpus = [] if device.type == "cuda" and torch.cuda.is_current_stream_capturing() else _gpus(device)
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, gpus)]


def _owned(prepared: Any, alone: Any) -> list[bool]:
    """For every tensor per step, whether nobody else holds it or its memory, so that it may be written over.

    Args:
        prepared: the tensors.
        alone: as many, made a moment ago, which surely nobody else holds.
    """
    (tuples, held), (own_tuples, expected) = _references(prepared), _references(alone)
    if tuples != own_tuples:
        return [False] * len(held)
    triples = zip(tensors_of(prepared), held, expected, strict=True)
    return [tensor.is_contiguous() and mine == wanted for tensor, mine, wanted in triples]


def _like(tensor: Tensor) -> Tensor:
    other = tensor.new_empty(1)
    return other.view(1) if tensor._is_view() else other  # as results of linear are


def _references(tree: Any) -> tuple[list[int], list[tuple[int, ...]]]:
    """How often each tuple of a nested tuple is held, and each tensor: by Python, by torch, its memory, its base."""
    if tree is None:
        return [], []
    if isinstance(tree, Tensor):
        memory = torch._C._storage_Use_Count(tree.untyped_storage()._cdata)
        counts = (sys.getrefcount(tree), tree._use_count(), memory)
        if tree._is_view():
            base = tree._base
            counts += (sys.getrefcount(base), base._use_count())
        return [], [counts]
    parts = [_references(part) for part in tree]
    tuples = [sys.getrefcount(tree) if tree else 0, *(count for part in parts for count in part[0])]
    return tuples, [count for part in parts for count in part[1]]


class _Plan(NamedTuple):
    """What the autograd function needs besides its tensors.

    cell, step: the cell and its traced step.
    state: the state, for how the cell nests it.
    counts: how many constants and how many inputs there are.
    shapes: those of the inputs.
    live: bool ``[T, B]``, the steps that count; None where all do.
    lengths: int64 ``[B]``, the same as numbers.
    context, random: what ``prepare`` was called with, and the state of the random numbers at that time.
    free: for every input, whether its memory may be written over.
    """

    cell: Cell
    step: Traced
    state: State
    counts: tuple[int, int]
    shapes: list[torch.Size]
    live: Tensor | None
    lengths: Tensor | None
    context: dict[str, Any]
    random: list[Tensor] | None
    free: list[bool]

    @property
    def steps(self) -> int:
        """T."""
        return self.shapes[0][0]

    def parts(self, tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], ...]:
        """Constants, inputs and state out of all tensors in a row."""
        a, b = self.counts[0], sum(self.counts)
        return tensors[:a], tensors[a:b], tensors[b:]


def _ready(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A constant as the C functions read it: numbers of one type, one after the other within a row."""
    tensor = tensor if tensor.dtype == dtype else tensor.to(dtype)
    return tensor if tensor.dim() == 0 or tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _rows(tensor: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """Rows of every step as the C functions and the matrix product read them, ``[T, rows, width]``."""
    if tensor.dim() == 3 and tensor.shape[1] == rows and tensor.dtype == dtype and tensor.is_contiguous():
        return tensor  # as it mostly is
    tensor = _ready(tensor if tensor.dim() == 3 else tensor.unsqueeze(-1), dtype).expand(-1, rows, -1)
    return tensor.contiguous() if rows > 1 and tensor.stride(1) < tensor.shape[2] else tensor


def _memory(plan: _Plan, tensors: Sequence[Tensor], name: str) -> tuple[Memory, list[Tensor]]:
    """Memory for the step over the sequence, and the constants."""
    kernel, steps = plan.step.kernel, plan.steps
    lowered, dtype = kernel.lowered, kernel.dtype
    constants, inputs, state = plan.parts(tensors)
    constants = [_ready(tensor, dtype) for tensor in constants]
    rows = state[0].shape[0]
    memory: Memory = {}
    for array, tensor in zip(lowered.inputs, inputs, strict=True):
        memory[array] = _rows(tensor, rows, dtype)
    if name == "forward":
        for array, i in lowered.overwrites.items():
            if plan.free[i]:
                memory[array] = memory[lowered.inputs[i]].detach()
    for array, tensor in zip(lowered.states, state, strict=True):
        whole = name == "forward" or lowered.output.array is array
        memory[array] = states = take((steps + 1 if whole else 2, rows, array.width), dtype)
        states[0] = tensor if tensor.dim() == 2 else tensor.reshape(rows, array.width)
    for array in kernel.source.arrays[name]:
        if array not in memory and array.kind not in ("constant", "sum"):
            shape = (1 if array.kind == "temporary" else steps, rows, array.width)
            memory[array] = take(shape, dtype)
    return memory, constants


def _results(plan: _Plan, memory: Memory) -> tuple[Tensor, ...]:
    """Outputs and final states out of the memory."""
    lowered = plan.step.kernel.lowered
    place = lowered.output
    outputs = memory[place.array][place.shift :]
    if plan.live is not None and place.shift:
        outputs = outputs.where(plan.live.unsqueeze(-1), 0)
    # Copies: a result that the backward step also reads would keep itself alive through its own graph.
    final = []
    for array, tensor in zip(lowered.states, tensors_of(plan.state), strict=True):
        states = memory[array]
        last = states[plan.steps % states.shape[0]].clone()
        final.append(last if tensor.dim() == 2 else last.reshape(tensor.shape))
    return outputs, *final


def _infer(plan: _Plan, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Outputs and final states, with nothing kept."""
    memory, constants = _memory(plan, tensors, "inference")
    plan.step.kernel.call("inference", memory, constants, plan.steps, plan.lengths)
    return _results(plan, memory)


class _Compiled(torch.autograd.Function):
    """Constants, prepared inputs and first state to outputs and final state, in C."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, inputs: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        kernel = plan.step.kernel
        memory, constants = _memory(plan, tensors, "forward")
        kernel.call("forward", memory, constants, plan.steps, plan.lengths)
        outputs, *final = _results(plan, memory)
        ctx.plan = plan
        ctx.memory = {array: t for array, t in memory.items() if array.kind in ("state", "kept", "gradient")}
        constants, prepared, state = plan.parts(tensors)
        read = [prepared[i] for i in kernel.lowered.kept_inputs]
        ctx.save_for_backward(inputs, outputs, *constants, *state, *read)
        return outputs, *final

    @staticmethod
    def backward(ctx: Any, output_gradients: Tensor, *state_gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan, kernel, lowered = ctx.plan, ctx.plan.step.kernel, ctx.plan.step.kernel.lowered
        inputs, _, *tensors = ctx.saved_tensors
        constants, tensors = tensors[: plan.counts[0]], tensors[plan.counts[0] :]
        state, read = tensors[: len(lowered.states)], tensors[len(lowered.states) :]
        if torch.is_grad_enabled():  # create_graph: the gradient itself is to be differentiated
            return None, None, *_through_reference(plan, inputs, state, (output_gradients, *state_gradients))
        if ctx.memory is None:
            raise RuntimeError("an earlier backward pass was interrupted; do the forward pass again")
        memory, constants = dict(ctx.memory), [_ready(t, kernel.dtype) for t in constants]
        again = torch._C._autograd._get_current_graph_task_keep_graph()
        if not again:
            ctx.memory = None  # written over from here on; should this be interrupted, nobody goes on with it
        rows = state[0].shape[0]
        for i, tensor in zip(lowered.kept_inputs, read, strict=True):
            memory[lowered.inputs[i]] = _rows(tensor, rows, kernel.dtype)
        if plan.live is not None:
            output_gradients = output_gradients.where(plan.live.unsqueeze(-1), 0)
        for array in kernel.source.arrays["backward"]:
            if array.kind == "upstream":
                memory[array] = _rows(output_gradients, rows, kernel.dtype)
            elif array.kind == "temporary":
                memory[array] = take((1, rows, array.width), kernel.dtype)
            elif array.kind == "gradient":  # written over what was kept, which another backward pass needs again
                if array not in memory:
                    memory[array] = take((plan.steps, rows, array.width), kernel.dtype)
                elif again:
                    memory[array] = memory[array].clone()
        for array, gradient in zip(lowered.carries, state_gradients, strict=True):
            memory[array] = carried = take((2, rows, array.width), kernel.dtype)
            carried[plan.steps % 2] = gradient if gradient.dim() == 2 else gradient.reshape(rows, array.width)
        memory |= kernel.sums(rows, plan.steps)
        kernel.call("backward", memory, constants, plan.steps, plan.lengths)
        return None, None, *_gradients(plan, memory, constants)


def _gradients(plan: _Plan, memory: Memory, constants: list[Tensor]) -> list[Tensor | None]:
    """The gradients of constants, inputs and state out of the memory."""
    lowered = plan.step.kernel.lowered
    found: list[Tensor | None] = []
    for array, constant in zip(lowered.constant_gradients, constants, strict=True):
        if array is None:
            found.append(None)
            continue
        totals = memory[array][1]  # of every thread
        total = totals[0] if len(totals) == 1 else totals.sum(0)
        found.append(total.to(constant.dtype).reshape(constant.shape))

    def columns(place: Place, width: int) -> Tensor:
        whole = memory[place.array]
        if whole.shape[::2] == (plan.steps, width):
            return whole
        return whole[place.shift : place.shift + plan.steps, :, place.offset : place.offset + width]

    for weight, transposed, rows, gradient in lowered.products:
        outer, inner = constants[weight].shape if transposed else constants[weight].shape[::-1]
        left, right = columns(gradient, outer).flatten(0, 1), columns(rows, inner).flatten(0, 1)
        product = mm(left.t(), right) if transposed else mm(right.t(), left)
        found[weight] = product if found[weight] is None else found[weight] + product
    repeated = plan.step.repeated
    for i, (place, shape) in enumerate(zip(lowered.input_gradients, plan.shapes, strict=True)):
        if place is None:
            found.append(None)
            continue
        gradient = columns(place, lowered.inputs[i].width)
        gradient = gradient if len(shape) == 3 else gradient.reshape(shape)
        # Whoever gets a gradient may add to it in place.
        found.append(gradient.clone() if i in repeated else gradient)
    for array, tensor in zip(lowered.carries, tensors_of(plan.state), strict=True):
        found.append(memory[array][0].reshape(tensor.shape) if tensor.requires_grad else None)
    return found


class _Eager(torch.autograd.Function):
    """Constants, prepared inputs and first state to outputs and final state, in Python."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, prepared_from: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs, final, ctx.kept = graphs.forward(plan.step.python, *plan.parts(tensors), plan.live)
        ctx.plan = plan
        ctx.save_for_backward(prepared_from, *tensors)
        return outputs, *final

    @staticmethod
    def backward(ctx: Any, output_gradients: Tensor, *state_gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, *tensors = ctx.saved_tensors
        constants, prepared, state = ctx.plan.parts(tensors)
        if torch.is_grad_enabled():  # create_graph: the gradient itself is to be differentiated
            return None, None, *_through_reference(ctx.plan, inputs, state, (output_gradients, *state_gradients))
        steps, live, kept = ctx.plan.step.python, ctx.plan.live, ctx.kept
        return None, None, *graphs.backward(steps, constants, prepared, kept, live, output_gradients, state_gradients)


def _through_reference(
    plan: _Plan, inputs: Tensor, state: Sequence[Tensor], gradients: tuple[Tensor, ...]
) -> list[Tensor | None]:
    """The gradients through the plain loop, with a graph of their own, from the inputs on."""
    flat = iter(state)
    state = map_state(lambda _: next(flat), plan.state)
    with torch.random.fork_rng(_gpus(inputs.device), enabled=plan.random is not None):
        if plan.random is not None:  # the same masks
            torch.set_rng_state(plan.random[0])
            for gpu, random in zip(_gpus(inputs.device), plan.random[1:], strict=False):
                torch.cuda.set_rng_state(random, gpu)
        constants, prepared = plan.cell.prepare(inputs, **plan.context)
    # Names of their own: what is prepared of a constant is no way for the constant's own gradient.
    parts = [map_state(lambda tensor: tensor.view_as(tensor), part) for part in (constants, prepared, state)]
    outputs, final = reference.loop(plan.cell, *parts, plan.live)
    pairs = zip([outputs, *tensors_of(final)], gradients, strict=True)
    pairs = [pair for pair in pairs if pair[0].requires_grad]  # a state that takes no gradient gives none
    tensors = tensors_of(parts)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    results, gradients = ([pair[i] for pair in pairs] for i in range(2))
    found = iter(torch.autograd.grad(results, wanted, gradients, create_graph=True, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]
