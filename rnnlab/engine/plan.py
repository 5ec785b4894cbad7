"""Data of one fused call besides tensors, and gradients that the derived backward step cannot compute.

The derived backward step computes first derivatives. For ``create_graph=True``, and for several gradients at once,
autograd differentiates the plain loop, with a snapshot of the cell at the time of the call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnnlab.cells import Cell
from rnnlab.engine import reference
from rnnlab.engine.ir.watch import modules_of
from rnnlab.engine.traced import Traced, snapshot, trial
from rnnlab.trees import State, map_state, nested, tensors_of


class Again:
    """A snapshot of a cell at the time of a call, for a second forward pass over the same sequence.

    Before a gradient is differentiated, the weights, options and mode of the cell may have changed. For example,
    `torch.func.functional_call` restores the weights as soon as the call ends.

    Args:
        cell: the cell.
        context: arguments of the cell's ``forward`` other than the inputs.
        random: states of the random number generators before the call; None if the cell is in evaluation mode.
    """

    def __init__(self, cell: Cell, context: dict[str, Any], random: list[Tensor] | None) -> None:
        self.cell, self.context, self.random = snapshot(cell), context, random
        self.device = cell.like.device
        self.dtype = reference.autocast_dtype(self.device)
        tensors = [t for module in modules_of(self.cell) for t in module._parameters.values() if t is not None]
        self.versions = [(tensor, tensor._version) for tensor in tensors]

    def autocast(self) -> AbstractContextManager:
        """Return a context in which autocast is as it was at the time of the call."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def prepare(self, inputs: Tensor) -> tuple[Any, Any]:
        """Prepare the inputs a second time, with the same random numbers.

        Raises:
            RuntimeError: a parameter was changed in place since the call.
        """
        for tensor, version in self.versions:
            if tensor._version != version:
                raise RuntimeError(
                    f"a parameter {list(tensor.shape)} of {type(self.cell).__name__} was changed in place between the "
                    "forward pass and a gradient with create_graph=True; compute the gradient before the change"
                )
        gpus = _gpus(inputs.device)
        with self.autocast(), torch.random.fork_rng(gpus, enabled=self.random is not None):
            if self.random is not None:  # so that the same masks are drawn
                torch.set_rng_state(self.random[0])
                for gpu, random in zip(gpus, self.random[1:], strict=False):
                    torch.cuda.set_rng_state(random, gpu)
            return reference.widened(self.cell, trial(self.cell)(inputs, **self.context))


class Plan(NamedTuple):
    """One call of a cell over a sequence.

    step: the traced step.
    state: the initial state, which defines the nesting of the states.
    counts: number of constants, and number of prepared inputs or of the parameters of their map.
    shapes: shapes of the prepared inputs, ``[T, B, ...]`` each.
    live: bool ``[T, B]``, true for valid steps; None if all are valid.
    lengths: int64 ``[B]``, number of valid steps of each sequence; None if all have T steps.
    again: snapshot of the cell; None if gradients are disabled.
    free: for every prepared input, whether its memory may be overwritten.
    precision: of the matrix products of the step, from `precision`.
    is_mapped: whether there is one prepared input, a linear map of the inputs, which is given by weight and bias.
    """

    step: Traced
    state: State
    counts: tuple[int, int]
    shapes: list[torch.Size]
    live: Tensor | None
    lengths: Tensor | None
    again: Again | None
    free: list[bool]
    precision: str
    is_mapped: bool = False

    @property
    def steps(self) -> int:
        """Number of time steps, T."""
        return self.shapes[0][0]

    def parts(self, tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], ...]:
        """Split tensors into three parts: constants, prepared inputs (or weight and bias of their map), and state."""
        a, b = self.counts[0], sum(self.counts)
        return tensors[:a], tensors[a:b], tensors[b:]


def is_training(cell: Cell) -> bool:
    """Whether any module of a cell is in training mode."""
    return any(module.training for module in modules_of(cell))


def random_state(device: torch.device) -> list[Tensor]:
    """Return the state of the CPU's random number generator, and of the device's if that is a GPU."""
    gpus = [] if device.type == "cuda" and torch.cuda.is_current_stream_capturing() else _gpus(device)
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, gpus)]


def _gpus(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


@contextmanager
def _drawing(gradients: Sequence[Tensor | None]) -> Iterator[None]:
    """Allow random masks where several gradients are computed at once; the masks are the same for all of them."""
    is_batched = reference.are_batched(gradients)
    if is_batched:
        torch._C._vmapmode_decrement_nesting()
    try:
        yield
    finally:
        if is_batched:
            torch._C._vmapmode_increment_nesting()


def through_reference(
    plan: Plan,
    inputs: Tensor,
    constants: Sequence[Tensor],
    state: Sequence[Tensor],
    gradients: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """Compute the gradients through the plain loop, so that they can be differentiated.

    Args:
        plan: the call.
        inputs: ``[T, B, input_size]``.
        constants: the cell's constants in this call.
        state: the initial state of this call.
        gradients: gradients of the outputs and of the final state; None for zeros.

    Returns:
        the gradients of constants, prepared inputs and initial state; None for a tensor that requires no gradient.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Prepared inputs may have been overwritten, so they are computed again, unlike constants and states.
        with _drawing(gradients):
            like, prepared = plan.again.prepare(inputs)
        flat = iter((*constants, *state))
        constants, state = (nested(part, flat) for part in (like, plan.state))
        # Views: otherwise a constant from which an input was prepared would receive the input's gradient as well.
        parts = [map_state(lambda tensor: tensor.view_as(tensor), part) for part in (constants, prepared, state)]
        cell, (fixed, given, before) = plan.again.cell, parts
        with plan.again.autocast():
            given = cell.activate(fixed, given) if plan.step.raw else given
            outputs, final = reference.loop(cell, fixed, given, before, plan.live)
        pairs = zip([outputs, *tensors_of(final)], gradients, strict=True)
        # A state may require no gradient.
        pairs = [pair for pair in pairs if pair[0].requires_grad and pair[1] is not None]
        tensors = tensors_of(parts)
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        results, gradients = ([pair[i] for pair in pairs] for i in range(2))
        found = iter(torch.autograd.grad(results, wanted, gradients, create_graph=create_graph, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]
