"""One autograd function for the whole sequence: the traced step forward, its derived step backward.

On a CPU with a C compiler both steps are compiled to C (`rnnlab.engine.cpu`), on a GPU to Triton (`rnnlab.engine.gpu`).
Where they cannot be compiled, they run in Python, one operation at a time. Autograd records nothing while the loop
runs. The gradient of a weight is computed after the loop, by one matrix product over all steps instead of one per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn.functional import pad

from rnnlab.cells import Cell
from rnnlab.engine import arrays, reference
from rnnlab.engine.cpu import linear
from rnnlab.engine.cpu.memory import alone_like, converted, owned
from rnnlab.engine.gpu import graphs
from rnnlab.engine.ir.program import Unsupported
from rnnlab.engine.mapped import Mapped, mapped
from rnnlab.engine.once import warn_once
from rnnlab.engine.plan import Again, Plan, is_training, random_state, through_reference
from rnnlab.engine.reference import is_observed_backward, precision
from rnnlab.engine.traced import Traced, activates, by_head, raw_option, traced, traced_for
from rnnlab.trees import State, map_state, nested, tensors_of

__all__ = ["Traced", "run", "run_or", "traced", "traced_for"]

Uncompiled = Callable[..., tuple[Tensor, State]]


def run(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
) -> tuple[Tensor, State]:
    """Run ``cell`` over ``inputs`` with its derived backward step; see `reference.run` for the arguments."""
    return run_or(None, cell, inputs, state, lengths, context)


def run_or(
    uncompiled: Uncompiled | None,
    cell: Cell,
    inputs: Tensor,
    state: State,
    lengths: Tensor | None,
    context: dict[str, Any],
) -> tuple[Tensor, State]:
    """Run ``cell`` as `run` does, or with another function if its step is not compiled.

    Args:
        uncompiled: function ``(step, constants, prepared, state, live) -> (outputs, state)`` that runs a step that is
            not compiled; None to run it as `run` does.
        cell: the cell.
        inputs: ``[T, B, input_size]``.
        state: the state before the first step.
        lengths: ``[B]`` or None.
        context: arguments of the cell's ``prepare`` other than the inputs.
    """
    if reference.observer(inputs):
        return reference.run(cell, inputs, state, lengths, **context)
    trimmed = _trimmed(uncompiled, cell, inputs, state, lengths, context)
    if trimmed is not None:
        return trimmed
    inputs, live = reference.mask(inputs, lengths)
    training = torch.is_grad_enabled()
    if lengths is not None:  # int64 for C; a copy, as the caller may change them before the backward pass
        lengths = lengths.to(torch.int64, copy=True).contiguous()
    known = None if context else mapped(cell, inputs, state)
    if known is not None:
        return _run_mapped(known, cell, inputs, state, live, lengths)
    random = random_state(inputs.device) if training and is_training(cell) else None
    constants, prepared, step = _prepared(cell, inputs, state, context)
    again = Again(cell, context | raw_option(step is not None), random) if training else None
    try:
        step = step or traced_for(cell, constants, prepared, state)
    except Unsupported as error:  # only for these tensors: `choose` has traced the step with others
        warn_once(f"{type(cell).__name__} runs in a plain loop, slower than the fused backend: its step uses {error}")
        return reference.loop(cell, constants, prepared, state, live)
    has_products = step.heads is None or (step.readout is not None and step.readout.has_products)
    word = precision(inputs.device, step.dtype) if has_products else "ieee"
    if _needs_loop(step, word):
        return reference.loop(cell, constants, prepared, state, live)
    is_compiled = step.kernel is not None or step.heads is not None
    if not is_compiled and uncompiled is not None:
        return uncompiled(step, constants, prepared, state, live)
    if not is_compiled and not training and inputs.device.type not in graphs.RECORDERS:
        return reference.loop(cell, constants, prepared, state, live)  # without gradients the trace has no advantage
    free: list[bool] = []
    if training and step.kernel is not None and step.kernel.lowered.overwrites:
        alone = map_state(alone_like, prepared)  # bound to a name like `prepared`, for equal reference counts
        free = owned(prepared, alone)
    parts = [tensors_of(part) for part in (constants, prepared, state)]
    shapes = [tensor.shape for tensor in parts[1]]
    plan = Plan(step, state, (len(parts[0]), len(parts[1])), shapes, live, lengths, again, free, word)
    return _execute(plan, inputs, parts, training)


def _prepared(cell: Cell, inputs: Tensor, state: State, context: dict[str, Any]) -> tuple[Any, Any, Traced | None]:
    """Return the constants and the values of all steps, and a compiled step that includes ``activate``.

    If there is no such step, it is None, and the values have been through ``activate``.
    """
    raw = activates(cell)
    with linear.reusing(inputs, cell.hidden_size):
        constants, prepared = reference.widened(cell, cell(inputs, **context, **raw_option(raw)), converted)
    step = by_head(cell, constants, prepared, state) if raw else None
    if raw and step is None:
        prepared = cell.activate(constants, prepared)
    return constants, prepared, step


def _run_mapped(
    known: Mapped, cell: Cell, inputs: Tensor, state: State, live: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Run a cell whose ``prepare`` is a linear map of the inputs; see `Plan` for the mask and the lengths."""
    step, constants, given = known
    training, shape = torch.is_grad_enabled(), torch.Size((*inputs.shape[:2], len(given[0])))
    again, word = Again(cell, {}, None) if training else None, precision(inputs.device, step.dtype)
    counts = len(constants), len(given)
    plan = Plan(step, state, counts, [shape], live, lengths, again, [True], word, is_mapped=True)
    return _execute(plan, inputs, [constants, given, tensors_of(state)], training)


