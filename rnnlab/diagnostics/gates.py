"""Activations of a cell's gates: every sigmoid of a step is recorded, with the gate's name if the cell declares it."""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rnnlab.cells import Cell
from rnnlab.diagnostics.trajectory import Trajectory
from rnnlab.layers.wrapped import innermost
from rnnlab.trees import map_state, tensors_of, unstack

LEFT, RIGHT = 0.1, 0.9
"""A gate is saturated below LEFT or above RIGHT (Karpathy, Johnson and Fei-Fei, 2015, arXiv:1506.02078)."""

_LOGARITHMS = ("log_sigmoid", "logsigmoid")
_SIGMOIDS = ("sigmoid", "special_expit", *_LOGARITHMS)
_BOUNDED = (*_SIGMOIDS, "tanh")


class Gate(NamedTuple):
    """A gate along a trajectory.

    values: activations between 0 and 1, ``[T, B, units]``.
    keeps: 1 if an open gate keeps the state, -1 if a closed gate does, None if the cell declares neither.
    """

    values: Tensor
    keeps: int | None = None


def gates(trajectory: Trajectory) -> dict[str, Gate]:
    """Return every gate of a cell along a trajectory, by name; empty if its step has no sigmoid.

    A gate is a sigmoid, or the exponential of a log-sigmoid, whose argument depends on inputs or state. The cell's
    ``gates`` name the rows of the bias (of W or U if there is no bias). A gate has the name of the rows that reach it
    without passing through another nonlinearity, such as ``f``, or ``f/i`` for the rows of two names. Gates without a
    name are called ``sigmoid 1`` and so on.

    Args:
        trajectory: trajectory of T steps.
    """
    names = _names(trajectory)
    with torch.no_grad(), _Watch() as watch:
        constants, prepared = trajectory.cell(trajectory.inputs, **trajectory.context)
        first = watch.take()
        rows = []
        for inputs, state in zip(unstack(prepared), trajectory.before, strict=True):
            trajectory.cell.step(constants, inputs, state)
            rows.append(watch.take())
    seen = [one.value for one in first] + [
        torch.stack([one.value for one in column]) for column in zip(*rows, strict=True)
    ]
    found = {}
    for value, parts in zip(seen, names, strict=True):
        if parts:
            pieces = value.flatten(2).chunk(len(parts), -1)
            for part, piece in zip(parts, pieces, strict=True):
                found[_unused(part.name, found)] = Gate(piece, part.keeps)
    return found


class Saturation(NamedTuple):
    """Share of steps in which each unit of a gate is saturated, ``[units]`` each.

    left: share of steps below 0.1.
    right: share of steps above 0.9.
    """

    left: Tensor
    right: Tensor


def saturation(gate: Gate, live: Tensor | None = None) -> Saturation:
    """Return how often each unit is saturated (Karpathy, Johnson and Fei-Fei, 2015, arXiv:1506.02078, section 4.2).

    Args:
        gate: the gate.
        live: mask of the steps that count, bool ``[T, B]``; None for all.
    """
    values = _counted(gate.values, live)
    return Saturation((values < LEFT).double().mean(0), (values > RIGHT).double().mean(0))


def time_scales(gate: Gate, live: Tensor | None = None) -> Tensor | None:
    """Return the time scale of each unit in steps, ``[units]``; None if the gate is not declared to keep the state.

    The state of a unit is multiplied by f at every step, where f is the gate or one minus the gate. Over many steps the
    state decays as exp(-t/τ) with τ = -1 / E[log f]. For a constant f this is the -1 / log f of Mahto et al. (2021,
    arXiv:2009.12727), which is close to the 1 / (1 - f) of Tallec and Ollivier (2018, arXiv:1804.11188).

    Args:
        gate: the gate.
        live: mask of the steps that count, bool ``[T, B]``; None for all.
    """
    if gate.keeps is None:
        return None
    values = _counted(gate.values, live)
    return -1 / (values if gate.keeps == 1 else 1 - values).log().mean(0)


def _counted(values: Tensor, live: Tensor | None) -> Tensor:
    """Return the values of the steps that count as rows, ``[steps, units]``."""
    return values.flatten(0, 1) if live is None else values[live]


class _Seen(NamedTuple):
    """A recorded sigmoid: its argument, its result, and whether the result is the logarithm of the sigmoid."""

    argument: Tensor
    result: Tensor
    is_logarithm: bool

    @property
    def value(self) -> Tensor:
        return self.result.exp() if self.is_logarithm else self.result


