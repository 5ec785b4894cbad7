"""Run a derived step over a sequence in Python, one operation at a time, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rnnlab.engine.ir.emit_python import Steps
from rnnlab.trees import pick_rows

Tree = tuple[Any, ...]
"""A nested tuple of tensors."""


def forward(
    steps: Steps, constants: Sequence[Tensor], inputs: Sequence[Tensor], state: Sequence[Tensor], live: Tensor | None
) -> tuple[Tensor, Tree, list[Tree]]:
    """Run the forward step over a sequence.

    Args:
        steps: the step.
        constants: the cell's constants.
        inputs: the prepared inputs, each ``[T, B, ...]``.
        state: the initial state.
        live: bool ``[T, B]``, true for valid steps; None if all are valid.

    Returns:
        outputs ``[T, B, ...]``, the final state, and for every step the tensors that `backward` reads.
    """
    outputs, kept = [], []
    for t, now in enumerate(zip(*inputs, strict=True)):
        output, new, saved = steps.forward(constants, now, state)
        kept.append((*state, *saved))
        if live is not None:
            output = pick_rows(live[t], output, torch.zeros_like(output))
            new = tuple(pick_rows(live[t], a, b) for a, b in zip(new, state, strict=True))
        outputs.append(output)
        state = new
    # Copies: otherwise a result that the backward step also reads would keep itself alive through its own graph.
    return torch.stack(outputs), tuple(tensor.clone() for tensor in state), kept


def backward(
    steps: Steps,
    constants: Sequence[Tensor],
    inputs: Sequence[Tensor],
    kept: list[Tree],
    live: Tensor | None,
    output_gradients: Tensor,
    state_gradients: Sequence[Tensor],
) -> list[Tensor | None]:
    """Run the backward step over a sequence.

    Args:
        steps: the step.
        constants: as for `forward`.
        inputs: as for `forward`.
        kept: the third result of `forward`.
        live: as for `forward`.
        output_gradients: the gradients of the outputs, ``[T, B, ...]``.
        state_gradients: the gradients of the final state.

    Returns:
        the gradients of constants, inputs and initial state; None for a tensor without a gradient.
    """
    sums: list[Tensor | None] = [None] * len(constants)
    input_gradients: list[Tree] = []
    product_gradients: list[Tree] = []
    count = len(state_gradients)
    states, saved = [step[:count] for step in kept], [step[count:] for step in kept]
    rows = list(zip(*inputs, strict=True))
    for t in reversed(range(len(rows))):
        output_gradient = output_gradients[t]
        if live is not None:
            now = live[t]
            output_gradient = pick_rows(now, output_gradient, torch.zeros_like(output_gradient))
            passed_on = [pick_rows(now, torch.zeros_like(g), g) for g in state_gradients]
            state_gradients = [pick_rows(now, g, torch.zeros_like(g)) for g in state_gradients]
        of_constants, of_inputs, of_state, of_products = steps.backward(
            constants, rows[t], states[t], saved[t], output_gradient, tuple(state_gradients)
        )
        of_state = [torch.zeros_like(s) if g is None else g for g, s in zip(of_state, states[t], strict=True)]
        if live is not None:
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
        source = {"saved": saved, "state": states, "inputs": rows}[kind]
        factor = torch.cat([step[place] for step in source])
        gradient = torch.cat([step[i] for step in product_gradients]).t() @ factor
        gradient = gradient if steps.transposed[i] else gradient.t()
        sums[weight] = gradient if sums[weight] is None else sums[weight] + gradient
    of_inputs = [None if column[0] is None else torch.stack(column) for column in zip(*input_gradients, strict=True)]
    return [*sums, *of_inputs, *state_gradients]
