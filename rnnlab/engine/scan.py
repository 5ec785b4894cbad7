"""Cells that are linear in their state: h_t = a_t ⊙ h_{t-1} + b_t, where a and b do not depend on h.

If the step can be compiled, the recurrence is one compiled loop (`rnnlab.engine.fused`), which reads memory once.
Otherwise a and b of all steps are computed at once, and the recurrence runs in blocks of sqrt(T) steps (Blelloch, 1990,
"Prefix sums and their applications", with two levels). That takes about 2 sqrt(T) sequential operations instead of T.
A scan in log space is not offered: in single precision its gradients are wrong on long sequences.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, isqrt
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from rnnlab.cells import Cell
from rnnlab.engine import fused
from rnnlab.engine.ir.derive import derive
from rnnlab.engine.ir.emit_python import Steps, emit
from rnnlab.engine.ir.program import Node, Program, Unsupported, Value, values_of
from rnnlab.trees import State, nested, tensors_of

_STEPS: WeakKeyDictionary[fused.Traced, Steps] = WeakKeyDictionary()


def check(program: Program) -> None:
    """Check that every column of the new state is a linear function of the same column of the old state.

    Raises:
        Unsupported: an operation on the state is not linear, or combines columns; the message names it.
    """
    linear: set[Value] = set(program.state)
    other: dict[Value, Node] = {}  # values that depend on the state in another way, and the operation that causes it
    for node in program.nodes:
        of_state = [value for value in values_of(node.arguments) if value in linear or value in other]
        if not of_state:
            continue
        spoilt = next((other[value] for value in of_state if value in other), None)
        if spoilt is None and _keeps_linear(node, linear):
            linear.update(node.results)
        else:
            other.update(dict.fromkeys(node.results, spoilt or node))
    for value in program.new_state:
        if value in other:
            raise Unsupported(f"{other[value].operation} with its state, which is not linear column by column")


def _keeps_linear(node: Node, linear: set[Value]) -> bool:
    """Whether the result of an operation is linear in the state, column by column, if the values in ``linear`` are."""
    chosen = [isinstance(argument, Value) and argument in linear for argument in node.arguments]
    if any(value.shape != node.results[0].shape for value in values_of(node.arguments) if value in linear):
        return False  # broadcast: its columns would mix
    if node.operation in ("add", "sub", "neg"):
        return True
    if node.operation == "mul":
        return sum(chosen) == 1
    if node.operation == "div":
        return chosen == [True, False]
    return node.operation == "where" and not chosen[0]


def couplings(program: Program) -> list[list[bool]]:
    """Return, for each new state (row) and each old state (column), whether the new state depends on the old state."""
    made_of = {value: {i} for i, value in enumerate(program.state)}
    for node in program.nodes:
        states = set().union(*(made_of.get(value, set()) for value in values_of(node.arguments)))
        made_of.update(dict.fromkeys(node.results, states))
    return [[j in made_of.get(value, ()) for j, _ in enumerate(program.state)] for value in program.new_state]


def steps_of(step: fused.Traced) -> Steps:
    """Return the step as Python, with derivatives with respect to its state only.

    Raises:
        Unsupported: the cell is not linear in its state.
    """
    if step not in _STEPS:
        program = step.program
        check(program)
        # Without the output: a gradient of 0 times an infinite input would be NaN.
        unread = replace(program, output=Value("unread", program.output.shape))
        _STEPS[step] = emit(program, derive(unread, {*program.constants, *program.inputs}))
    return _STEPS[step]


def run(
    cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
) -> tuple[Tensor, State]:
    """Run ``cell`` over ``inputs``; see `reference.run` for the arguments.

    Raises:
        Unsupported: the step is not compiled, and the cell is not linear in its state.
    """
    return fused.run_or(_in_blocks, cell, inputs, state, lengths, context)


def _in_blocks(
    step: fused.Traced, constants: Any, prepared: Any, state: State, live: Tensor | None
) -> tuple[Tensor, State]:
    constants, columns, first = (tuple(tensors_of(part)) for part in (constants, prepared, state))
    outputs, final = _blocked(steps_of(step), couplings(step.program), constants, columns, first, live)
    return outputs, nested(state, final)


def _blocked(
    steps: Steps,
    coupled: list[list[bool]],
    constants: tuple[Tensor, ...],
    inputs: tuple[Tensor, ...],
    first: tuple[Tensor, ...],
    live: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """Compute a and b of all steps at once, and run the scan."""
    count = len(inputs[0])
    zeros = tuple(torch.zeros_like(tensor) for tensor in first)

    def whole(tensor: Tensor | None, like: Tensor) -> Tensor:
        return (
            torch.zeros_like(like).expand(count, *like.shape) if tensor is None else tensor.expand(count, *like.shape)
        )

    output, added, saved = steps.forward(constants, inputs, zeros)
    b = [whole(tensor, like) for tensor, like in zip(added, first, strict=True)]
    a: list[list[Tensor | None]] = []
    for i in range(len(first)):
        ones = tuple(torch.ones_like(t) if i == j else torch.zeros_like(t) for j, t in enumerate(first))
        *_, of_state, _ = steps.backward(constants, inputs, zeros, saved, torch.zeros_like(output), ones)
        pairs = zip(of_state, coupled[i], strict=True)
        a.append([whole(tensor, first[i]) if together else None for tensor, together in pairs])
    if live is not None:

        def while_live(tensor: Tensor, otherwise: float) -> Tensor:
            return tensor.where(live.reshape(*live.shape, *[1] * (tensor.dim() - 2)), otherwise)

        b = [while_live(tensor, 0.0) for tensor in b]
        a = [[t if t is None else while_live(t, float(i == j)) for j, t in enumerate(row)] for i, row in enumerate(a)]
        for i, row in enumerate(a):  # after the end, also a state that does not depend on its old value is constant
            row[i] = while_live(torch.zeros_like(b[i]), 1.0) if row[i] is None else row[i]
    states = scan(a, b, list(first))
    before = tuple(torch.cat([start.unsqueeze(0), h[:-1]]) for start, h in zip(first, states, strict=True))
    outputs = steps.forward(constants, inputs, before)[0]
    if live is not None:
        outputs = outputs.where(live.unsqueeze(-1), 0)
    return outputs, [h[-1] for h in states]


def scan(a: list[list[Tensor | None]], b: list[Tensor], first: list[Tensor]) -> list[Tensor]:
    """Compute ``h_t[i] = sum_j a_t[i][j] ⊙ h_{t-1}[j] + b_t[i]`` for all t, in blocks of sqrt(T) steps.

    Args:
        a: k rows of k tensors ``[T, ...]``; None for zeros, in which case the shapes of the two states may differ.
        b: k tensors ``[T, ...]``.
        first: h_0, k tensors ``[...]``.

    Returns:
        k tensors ``[T, ...]``.
    """
    k, count = len(b), len(b[0])
    length = max(1, isqrt(count))
    blocks = ceil(count / length)

    def cut(tensor: Tensor) -> tuple[Tensor, ...]:
        """Split into ``length`` tensors ``[blocks, ...]``; the padding of the last block is never read."""
        filled = torch.cat([tensor, tensor.new_zeros(blocks * length - count, *tensor.shape[1:])])
        return filled.unflatten(0, (blocks, length)).unbind(1)

    a_cut = [[None if tensor is None else cut(tensor) for tensor in row] for row in a]
    b_cut = [cut(tensor) for tensor in b]

    # For all blocks at once: every state as a linear function of the state before its block.
    def at(t: int) -> list[list[Tensor | None]]:
        return [[None if tensors is None else tensors[t] for tensors in row] for row in a_cut]

    factors, offsets = [at(0)], [[b_cut[i][0] for i in range(k)]]
    for t in range(1, length):
        now = at(t)
        factors.append([[_dot(now[i], [row[j] for row in factors[-1]]) for j in range(k)] for i in range(k)])
        offsets.append([_dot(now[i], offsets[-1], b_cut[i][t]) for i in range(k)])
    # The state before each block.
    last_a = [[None if tensor is None else tensor.unbind() for tensor in row] for row in factors[-1]]
    last_b = [offsets[-1][i].unbind() for i in range(k)]
    starts = [first]
    for m in range(blocks - 1):
        now = [[None if tensors is None else tensors[m] for tensors in row] for row in last_a]
        starts.append([_dot(now[i], starts[-1], last_b[i][m]) for i in range(k)])
    before = [torch.stack([start[i] for start in starts]) for i in range(k)]
    states = []
    for i in range(k):
        found = [_dot(factors[t][i], before, offsets[t][i]) for t in range(length)]
        states.append(torch.stack(found, 1).flatten(0, 1)[:count])
    return states


def _dot(left: list[Tensor | None], right: list[Tensor | None], total: Tensor | None = None) -> Tensor | None:
    """Add the products of all pairs without None to ``total``; None if there is nothing to add."""
    for x, y in zip(left, right, strict=True):
        if x is not None and y is not None:
            total = x * y if total is None else torch.addcmul(total, x, y)
    return total
