"""Random circumstances for the fuzzer: how a layer is called, and what changes between two calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from rnnlab.cells import Cell
from rnnlab.contracts.idioms import SMOOTH
from rnnlab.contracts.recipes import Recipe
from rnnlab.layers import Recurrent, VariationalDropout, WeightDrop, Zoneout
from rnnlab.trees import State, map_state, tensors_of


class _Looking(TorchDispatchMode):
    """A dispatch mode that passes every operation on."""

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return function(*args, **(kwargs or {}))


@dataclass
class Scenario:
    """Several calls of one layer, with changes in between.

    build: makes the cell.
    words: a description for the report.
    calls: functions ``layer -> results``, run in this order.
    ran_by: the backend that ran the last call.
    """

    build: Callable[[], Cell]
    words: str
    calls: list[Callable[[Recurrent], list[Tensor | None]]]
    ran_by: str = ""

    def run(self, backend: str) -> list[Tensor | None]:
        """Make the layer with a backend, and return the results of all calls."""
        layer = Recurrent(self.build(), backend)
        results: list[Tensor | None] = []
        with _restored():
            for call in self.calls:
                results += call(layer)
        self.ran_by = layer.choice.name
        return results


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Restore the class attributes of `Recipe` that a change may replace."""
    step, factor = Recipe.step, Recipe.factor
    try:
        yield
    finally:
        Recipe.step, Recipe.factor = step, factor


def scenario(draw: Random, build: Callable[[], Recipe], dtype: torch.dtype) -> Scenario:
    """Draw random circumstances for a cell that ``build`` makes."""
    wrap_name, wrap = draw.choice(list(_WRAPS.items())) if draw.random() < 0.25 else ("", lambda cell: cell)
    hook_name, hook = draw.choice(list(_HOOKS.items())) if draw.random() < 0.2 else ("", lambda cell: None)
    training = draw.random() < 0.7

    def make() -> Cell:
        inner = build()
        cell = wrap(inner).to(dtype).train(training)
        hook(inner)
        return cell

    words, calls = [dtype, wrap_name, hook_name, "training" if training else "evaluation"], []
    for place in range(draw.choice((1, 1, 2, 2, 3))):
        if place:
            change = draw.choice(list(_CHANGES))
            words.append(change)
            calls.append(partial(_change, _CHANGES[change]))
        way = draw.choice(list(_WAYS)) if draw.random() < 0.5 else "gradients"
        shape = (draw.choice((1, 2, 4, 5, 9, 30)), draw.choice((1, 2, 3, 4, 5, 7)))
        lengths = draw.choice(_LENGTHS) if draw.random() < 0.4 and way in _WITH_LENGTHS else None
        words += [way, list(shape), "" if lengths is None else f"lengths {lengths}"]
        calls.append(partial(_call, _WAYS[way], shape, lengths, draw.randrange(2**31)))
    return Scenario(make, ", ".join(str(word) for word in words if word), calls)


def _change(change: Callable[[Recurrent], None], layer: Recurrent) -> list[Tensor | None]:
    change(layer)
    return []


def _call(way: Callable, shape: tuple[int, int], lengths: torch.dtype | None, seed: int, layer: Recurrent) -> list:
    torch.manual_seed(seed)
    like = layer.cell.like
    inputs = torch.randn(*shape, layer.cell.input_size).to(like.dtype)
    given = None if lengths is None else torch.randint(1, shape[0] + 1, shape[1:]).to(lengths)
    state = map_state(lambda tensor: torch.randn(tensor.shape).to(tensor), layer.initial_state(shape[1]))
    torch.manual_seed(seed + 1)
    return way(layer, inputs, state, given)