def _needs_loop(step: Traced, word: str) -> bool:
    """Whether autocast has a dtype that a step is not compiled for, so that only the plain loop honours it."""
    if step.heads is None and step.kernel is None:
        return reference.autocast_dtype(step.device) is not None
    if step.device.type == "cpu" and word == "fp16":
        warn_once(f"{step.name} runs in a plain loop under autocast, as float16 is not compiled on a CPU; use bfloat16")
        return True
    return False


def _trimmed(
    uncompiled: Uncompiled | None,
    cell: Cell,
    inputs: Tensor,
    state: State,
    lengths: Tensor | None,
    context: dict[str, Any],
) -> tuple[Tensor, State] | None:
    """Run a cell without the steps after the end of the longest sequence.

    Return None if there are no such steps, or if they cannot be skipped: ``context`` may have a value for each step; a
    CUDA graph is recorded for one number of steps; and random masks must be drawn for all steps, as in the plain loop.
    """
    if lengths is None or not len(lengths) or context or inputs.device.type != "cpu":
        return None
    past = len(inputs) - int(lengths.max())
    if not past or cell in _DRAWS:
        return None
    before = torch.get_rng_state() if is_training(cell) else None
    outputs, final = run_or(uncompiled, cell, inputs[:-past], state, lengths, context)
    if before is None or torch.equal(before, torch.get_rng_state()):
        return pad(outputs, (0, 0, 0, 0, 0, past)), final
    _DRAWS.add(cell)
    torch.set_rng_state(before)
    return None


_DRAWS: WeakSet[Cell] = WeakSet()
"""Cells whose ``prepare`` has drawn random numbers."""


def _execute(plan: Plan, inputs: Tensor, parts: list[list[Tensor]], training: bool) -> tuple[Tensor, State]:
    """Run a planned call, compiled or in Python.

    Args:
        plan: the call.
        inputs: ``[T, B, input_size]``.
        parts: constants, prepared inputs or the parameters of their map, and initial state.
        training: whether gradients are enabled.
    """
    step = plan.step
    tensors = [*parts[0], *parts[1]]
    if training:
        # Tensors without gradient are detached: otherwise hooks on them would be called with None.
        learns = [*step.learns, True] if len(tensors) > len(step.learns) else step.learns  # a map may have a bias
        tensors = [t if learns else t.detach() for t, learns in zip(tensors, learns, strict=True)]
    tensors += parts[2]
    if training:
        function = _Heads if step.heads is not None else _Eager if step.kernel is None else _Compiled
        outputs, *final = function.apply(plan, inputs, *tensors)
    elif step.heads is not None:
        outputs, final, _ = _by_head(plan, parts, 0)
    elif step.kernel is None:
        outputs, final = graphs.inference(step.python, *plan.parts(tensors), plan.live)
    else:
        outputs, *final = _forward(plan, inputs, tensors, "inference")[0]
    return outputs, nested(plan.state, final)


