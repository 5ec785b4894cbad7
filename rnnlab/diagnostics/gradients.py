"""Gradients of the loss with respect to the state at every step: the norms of dL/dh_t.

References: Hochreiter, 1991; Bengio, Simard and Frasconi, 1994, doi:10.1109/72.279181; Pascanu, Mikolov and Bengio,
2013, arXiv:1211.5063. Derivatives are total, as in backpropagation through time: they include all paths from h_t to the
loss, at step t and later. If a step computes one state from another, such as h_t from c_t, dL/dc_t includes the path
through h_t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rnnlab.diagnostics.trajectory import Trajectory, watching
from rnnlab.interface import Batch, InputError, Mean
from rnnlab.models import Model
from rnnlab.trees import State, tensors_of


class Flow(NamedTuple):
    """Norms of the gradient of a loss with respect to the states of one layer, for each sequence.

    states: norms for every tensor of the state, by name, ``[T, B]``; NaN past a sequence's end.
    end: index of the last scored step of every sequence, in the order in which the layer reads, int64 ``[B]``.
    """

    states: dict[str, Tensor]
    end: Tensor

    @property
    def total(self) -> Tensor:
        """The norms with respect to all tensors of the state as one vector, ``[T, B]``."""
        return torch.stack(list(self.states.values())).square().sum(0).sqrt()

    def by_step(self, norms: Tensor) -> Tensor:
        """Return the root mean square of ``norms`` ``[T, B]`` over the sequences that have the step, ``[T]``."""
        return norms.square().nanmean(1).sqrt()

    def by_distance(self, norms: Tensor) -> Tensor:
        """Return the root mean square of ``norms`` ``[T, B]`` for each distance from the last scored step, ``[D]``.

        Distances start at 0. D is the largest number of steps of a sequence up to its last scored step.
        """
        rows = []
        for distance in range(int(self.end.max()) + 1):
            step = self.end - distance
            found = norms.gather(0, step.clamp_min(0).unsqueeze(0))[0]
            rows.append(found.where(step >= 0, torch.nan))
        return self.by_step(torch.stack(rows))


class Flows(NamedTuple):
    """The gradients of two losses.

    whole: gradients of the training loss.
    last: gradients of the loss of the last scored step of every sequence. If every step is scored, only these gradients
        show how far a gradient reaches.
    """

    whole: Flow
    last: Flow


def gradient_flow(
    model: Model, batch: Batch, loss: Callable[[Tensor, Batch], Mean], state: State | None = None
) -> tuple[dict[str, Flows], dict[str, Trajectory]]:
    """Return the norms of dL/dh_t in every recurrent layer, by the layer's name in the model.

    The gradients of the parameters are not changed. The caller sets the model's mode (evaluation or training).

    Args:
        model: the model.
        batch: the batch.
        loss: function of outputs and batch, such as `Task.loss`, that returns the total and the count of a mean.
        state: initial state of the model; None for its default.

    Returns:
        the norms and the trajectory of every layer.

    Raises:
        InputError: the model has no recurrent layer, or the gradient of the loss is zero at every output.
    """
    with torch.enable_grad(), watching(model) as seen:
        outputs, _ = model(batch, state)
        total, count = loss(outputs, batch)
        (from_outputs,) = torch.autograd.grad(total.sum() / count, outputs, retain_graph=True)
    scored = from_outputs.flatten(2).abs().sum(-1) > 0  # [T, B]
    if not scored.any():
        raise InputError("the gradient of the loss is zero at every output of this batch; diagnostics need a gradient")
    steps = torch.arange(len(scored), device=scored.device).unsqueeze(1)
    end = (steps * scored).amax(0)
    only_last = from_outputs * (steps == end).unflatten(1, (-1, *[1] * (from_outputs.dim() - 2)))
    whole, last = (_norms(seen, outputs, given) for given in (from_outputs, only_last))
    flows = {}
    for name, found in seen.items():
        lengths = found.counts.sum(0)
        seen_last = end if len(found) == len(scored) else lengths - 1  # its steps are not those of the outputs
        if model.get_submodule(name).reverse:
            seen_last = lengths - 1 - seen_last
        flows[name] = Flows(Flow(whole[name], seen_last), Flow(last[name], seen_last))
    return flows, {name: found.detached() for name, found in seen.items()}


def _norms(seen: dict[str, Trajectory], outputs: Tensor, given: Tensor) -> dict[str, dict[str, Tensor]]:
    """Return the norms of the state gradients for output gradients ``given``, ``[T, B]`` for every layer and state."""
    leaves = {name: [tensors_of(state) for state in found.after] for name, found in seen.items()}
    wanted = [tensor for rows in leaves.values() for row in rows for tensor in row if tensor.requires_grad]
    found = torch.autograd.grad(outputs, wanted, given, retain_graph=True, allow_unused=True, materialize_grads=True)
    lengths = (grad.flatten(1).abs().square().sum(1).sqrt() for grad in found)
    norms = {id(tensor): length for tensor, length in zip(wanted, lengths, strict=True)}
    result = {}
    for name, rows in leaves.items():
        none = outputs.new_zeros(seen[name].batch_size)
        columns = zip(*([norms.get(id(tensor), none) for tensor in row] for row in rows), strict=True)
        live = seen[name].counts
        result[name] = {
            state: torch.stack(column).masked_fill(~live, torch.nan)
            for state, column in zip(seen[name].names, columns, strict=True)
        }
    return result
