"""The trajectory of a cell over a sequence: all states, and everything needed to repeat any step.

The trajectory of a layer is recorded with the reference backend, whatever the layer's own backend is. All backends are
tested against the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.cells import Cell
from rnnlab.engine import reference
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent
from rnnlab.layers.resets import Resetting
from rnnlab.trees import State, map_state, pick_rows, tensors_of, unstack


@dataclass
class Trajectory:
    """The states of a cell over T steps of B sequences.

    cell: the cell.
    inputs: inputs of the cell, ``[T, B, input_size]``.
    before: the state before each of the T steps.
    after: the state after each of the T steps; past a sequence's end, the result of a step on padding.
    outputs: outputs of the cell, ``[T, B, output_size]``, zero past a sequence's end.
    last: the final state of every sequence.
    live: mask of the steps within the sequences, bool ``[T, B]``; None if all sequences have T steps.
    context: arguments of the cell's ``prepare`` other than its inputs.
    """

    cell: Cell
    inputs: Tensor
    before: list[State]
    after: list[State]
    outputs: Tensor
    last: State
    live: Tensor | None = None
    context: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.before)

    @property
    def batch_size(self) -> int:
        """Number of sequences, B."""
        return self.inputs.shape[1]

    @property
    def counts(self) -> Tensor:
        """Mask of the steps within the sequences, bool ``[T, B]``."""
        if self.live is not None:
            return self.live
        return torch.ones(len(self), self.batch_size, dtype=torch.bool, device=self.inputs.device)

    @property
    def names(self) -> list[str]:
        """A name for every tensor of the state: those of the cell, or ``state 1`` and so on if their number differs."""
        count = len(tensors_of(self.before[0]))
        return list(self.cell.states) if len(self.cell.states) == count else [f"state {i + 1}" for i in range(count)]

    def states(self) -> dict[str, Tensor]:
        """Return the states after every step by name, ``[T, B, ...]`` each."""
        columns = zip(*(tensors_of(state) for state in self.after), strict=True)
        return {name: torch.stack(column) for name, column in zip(self.names, columns, strict=True)}

    def select(self, sequences: int, steps: int | None = None) -> Trajectory:
        """Return the trajectory of the longest ``sequences`` of the batch over their common steps, at most ``steps``.

        If the cell reads a context, all sequences are kept, because only the cell knows the axes of the context.
        """
        lengths = self.counts.sum(0)
        chosen = lengths.argsort(descending=True, stable=True)[: None if self.context else max(1, sequences)]
        end = int(lengths[chosen].min())
        end = end if steps is None else min(end, steps)

        def rows(states: list[State]) -> list[State]:
            return [map_state(lambda tensor: tensor[chosen], state) for state in states[:end]]

        before, after = rows(self.before), rows(self.after)
        inputs, outputs = self.inputs[:end, chosen], self.outputs[:end, chosen]
        return Trajectory(self.cell, inputs, before, after, outputs, after[-1], context=self.context_until(end))

    def context_until(self, end: int) -> dict[str, Any]:
        """Return the context of the first ``end`` steps."""
        per_step = self.cell.context_per_step
        return {name: value[:end] if name in per_step else value for name, value in self.context.items()}

    def detached(self) -> Trajectory:
        """Return the same trajectory without the autograd graph."""
        before, after = ([map_state(Tensor.detach, state) for state in states] for states in (self.before, self.after))
        last = map_state(Tensor.detach, self.last)
        inputs, outputs = self.inputs.detach(), self.outputs.detach()
        return Trajectory(self.cell, inputs, before, after, outputs, last, self.live, self.context)

    def prepared(self) -> tuple[Any, list[Any]]:
        """Return the constants and the inputs of every step, the results of ``prepare``."""
        constants, prepared = self.cell(self.inputs, **self.context)
        return constants, unstack(prepared)


def follow(
    cell: Cell, inputs: Tensor, state: State | None = None, lengths: Tensor | None = None, **context: Any
) -> Trajectory:
    """Run a cell over a sequence step by step and record every state; the result is differentiable.

    Args:
        cell: the cell.
        inputs: inputs, ``[T, B, input_size]``.
        state: the state before the first step; None for the cell's initial state.
        lengths: lengths of the sequences, int64 ``[B]``; None if every sequence has T steps.
        context: arguments of the cell's ``prepare`` other than its inputs.

    Returns:
        the trajectory; of a cell with resets that of the cell inside, with the states after the resets as ``before``.

    Raises:
        InputError: the inputs have a wrong shape or no steps.
    """
    fresh = first = None
    if isinstance(cell, Resetting):
        cell, fresh, first = cell.cell, context.pop("fresh"), context.pop("first")
    if inputs.dim() != 3 or inputs.shape[-1] != cell.input_size or not len(inputs):
        raise InputError(f"inputs are {list(inputs.shape)}; the cell expects [T, B, {cell.input_size}], T at least 1")
    state = cell.initial_state(inputs.shape[1]) if state is None else state
    inputs, live = reference.mask(inputs, lengths)
    constants, prepared = cell(inputs, **context)
    before, after, outputs = [], [], []
    for t, step_inputs in enumerate(unstack(prepared)):
        if fresh is not None:
            state = map_state(lambda yes, no, mask=fresh[t]: pick_rows(mask, yes, no), first, state)
        output, new = cell.step(constants, step_inputs, state)
        before.append(state)
        after.append(new)
        if live is not None:
            output = pick_rows(live[t], output, torch.zeros_like(output))
            new = map_state(lambda yes, no, live=live[t]: pick_rows(live, yes, no), new, state)
        outputs.append(output)
        state = new
    return Trajectory(cell, inputs, before, after, torch.stack(outputs), state, live, context)


@contextmanager
def watching(model: nn.Module) -> Iterator[dict[str, Trajectory]]:
    """Record the trajectory of every recurrent layer of a model in this context.

    Yields:
        the trajectories by the layer's name in the model; each entry appears when the layer has run. If a layer runs
        several times, for example once for every step, its runs are concatenated and must have the same batch size.

    Raises:
        InputError: the model has no recurrent layer.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Recurrent)}
    if not layers:
        raise InputError(f"{type(model).__name__} contains no rnnlab.layers.Recurrent; diagnostics need at least one")
    seen: dict[str, Trajectory] = {}

    def watched(name: str) -> Any:
        def run(
            cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
        ) -> tuple[Tensor, State]:
            found = follow(cell, inputs, state, lengths, **context)
            seen[name] = _joined(seen[name], found) if name in seen else found
            return found.outputs, found.last

        return run

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(layer.run_by(watched(name)))
        yield seen


def _joined(first: Trajectory, second: Trajectory) -> Trajectory:
    live = None
    if first.live is not None or second.live is not None:
        live = torch.cat([first.counts, second.counts])
    per_step = {
        name: torch.cat([first.context[name], second.context[name]])
        for name in {*first.cell.context_per_step} & first.context.keys() & second.context.keys()
    }
    return Trajectory(
        first.cell,
        torch.cat([first.inputs, second.inputs]),
        first.before + second.before,
        first.after + second.after,
        torch.cat([first.outputs, second.outputs]),
        second.last,
        live,
        second.context | per_step,
    )
