"""One autograd function for the whole sequence: the traced step forward, its derived step backward.

What it saves over autograd's own backward through the reference loop: the gradients of the weights are left for the
end, where one product over all steps replaces one a step, and nothing is recorded while the loop runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from rnnlab.cells import Cell
from rnnlab.engine import reference
from rnnlab.engine.derive import derive
from rnnlab.engine.emit import Steps, emit
from rnnlab.engine.trace import trace
from rnnlab.interface import State, map_state, pick_rows, tensors_of

_STEPS: WeakKeyDictionary[Cell, dict[Any, Steps]] = WeakKeyDictionary()


def steps_of(cell: Cell) -> Steps:
    """The forward and the backward step of ``cell``, as functions and as text.

    Raises:
        Unsupported: the step cannot be traced or differentiated; the message names the operation.
    """
    like = next(cell.parameters())
    with torch.no_grad():
        constants, prepared = cell.prepare(like.new_zeros(1, 2, cell.input_size))
    return _steps(cell, constants, map_state(lambda t: t[0], prepared), cell.initial_state(2))


def _steps(cell: Cell, constants: Any, inputs: Any, state: State) -> Steps:
    # What a step does may hang on every plain option of the cell and of what it wraps, and on the shapes it meets.
    options = [
        value
        for module in cell.modules()
        for value in vars(module).values()
        if isinstance(value, int | float | str | bool)
    ]
    key = (*options, *(tuple(tensor.shape) for tensor in tensors_of((constants, inputs, state))))
    known = _STEPS.setdefault(cell, {})
    if key not in known:
        program = trace(cell, constants, inputs, state)
        known[key] = emit(program, derive(program))
    return known[key]


def run(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
) -> tuple[Tensor, State]:
    """Run ``cell`` over ``inputs`` with its derived backward step; arguments as for the reference."""
    if not torch.is_grad_enabled() or torch.is_autocast_enabled(inputs.device.type):
        return reference.run(cell, inputs, state, lengths, **context)  # nothing to derive; autocast casts in every step
    inputs, live = reference.mask(inputs, lengths)
    constants, prepared = cell.prepare(inputs, **context)
    first = map_state(lambda tensor: tensor[0].detach(), prepared)
    steps = _steps(cell, map_state(Tensor.detach, constants), first, map_state(Tensor.detach, state))
    parts = [tensors_of(part) for part in (constants, prepared, state)]
    plan = _Plan(cell, steps, (constants, prepared, state), tuple(map(len, parts)), live)
    outputs, *final = _Sequence.apply(plan, *parts[0], *parts[1], *parts[2])
    final = iter(final)
    return outputs, map_state(lambda _: next(final), state)


class _Plan(NamedTuple):
    """What the autograd function needs besides its tensors.

    cell, steps: the cell, and its step and backward step as functions.
    structure: constants, inputs and state as the cell nests them.
    counts: how many tensors each of the three has.
    live: bool ``[T, B]``, the steps that count; None where all do.
    """

    cell: Cell
    steps: Steps
    structure: tuple[Any, Any, Any]
    counts: tuple[int, int, int]
    live: Tensor | None

    def parts(self, tensors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], ...]:
        """Constants, inputs and state out of all tensors in a row."""
        a, b = self.counts[0], self.counts[0] + self.counts[1]
        return tensors[:a], tensors[a:b], tensors[b:]


class _Sequence(torch.autograd.Function):
    """Constants, prepared inputs and first state to outputs and final state."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, *tensors: Tensor) -> tuple[Tensor, ...]:
        constants, inputs, state = plan.parts(tensors)
        outputs, states, saved = [], [], []
        for t, now in enumerate(zip(*inputs, strict=True)):
            output, new, kept = plan.steps.forward(constants, now, state)
            states.append(state)
            saved.append(kept)
            if plan.live is not None:
                output = pick_rows(plan.live[t], output, torch.zeros_like(output))
                new = tuple(pick_rows(plan.live[t], a, b) for a, b in zip(new, state, strict=True))
            outputs.append(output)
            state = new
        ctx.plan, ctx.states, ctx.saved = plan, states, saved
        ctx.save_for_backward(*tensors)
        # Copies: a result that the backward step also reads would keep itself alive through its own graph.
        return (torch.stack(outputs), *(tensor.clone() for tensor in state))

    @staticmethod
    def backward(ctx: Any, output_gradients: Tensor, *state_gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: the gradient itself is to be differentiated
            return None, *_through_reference(ctx.plan, ctx.saved_tensors, (output_gradients, *state_gradients))
        plan, steps = ctx.plan, ctx.plan.steps
        constants, inputs, _ = plan.parts(ctx.saved_tensors)
        sums: list[Tensor | None] = [None] * len(constants)
        input_gradients: list[tuple] = []
        product_gradients: list[tuple] = []
        rows = list(zip(*inputs, strict=True))
        for t in reversed(range(len(rows))):
            output_gradient = output_gradients[t]
            if plan.live is not None:
                live = plan.live[t]
                output_gradient = pick_rows(live, output_gradient, torch.zeros_like(output_gradient))
                passed_on = [pick_rows(live, torch.zeros_like(g), g) for g in state_gradients]
                state_gradients = [pick_rows(live, g, torch.zeros_like(g)) for g in state_gradients]
            of_constants, of_inputs, of_state, of_products = steps.backward(
                constants, rows[t], ctx.states[t], ctx.saved[t], output_gradient, tuple(state_gradients)
            )
            of_state = [torch.zeros_like(s) if g is None else g for g, s in zip(of_state, ctx.states[t], strict=True)]
            if plan.live is not None:
                of_state = [g + past for g, past in zip(of_state, passed_on, strict=True)]
            for i, gradient in enumerate(of_constants):
                if gradient is not None:
                    sums[i] = gradient.clone() if sums[i] is None else sums[i].add_(gradient)
            input_gradients.append(of_inputs)
            product_gradients.append(of_products)
            state_gradients = of_state
        input_gradients.reverse()
        product_gradients.reverse()
        for i, (weight, (kind, place)) in enumerate(zip(steps.weights, steps.rows, strict=True)):
            source = {"saved": ctx.saved, "state": ctx.states, "inputs": rows}[kind]
            factor = torch.cat([step[place] for step in source])
            gradient = torch.cat([step[i] for step in product_gradients]).t() @ factor
            sums[weight] = gradient if sums[weight] is None else sums[weight] + gradient
        of_inputs = [
            None if column[0] is None else torch.stack(column) for column in zip(*input_gradients, strict=True)
        ]
        return None, *sums, *of_inputs, *state_gradients


def _through_reference(plan: _Plan, tensors: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> list[Tensor | None]:
    """The gradients through the plain loop, with a graph of their own."""
    flat = iter(tensors)
    constants, inputs, state = (map_state(lambda _: next(flat), part) for part in plan.structure)
    outputs, final = reference.loop(plan.cell, constants, inputs, state, plan.live)
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    results = [outputs, *tensors_of(final)]
    found = iter(torch.autograd.grad(results, leaves, gradients, create_graph=True, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]
