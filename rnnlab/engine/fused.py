"""One autograd function for the whole sequence: the traced step forward, its derived step backward.

On a CPU with a C compiler both steps are compiled (`rnnlab.engine.cpu.kernel`); elsewhere they run in Python, one
operation at a time. Autograd records nothing while the loop runs. The gradient of a weight is computed after the loop,
by one matrix product over all steps instead of one product per step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rnnlab.cells import Cell
from rnnlab.engine import reference
from rnnlab.engine.cpu.formulas import Place
from rnnlab.engine.cpu.gemm import mm
from rnnlab.engine.cpu.kernel import Memory
from rnnlab.engine.cpu.memory import reusing, take
from rnnlab.engine.gpu import graphs
from rnnlab.engine.ir.program import Unsupported
from rnnlab.engine.once import warn_once
from rnnlab.engine.traced import Traced, on_trial, snapshot, traced, traced_for
from rnnlab.interface import State, map_state, tensors_of

__all__ = ["Traced", "run", "run_or", "traced", "traced_for"]


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
    if reference.observer(inputs):
        return reference.run(cell, inputs, state, lengths, **context)
    # What is given by name may have the steps of the inputs, and a recorded graph is for one number of steps.
    if lengths is not None and len(lengths) and not context and inputs.device.type == "cpu":
        past = len(inputs) - int(lengths.max())
        if past and cell not in _DRAWS:
            before = torch.get_rng_state() if _is_training(cell) else None
            outputs, final = run_or(uncompiled, cell, inputs[:-past], state, lengths, context)
            if before is None or torch.equal(before, torch.get_rng_state()):
                return pad(outputs, (0, 0, 0, 0, 0, past)), final
            _DRAWS.add(cell)
            torch.set_rng_state(before)  # masks are those of the plain loop, drawn for all steps
    inputs, live = reference.mask(inputs, lengths)
    training = torch.is_grad_enabled()
    random = _random(inputs.device) if training and _is_training(cell) else None
    with reusing(inputs):
        constants, prepared = cell(inputs, **context)
    again = Again(cell, context, random) if training else None
    try:
        _check_plain(inputs, constants, prepared, state)
        step = traced_for(cell, constants, prepared, state)
    except Unsupported as error:  # with these tensors, though not with those it was tried on
        warn_once(f"{type(cell).__name__} runs as a plain loop, slower than a fused one: its step does {error}")
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
    plan = _Plan(step, state, (len(parts[0]), len(parts[1])), shapes, live, lengths, again, free)
    # What gets no gradient is no input of the function: hooks on it would be called with None.
    tensors = [t if learns else t.detach() for t, learns in zip((*parts[0], *parts[1]), step.learns, strict=True)]
    tensors += parts[2]
    if training:
        function = _Eager if step.kernel is None else _Compiled
        outputs, *final = function.apply(plan, inputs, *tensors)
    elif step.kernel is None:
        outputs, final = graphs.inference(step.python, *plan.parts(tensors), live)
    else:
        outputs, *final = _infer(plan, tensors)
    final = iter(final)
    return outputs, map_state(lambda _: next(final), state)


def _check_plain(inputs: Tensor, *trees: Any) -> None:
    """Refuse tensors whose numbers do not lie in memory as an array of this device.

    Raises:
        Unsupported: one of them is of a subclass, another layout or device.
    """
    device = inputs.device
    for tensor in tensors_of(trees):
        if type(tensor) not in _PLAIN:
            raise Unsupported(f"read a {type(tensor).__name__}")
        if tensor.device != device or tensor.layout != torch.strided:
            raise Unsupported(f"read a tensor on {tensor.device}, {tensor.layout}, inputs being on {device}")


_PLAIN = (Tensor, nn.Parameter, nn.Buffer)


class Again:
    """A cell as it was when it was called, for a second pass over the same sequence.

    The weights it had, its options and whether it was training may all be others by the time that a gradient is
    differentiated: `torch.func.functional_call` gives weights back as soon as the call ends.

    Args:
        cell: the cell.
        context: what its ``prepare`` took beyond the inputs.
        random: the state of the random numbers before; None where it drew none.
    """

    def __init__(self, cell: Cell, context: dict[str, Any], random: list[Tensor] | None) -> None:
        self.cell, self.context, self.random = snapshot(cell), context, random
        self.versions = [(tensor, tensor._version) for tensor in self.cell.parameters()]

    def prepare(self, inputs: Tensor) -> tuple[Any, Any]:
        """What the cell prepared, once more, with the same random numbers.

        Raises:
            RuntimeError: a parameter was changed in place since.
        """
        for tensor, version in self.versions:
            if tensor._version != version:
                raise RuntimeError(
                    f"a parameter {list(tensor.shape)} of {type(self.cell).__name__} was changed in place between the "
                    "forward pass and a gradient with create_graph=True; take the gradient first"
                )
        gpus = _gpus(inputs.device)
        with torch.random.fork_rng(gpus, enabled=self.random is not None):
            if self.random is not None:  # the same masks
                torch.set_rng_state(self.random[0])
                for gpu, random in zip(gpus, self.random[1:], strict=False):
                    torch.cuda.set_rng_state(random, gpu)
            return on_trial(self.cell, inputs, **self.context)


_DRAWS: WeakSet[Cell] = WeakSet()
"""Cells whose ``prepare`` was seen to draw random numbers."""


def _is_training(cell: Cell) -> bool:
    return any(module.training for module in cell.modules())


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

    step: the traced step.
    state: the state, for how the cell nests it.
    counts: how many constants and how many inputs there are.
    shapes: those of the inputs.
    live: bool ``[T, B]``, the steps that count; None where all do.
    lengths: int64 ``[B]``, the same as numbers.
    again: the cell as it was called, to differentiate a gradient; None where gradients are disabled.
    free: for every input, whether its memory may be written over.
    """

    step: Traced
    state: State
    counts: tuple[int, int]
    shapes: list[torch.Size]
    live: Tensor | None
    lengths: Tensor | None
    again: Again | None
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
    tensor = tensor.resolve_neg()  # a negated view has the numbers of what it is a view of
    return tensor if tensor.dim() == 0 or tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _rows(tensor: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """Rows of every step as the C functions and the matrix product read them, ``[T, rows, width]``."""
    if tensor.dim() == 3 and tensor.shape[1] == rows and tensor.dtype == dtype and tensor.is_contiguous():
        return tensor.resolve_neg()  # as it mostly is
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
        ctx.kept = [array for array in memory if array.kind in ("state", "kept", "gradient")]
        constants, prepared, state = plan.parts(tensors)
        read = [prepared[i] for i in kernel.lowered.kept_inputs]
        # All by way of torch, so that checkpointing and other hooks on what is saved see it.
        ctx.save_for_backward(inputs, outputs, *constants, *state, *read, *(memory[array] for array in ctx.kept))
        return outputs, *final

    @staticmethod
    def backward(ctx: Any, output_gradients: Tensor, *state_gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan, kernel, lowered = ctx.plan, ctx.plan.step.kernel, ctx.plan.step.kernel.lowered
        inputs, _, *tensors = ctx.saved_tensors
        constants, tensors = tensors[: plan.counts[0]], tensors[plan.counts[0] :]
        state, tensors = tensors[: len(lowered.states)], tensors[len(lowered.states) :]
        read, kept = tensors[: len(lowered.kept_inputs)], tensors[len(lowered.kept_inputs) :]
        if _is_observed_backward(output_gradients, *state_gradients):
            return None, None, *_through_reference(plan, inputs, constants, state, (output_gradients, *state_gradients))
        if ctx.kept is None:
            raise RuntimeError("an earlier backward pass was interrupted; do the forward pass again")
        memory, constants = dict(zip(ctx.kept, kept, strict=True)), [_ready(t, kernel.dtype) for t in constants]
        again = torch._C._autograd._get_current_graph_task_keep_graph()
        if not again:
            ctx.kept = None  # written over from here on; should this be interrupted, nobody goes on with it
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
        if _is_observed_backward(output_gradients, *state_gradients):
            gradients = (output_gradients, *state_gradients)
            return None, None, *_through_reference(ctx.plan, inputs, constants, state, gradients)
        steps, live, kept = ctx.plan.step.python, ctx.plan.live, ctx.kept
        return None, None, *graphs.backward(steps, constants, prepared, kept, live, output_gradients, state_gradients)


def _are_batched(gradients: Sequence[Tensor]) -> bool:
    """Whether each stands for several, as with ``is_grads_batched=True``."""
    return any(map(torch._C._functorch.is_legacy_batchedtensor, gradients))


def _is_observed_backward(*gradients: Tensor) -> bool:
    """Whether the gradient itself is to be differentiated, or several gradients are taken at once."""
    return torch.is_grad_enabled() or torch._C._are_functorch_transforms_active() or _are_batched(gradients)


@contextmanager
def _drawing(gradients: Sequence[Tensor]) -> Iterator[None]:
    """Masks may be drawn, once for all gradients, where several are taken at once."""
    is_batched = _are_batched(gradients)
    if is_batched:
        torch._C._vmapmode_decrement_nesting()
    try:
        yield
    finally:
        if is_batched:
            torch._C._vmapmode_increment_nesting()


def _through_reference(
    plan: _Plan, inputs: Tensor, constants: Sequence[Tensor], state: Sequence[Tensor], gradients: tuple[Tensor, ...]
) -> list[Tensor | None]:
    """The gradients through the plain loop, with a graph of their own."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Constants and states are those of the call. What was prepared may have been written over, and is made again.
        with _drawing(gradients):
            like, prepared = plan.again.prepare(inputs)
        flat = iter((*constants, *state))
        constants, state = (map_state(lambda _: next(flat), part) for part in (like, plan.state))
        # Names of their own: what is prepared of a constant is no way for the constant's own gradient.
        parts = [map_state(lambda tensor: tensor.view_as(tensor), part) for part in (constants, prepared, state)]
        outputs, final = reference.loop(plan.again.cell, *parts, plan.live)
        pairs = zip([outputs, *tensors_of(final)], gradients, strict=True)
        pairs = [pair for pair in pairs if pair[0].requires_grad]  # a state that takes no gradient gives none
        tensors = tensors_of(parts)
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        results, gradients = ([pair[i] for pair in pairs] for i in range(2))
        found = iter(torch.autograd.grad(results, wanted, gradients, create_graph=create_graph, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]
