"""How much of the loss's gradient reaches the state at every step: the norms of dL/dh_t.

(Hochreiter, 1991; Bengio, Simard and Frasconi, 1994, doi:10.1109/72.279181; Pascanu, Mikolov and Bengio, 2013,
arXiv:1211.5063.) Derivatives are total, as backpropagation through time has them: by all ways that lead from h_t to
the loss, at step t and later. Where a step makes one state from another, h_t from c_t, dL/dc_t has the way through h_t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rnnlab.diagnostics.trajectory import Trajectory, watching
from rnnlab.interface import Batch, InputError, Mean, State, tensors_of
from rnnlab.models import Model


class Flow(NamedTuple):
    """Norms of a loss's gradient with respect to one layer's states, of every sequence by itself.

    states: for every tensor of the state, by name, ``[T, B]``; NaN past a sequence's end.
    end: the last scored step of every sequence, int64 ``[B]``, counted as the layer reads.
    """

    states: dict[str, Tensor]
    end: Tensor

    @property
    def total(self) -> Tensor:
        """The norms with respect to the whole state, all its tensors as one vector, ``[T, B]``."""
        return torch.stack(list(self.states.values())).square().sum(0).sqrt()

    def by_step(self, norms: Tensor) -> Tensor:
        """``norms`` ``[T, B]`` as a root mean square over the sequences that have the step, ``[T]``."""
        return norms.square().nanmean(1).sqrt()

    def by_distance(self, norms: Tensor) -> Tensor:
        """The same by the distance from the last scored step, ``[D]``, 0 first.

        D is how many steps the sequence with the most of them has up to there.
        """
        rows = []
        for distance in range(int(self.end.max()) + 1):
            step = self.end - distance
            found = norms.gather(0, step.clamp_min(0).unsqueeze(0))[0]
            rows.append(found.where(step >= 0, torch.nan))
        return self.by_step(torch.stack(rows))


class Flows(NamedTuple):
    """The gradients of two losses.

    whole: of the loss that is trained on.
    last: of that part of it which the last scored step of every sequence has: where every step is scored, only this
        shows how far a gradient reaches.
    """

    whole: Flow
    last: Flow


def gradient_flow(
    model: Model, batch: Batch, loss: Callable[[Tensor, Batch], Mean], state: State | None = None
) -> tuple[dict[str, Flows], dict[str, Trajectory]]:
    """The norms of dL/dh_t in every recurrent layer, by the layer's name in the model.

    The model's own gradients and its state are left alone; its mode (evaluation or training) is the caller's.

    Args:
        model: the model.
        batch: what it reads.
        loss: of its outputs, as a task gives it: the total and the count of a mean.
        state: what it begins with; None to begin anew.

    Returns:
        the norms, and the trajectory of every layer.

    Raises:
        InputError: the model has no recurrent layer, or its loss sees none of the outputs.
    """
    with torch.enable_grad(), watching(model) as seen:
        outputs, _ = model(batch, state)
        total, count = loss(outputs, batch)
        (from_outputs,) = torch.autograd.grad(total.sum() / count, outputs, retain_graph=True)
    scored = from_outputs.flatten(2).abs().sum(-1) > 0  # [T, B]
    if not scored.any():
        raise InputError("the gradient of the loss is zero at every output of this batch; there is nothing to follow")
    steps = torch.arange(len(scored), device=scored.device).unsqueeze(1)
    end = (steps * scored).amax(0)
    only_last = from_outputs * (steps == end).unflatten(1, (-1, *[1] * (from_outputs.dim() - 2)))
    whole, last = (_norms(seen, outputs, given) for given in (from_outputs, only_last))
    flows = {}
    for name, found in seen.items():
        lengths = found.counts.sum(0)
        seen_last = end if len(found) == len(scored) else lengths - 1  # other steps than the outputs': no alignment
        if model.get_submodule(name).reverse:
            seen_last = lengths - 1 - seen_last
        flows[name] = Flows(Flow(whole[name], seen_last), Flow(last[name], seen_last))
    return flows, {name: found.detached() for name, found in seen.items()}


def _norms(seen: dict[str, Trajectory], outputs: Tensor, given: Tensor) -> dict[str, dict[str, Tensor]]:
    """For every layer and state the norms, ``[T, B]``, of the gradients that ``given`` at the outputs leads to."""
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