def _forward(
    plan: Plan, inputs: Tensor, tensors: Sequence[Tensor], name: str
) -> tuple[tuple[Tensor, ...], arrays.Memory, Sequence[Tensor]]:
    """Run the compiled ``forward`` or ``inference``, and return results, memory and prepared inputs."""
    kernel = plan.step.kernel
    constants, prepared, state = plan.parts(tensors)
    if plan.is_mapped:
        prepared = [linear.product(inputs, *prepared)]
    constants = [arrays.ready(tensor, kernel.dtype) for tensor in constants]
    memory = arrays.forward_memory(kernel, name, prepared, state, plan.free)
    kernel.call(name, memory, constants, plan.steps, plan.lengths, plan.precision)
    shapes = [tensor.shape for tensor in tensors_of(plan.state)]
    return arrays.results(kernel, memory, plan.steps, plan.live, shapes), memory, prepared


class _Compiled(torch.autograd.Function):
    """Compute outputs and final state from constants, prepared inputs and initial state, by compiled code.

    For a mapped plan the arguments are weight and bias of the map instead of the prepared inputs.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, inputs: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        (outputs, *final), memory, prepared = _forward(plan, inputs, tensors, "forward")
        ctx.plan = plan
        ctx.kept = [array for array in memory if array.kind in ("state", "kept", "gradient")]
        constants, given, state = plan.parts(tensors)
        weight = given[:1] if plan.is_mapped else ()
        read = [prepared[i] for i in plan.step.kernel.lowered.kept_inputs]
        # All tensors are saved through torch, so that checkpointing and other hooks on saved tensors work.
        kept = [memory[array] for array in ctx.kept]
        ctx.save_for_backward(inputs, outputs, *weight, *constants, *state, *read, *kept)
        return outputs, *final

    @staticmethod
    def backward(
        ctx: Any, output_gradients: Tensor | None, *state_gradients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        plan, kernel, lowered = ctx.plan, ctx.plan.step.kernel, ctx.plan.step.kernel.lowered
        inputs, outputs, *tensors = ctx.saved_tensors
        weight = tensors.pop(0) if plan.is_mapped else None
        constants, tensors = tensors[: plan.counts[0]], tensors[plan.counts[0] :]
        state, tensors = tensors[: len(lowered.states)], tensors[len(lowered.states) :]
        read, kept = tensors[: len(lowered.kept_inputs)], tensors[len(lowered.kept_inputs) :]
        if is_observed_backward(output_gradients, *state_gradients):
            of_step = through_reference(plan, inputs, constants, state, (output_gradients, *state_gradients))
            return None, *_through_map(ctx, inputs, weight, of_step, None)
        if output_gradients is None:
            output_gradients = torch.zeros_like(outputs)
        if ctx.kept is None:
            raise RuntimeError("an earlier backward pass was interrupted; run the forward pass again")
        memory, constants = dict(zip(ctx.kept, kept, strict=True)), [arrays.ready(t, kernel.dtype) for t in constants]
        again = torch._C._autograd._get_current_graph_task_keep_graph()
        if not again:
            ctx.kept = None  # overwritten from here on: after an interruption no other pass may read it
        if plan.live is not None:
            output_gradients = output_gradients.where(plan.live.unsqueeze(-1), 0)
        arrays.add_backward_memory(kernel, memory, read, output_gradients, state_gradients, keep=again)
        kernel.call("backward", memory, constants, plan.steps, plan.lengths, plan.precision)
        of_map = inputs if plan.is_mapped and ctx.needs_input_grad[2 + plan.counts[0]] else None
        found, of_weight = arrays.gradients(kernel, memory, constants, plan.shapes, plan.precision, of_map)
        found += arrays.state_gradients(kernel, memory, tensors_of(plan.state))
        return None, *_through_map(ctx, inputs, weight, found, of_weight)


def _through_map(
    ctx: Any, inputs: Tensor, weight: Tensor | None, found: list[Tensor | None], of_weight: Tensor | None
) -> list[Tensor | None]:
    """Return the gradients of inputs, of constants, prepared inputs or the parameters of their map, and of the state.

    Args:
        ctx: of `_Compiled`.
        inputs: ``[T, B, input_size]``.
        weight: of the map; None if the prepared inputs were given.
        found: the gradients of constants, prepared inputs and state.
        of_weight: the gradient of the weight, if it is known.
    """
    if weight is None:
        return [None, *found]
    fixed, given = ctx.plan.counts
    learns, gradient = ctx.needs_input_grad[2 + fixed :], found[fixed]
    of_inputs, of_bias = None, None
    if gradient is not None:
        wanted = (ctx.needs_input_grad[1], of_weight is None and learns[0], given == 2 and learns[1])
        of_inputs, other, of_bias = linear.gradients(inputs, weight, gradient, wanted)
        of_weight = other if of_weight is None else of_weight
    return [of_inputs, *found[:fixed], *(of_weight, of_bias)[:given], *found[fixed + 1 :]]


def _by_head(plan: Plan, parts: Sequence[Sequence[Tensor]], every: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run a step with heads; return outputs, final state and, with ``every`` above 0, what the backward pass reads."""
    constants, prepared, state = parts
    read, final, of_heads = plan.step.heads.forward(constants, prepared, state, plan.lengths, every)
    readout = plan.step.readout
    if readout is None:
        return read, final, of_heads
    name = "forward" if every else "inference"
    outputs, kept = readout.forward(name, constants, prepared, read, plan.lengths, plan.precision)
    return outputs, final, [*of_heads, read, *kept]