class _Watch(TorchFunctionMode):
    """Records every sigmoid.

    Args:
        cut: whether to detach the results of bounded functions, so that gradients with respect to the parameters show
            which of them reach a sigmoid without passing through another nonlinearity.
    """

    def __init__(self, cut: bool = False) -> None:
        super().__init__()
        self.cut = cut
        self.seen: list[_Seen] = []

    def take(self) -> list[_Seen]:
        """Return the sigmoids recorded since the last call."""
        seen, self.seen = self.seen, []
        return seen

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        if name in _SIGMOIDS:
            self.seen.append(_Seen(args[0], result, name in _LOGARITHMS))
        # Log-sigmoids are not detached, so that a log-sigmoid inside another gate can be found.
        return result.detach() if self.cut and name in _BOUNDED and name not in _LOGARITHMS else result


class _Part(NamedTuple):
    """One of the gates that a sigmoid computes."""

    name: str
    keeps: int | None


def _names(trajectory: Trajectory) -> list[list[_Part]]:
    """Return for every sigmoid, in order, the gates that it computes; empty if it is not a gate."""
    inner = innermost(trajectory.cell)
    source = next((p for p in (getattr(inner, name, None) for name in ("b", "W", "U")) if p is not None), None)
    varying, seen = _one_step(trajectory, cut=False)
    are_gates = [_reaches(one.argument, varying) for one in seen]
    _, seen = _one_step(trajectory, cut=True)
    named, nameless = [], count(1)
    for number, (one, is_gate) in enumerate(zip(seen, are_gates, strict=True)):
        later = [other.argument for other in seen[number + 1 :]]
        if not is_gate or any(_reaches(argument, [one.result]) for argument in later):  # a part of another gate
            named.append([])
            continue
        width = one.argument.shape[-1]
        pieces = one.argument.chunk(width // inner.hidden_size if width % inner.hidden_size == 0 else 1, -1)
        parts = [_name(inner, piece, source) for piece in pieces]
        for place, part in enumerate(parts):
            if part is None:
                parts[place] = _Part(f"sigmoid {next(nameless)}", None)
        named.append(parts)
    return _only_keepers(named)


def _one_step(trajectory: Trajectory, cut: bool) -> tuple[list[Tensor], list[_Seen]]:
    """Run the first step; return its inputs and states as leaves, and the sigmoids in ``prepare`` and in the step."""
    with torch.enable_grad(), _Watch(cut) as watch:
        inputs = trajectory.inputs[:1].detach().requires_grad_()
        state = map_state(_leaf, trajectory.before[0])
        constants, prepared = trajectory.cell(inputs, **trajectory.context_until(1))
        trajectory.cell.step(constants, unstack(prepared)[0], state)
    return [inputs, *tensors_of(state)], watch.take()


def _only_keepers(named: list[list[_Part]]) -> list[list[_Part]]:
    """Set ``keeps`` to None for gates that keep at 0 if another keeps at 1: input gates have no time scale."""
    if not any(part.keeps == 1 for parts in named for part in parts):
        return named
    return [[part if part.keeps == 1 else part._replace(keeps=None) for part in parts] for parts in named]


def _name(cell: Cell, argument: Tensor, source: Tensor | None) -> _Part | None:
    """Return the gate whose rows of ``source`` reach an argument; None if the cell does not name it."""
    if source is None or not source.requires_grad or not cell.gates or not argument.requires_grad:
        return None
    # Unequal weights, because the derivative of an unweighted sum vanishes after a normalisation.
    weights = torch.linspace(1, 2, argument.numel(), dtype=argument.dtype, device=argument.device)
    (reached,) = torch.autograd.grad(
        argument, source, weights.view_as(argument), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    blocks = dict(zip(cell.gates, reached.split(cell.hidden_size), strict=False))
    touched = [name for name, block in blocks.items() if block.abs().sum() > 0]
    if not touched:
        return None
    # A negative derivative means one minus the named gate, which keeps the state at the opposite value.
    signs = {
        cell.remembers[name] * (1 if blocks[name].sum() > 0 else -1)
        if source is getattr(cell, "b", None)
        else cell.remembers[name]
        for name in touched
        if name in cell.remembers
    }
    return _Part("/".join(touched), signs.pop() if len(signs) == 1 else None)


def _unused(name: str, names: dict[str, Gate]) -> str:
    """Return ``name``, with a number if it is taken because a step computes the gate several times."""
    return next(new for number in count(1) if (new := name if number == 1 else f"{name} ({number})") not in names)


def _leaf(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.requires_grad_() if tensor.is_floating_point() or tensor.is_complex() else tensor


def _reaches(tensor: Tensor, sources: list[Tensor]) -> bool:
    """Return whether ``tensor`` depends on one of ``sources``."""
    sources = [source for source in sources if source.requires_grad]
    if not tensor.requires_grad or not sources:
        return False
    return any(
        grad is not None for grad in torch.autograd.grad(tensor.sum(), sources, retain_graph=True, allow_unused=True)
    )