def _loss(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> tuple[list[Tensor], Tensor]:
    results = tensors_of(layer(inputs, state, lengths))
    weights = [torch.linspace(0.5, 1.5, result.numel(), dtype=result.dtype).reshape(result.shape) for result in results]
    return results, sum((weight * result).sum() for weight, result in zip(weights, results, strict=True))


def _leaves(layer: Recurrent, inputs: Tensor, state: State) -> list[Tensor]:
    map_state(Tensor.requires_grad_, state)
    return [inputs.requires_grad_(), *tensors_of(state), *(p for p in layer.parameters() if p.requires_grad)]


def _grad(of: Tensor, leaves: list[Tensor], *gradients: Tensor, **options: bool) -> list[Tensor | None]:
    """Return the gradients of ``of`` with respect to the leaves; all None if ``of`` requires no gradient."""
    if not of.requires_grad:
        return [None] * len(leaves)
    return list(torch.autograd.grad(of, leaves, *gradients, allow_unused=True, **options))


def _gradients(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> list:
    leaves = _leaves(layer, inputs, state)
    results, loss = _loss(layer, inputs, state, lengths)
    return [*results, *_grad(loss, leaves)]


def _second_order(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> list:
    leaves = _leaves(layer, inputs, state)
    results, loss = _loss(layer, inputs, state, lengths)
    found = _grad(loss, leaves, create_graph=True)
    layer.train(not layer.training)  # a mode switch after the call must not affect the second pass
    total = sum((gradient.square().sum() for gradient in found if gradient is not None), torch.zeros(()))
    return [*results, *found, *_grad(total, leaves)]


def _no_gradients(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> list:
    with torch.no_grad():
        return tensors_of(layer(inputs, state, lengths))


def _inference(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> list:
    with torch.inference_mode():
        return [tensor.clone() for tensor in tensors_of(layer(inputs, state, lengths))]


def _twice_backward(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> list:
    leaves = _leaves(layer, inputs, state)
    _, loss = _loss(layer, inputs, state, lengths)
    return [*_grad(loss, leaves, retain_graph=True), *_grad(loss, leaves)]


def _in_parts(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> list:
    leaves = _leaves(layer, inputs, state)
    middle = len(inputs) // 2
    first, between = layer(inputs[:middle], state) if middle else (inputs.new_zeros(0), state)
    rest, _ = layer(inputs[middle:], between)
    return [rest, *_grad(rest.square().sum() + first.sum(), leaves)]


def _checkpointed(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> list:
    leaves = _leaves(layer, inputs, state)
    loss = checkpoint(lambda t: layer(t, state, lengths)[0].sin().sum(), inputs, use_reentrant=False)
    return [loss, *_grad(loss, leaves)]


def _looked_at(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> list:
    with _Looking():
        return _gradients(layer, inputs, state, lengths)


def _saved_elsewhere(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> list:
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach().clone(), lambda tensor: tensor):
        return _gradients(layer, inputs, state, lengths)


def _several_gradients(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> list:
    leaves = _leaves(layer, inputs, state)
    outputs = layer(inputs, state, lengths)[0]
    many = torch.stack([torch.ones_like(outputs), torch.cos(outputs.detach())])
    return [outputs, *_grad(outputs, leaves, many, is_grads_batched=True)]


def _other_weights(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> list:
    others = {name: (0.5 * p.detach()).requires_grad_() for name, p in layer.named_parameters()}
    outputs, _ = torch.func.functional_call(layer, others, (inputs, state, lengths))
    return [outputs, *_grad(outputs.square().sum(), list(others.values()), create_graph=True)]


def _forward_mode(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> list:
    return list(torch.func.jvp(lambda t: layer(t, state, lengths)[0], (inputs,), (torch.ones_like(inputs),)))


def _per_sequence(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None) -> list:
    weights = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(weights: dict[str, Tensor], sequence: Tensor) -> Tensor:
        return torch.func.functional_call(layer, weights, (sequence.unsqueeze(1),))[0].square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 1), randomness="same")(weights, inputs)
    return list(found.values())


_WITH_LENGTHS = ("gradients", "no gradients", "inference mode", "two backward passes", "second order", "looked at")
_LENGTHS = (torch.int64, torch.int32, torch.uint8, torch.uint16, torch.int8)
_WAYS: dict[str, Callable[..., list]] = {
    "gradients": _gradients,
    "no gradients": _no_gradients,
    "inference mode": _inference,
    "two backward passes": _twice_backward,
    "second order": _second_order,
    "in two parts": _in_parts,
    "checkpointed": _checkpointed,
    "looked at": _looked_at,
    "saved elsewhere": _saved_elsewhere,
    "several gradients at once": _several_gradients,
    "other weights": _other_weights,
    "forward mode": _forward_mode,
    "gradients of each sequence": _per_sequence,
}
_WRAPS: dict[str, Callable[[Cell], Cell]] = {
    "variational dropout": lambda cell: VariationalDropout(cell, 0.3, 0.0, 0.3),
    "zoneout": lambda cell: Zoneout(cell, [0.3]),
    "weight drop": lambda cell: WeightDrop(cell, 0.3),
}
_HOOKS: dict[str, Callable[[Cell], Any]] = {
    "pruned": lambda cell: prune.l1_unstructured(cell, "U", amount=0.4),
    "weight norm": lambda cell: parametrizations.weight_norm(cell, "U"),
    "orthogonal": lambda cell: parametrizations.orthogonal(cell, "V"),
    "hook before": lambda cell: cell.register_forward_pre_hook(lambda module, args: (2 * args[0],)),
    "hook on a weight": lambda cell: cell.b.register_hook(lambda gradient: 2 * gradient),
    "hook on a module in the step": lambda cell: cell.module.register_forward_hook(lambda m, a, out: 2 * out),
    "frozen weight": lambda cell: cell.W.requires_grad_(False),
    "frozen recurrent weight": lambda cell: cell.U.requires_grad_(False),
}


def _inner(layer: Recurrent) -> Recipe:
    return next(module for module in layer.modules() if isinstance(module, Recipe))


def _another_step(self: Recipe, constants: Any, x: Tensor, state: State) -> tuple[Tensor, State]:
    h = (x + linear(state[0], constants[0])).sigmoid()
    return h, (h, *state[1:])


@torch.no_grad()
def _learn(layer: Recurrent) -> None:
    for parameter in layer.parameters():
        parameter.mul_(0.8)


_CHANGES: dict[str, Callable[[Recurrent], Any]] = {
    "nothing changes": lambda layer: None,
    "attribute changed": lambda layer: setattr(_inner(layer), "slope", 0.3),
    "dictionary changed": lambda layer: _inner(layer).held.update(slope=0.2),
    "function changed": lambda layer: setattr(_inner(layer), "act", lambda z: z.sigmoid()),
    "option of a submodule changed": lambda layer: setattr(_inner(layer).module, "negative_slope", 0.9),
    "class attribute changed": lambda layer: setattr(Recipe, "factor", 0.5),
    "step replaced on the class": lambda layer: setattr(Recipe, "step", _another_step),
    "step replaced on the cell": lambda layer: setattr(_inner(layer), "step", MethodType(_another_step, _inner(layer))),
    "step extended": lambda layer: _inner(layer).steps.append((SMOOTH["tanh"], 0, 1)),
    "weights learned": _learn,
    "weight replaced": lambda layer: setattr(_inner(layer), "b", nn.Parameter(_inner(layer).b.detach() * 0.5)),
    "mode switched": lambda layer: layer.train(not layer.training),
    "float64": lambda layer: layer.double(),
    "weights frozen": lambda layer: layer.requires_grad_(False),
    "wrapped": lambda layer: setattr(layer, "cell", Zoneout(layer.cell, [0.2]).train(layer.training)),
    "saved weights loaded": lambda layer: layer.load_state_dict({k: 0.9 * v for k, v in layer.state_dict().items()}),
    "to be run as the plain loop": lambda layer: setattr(layer, "backend", "reference"),
}