class _Heads(torch.autograd.Function):
    """Compute outputs and final state from constants, prepared inputs and initial state, compiled head by head."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, inputs: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.plan, ctx.every = plan, plan.step.heads.interval(plan.steps, inputs.shape[1])
        outputs, final, kept = _by_head(plan, plan.parts(tensors), ctx.every)
        ctx.save_for_backward(inputs, *tensors, *kept)
        ctx.shape = outputs.shape
        return outputs, *final

    @staticmethod
    def backward(
        ctx: Any, output_gradients: Tensor | None, *state_gradients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        plan, (inputs, *saved) = ctx.plan, ctx.saved_tensors
        count = sum(plan.counts) + len(state_gradients)
        constants, prepared, state = plan.parts(saved[:count])
        kept, of_readout = saved[count : count + 2], saved[count + 2 :]
        gradients = (output_gradients, *state_gradients)
        if is_observed_backward(*gradients):
            return None, None, *through_reference(plan, inputs, constants, state, gradients)
        if output_gradients is None:
            output_gradients = inputs.new_zeros(ctx.shape, dtype=plan.step.dtype)
        others: list[Tensor | None] = []
        if plan.step.readout is not None:
            output_gradients, others = plan.step.readout.backward(
                constants, prepared, of_readout[0], of_readout[1:], output_gradients, plan.lengths, plan.precision
            )
        found = plan.step.heads.backward(
            constants, prepared, state, kept, output_gradients, state_gradients, plan.lengths, ctx.every
        )
        for i, other in enumerate(others):
            if other is not None:
                found[i] = other if found[i] is None else found[i] + other
        return None, None, *found


class _Eager(torch.autograd.Function):
    """Compute outputs and final state from constants, prepared inputs and initial state, in Python."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, prepared_from: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs, final, ctx.kept = graphs.forward(plan.step.python, *plan.parts(tensors), plan.live)
        ctx.plan = plan
        ctx.save_for_backward(prepared_from, *tensors)
        return outputs, *final

    @staticmethod
    def backward(ctx: Any, output_gradients: Tensor, *state_gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, *tensors = ctx.saved_tensors
        constants, prepared, state = ctx.plan.parts(tensors)
        if is_observed_backward(output_gradients, *state_gradients):
            gradients = (output_gradients, *state_gradients)
            return None, None, *through_reference(ctx.plan, inputs, constants, state, gradients)
        steps, live, kept = ctx.plan.step.python, ctx.plan.live, ctx.kept
        return None, None, *graphs.backward(steps, constants, prepared, kept, live, output_gradients, state_gradients)
