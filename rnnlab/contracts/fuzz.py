"""A differential fuzzer: random steps in random circumstances, every backend against the plain loop.

Outputs, final states and all gradients must be those of the plain loop, or the backend must say that it cannot run the
step, in one sentence.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from rnnlab.contracts.idioms import CORNERED, SMOOTH, UNUSUAL
from rnnlab.engine import fused
from rnnlab.interface import InputError, State, map_state, tensors_of
from rnnlab.layers import Recurrent, VariationalDropout, WeightDrop, Zoneout

BACKENDS = ("fused", "auto", "scan", "native")
TOLERANCES = {torch.float64: 1e-6, torch.float32: 2e-3}
"""Largest error, as a share of the largest magnitude among the results of a case. PyTorch's own derivatives of
``hardsigmoid`` and ``celu`` have constants in single precision."""


@dataclass
class Report:
    """What a run of the fuzzer found.

    cases: random steps tried.
    equal: runs of a backend that gave the numbers of the plain loop.
    fell_back: how many of these were by a backend that runs the step as a plain loop.
    refused: reasons why a backend would not run a step, with their number.
    skipped: steps on which the plain loop itself fails, with the reason.
    failures: what differed, a sentence each with the case's number.
    """

    cases: int = 0
    equal: int = 0
    fell_back: int = 0
    refused: Counter = field(default_factory=Counter)
    skipped: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.cases} steps: {self.equal} runs equal to the plain loop, {self.fell_back} of them run as one, "
            f"{sum(self.refused.values())} refused, {sum(self.skipped.values())} steps that the plain loop cannot run, "
            f"{len(self.failures)} different"
        ]
        for title, counts in (("refused", self.refused), ("plain loop", self.skipped)):
            lines += [f"  {title}: {count} x {reason}" for reason, count in counts.most_common()]
        return "\n".join([*lines, *self.failures])


class Recipe(Cell):
    """A cell whose step is a list of operations: ``(function, first argument, second argument)`` by place."""

    factor = 0.9

    def __init__(self, input_size: int, hidden_size: int, steps: list[tuple[Callable, int, int]], states: int) -> None:
        super().__init__(input_size, hidden_size)
        self.states = ("h", "c")[:states]
        self.W = nn.Parameter(torch.randn(hidden_size, input_size) / input_size**0.5)
        self.U = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)
        self.V = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)
        self.b = nn.Parameter(torch.randn(hidden_size))
        self.steps = list(steps)
        self.slope, self.held, self.act, self.module = 0.8, {"slope": 0.6}, torch.tanh, nn.LeakyReLU(0.3)
        self.used: tuple[Tensor, ...] = ()

    def prepare(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:  # noqa: D102
        return (self.U, self.V, self.b), linear(inputs, self.W)

    def step(self, constants: Any, x: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        view = _View(self, constants)
        values = [x, *state]
        for function, first, second in self.steps:
            values.append(function(view, values[first % len(values)], values[second % len(values)]))
        states = tuple(
            (value + 0.1 * before).tanh() for value, before in zip(values[-len(state) :], state, strict=True)
        )
        return states[0], states


class _View:
    """A recipe's cell as its operations see it: ``used`` are the weights that the step received."""

    def __init__(self, cell: Recipe, used: tuple[Tensor, ...]) -> None:
        object.__setattr__(self, "cell", cell)
        object.__setattr__(self, "used", used)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cell, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.cell, name, value)


class _Looking(TorchDispatchMode):
    """Sees every operation and changes none."""

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return function(*args, **(kwargs or {}))


def fuzz(count: int = 200, seed: int = 0, *, first: int = 0, compiled: float = 0.1, unusual: float = 0.4) -> Report:
    """Try ``count`` random steps.

    Args:
        count: random steps.
        seed: of the cases; each is a function of the seed and its number.
        first: number of the first case, to repeat one.
        compiled: share of the cases in which C is compiled; in the others the traced steps run as Python.
        unusual: share of the cases with something in the step that is no documented operation.

    Returns:
        what was found; ``failures`` is empty where every backend kept its promise.
    """
    report = Report()
    for number in range(first, first + count):
        _case(report, number, Random(f"{seed}-{number}"), compiled, unusual)
        report.cases += 1
    return report


def _case(report: Report, number: int, draw: Random, compiled: float, unusual: float) -> None:
    names, build = _recipe(draw, unusual)
    dtype = torch.float32 if draw.random() < 0.25 and not set(names) & {*CORNERED, *UNUSUAL} else torch.float64
    scenario = _scenario(draw, build, dtype)
    keep = contextlib.nullcontext() if draw.random() < compiled else _as_python()
    what = f"case {number}, {' > '.join(names)}, {scenario.words}"
    with keep:
        expected = _outcome(scenario, "reference")
        if isinstance(expected, Exception):
            report.skipped[f"{type(expected).__name__}: {str(expected).splitlines()[0][:60]}"] += 1
            return
        for backend in BACKENDS:
            found = _outcome(scenario, backend)
            if isinstance(found, InputError) and backend != "auto":
                report.refused[str(found).partition(", ")[2].partition(";")[0]] += 1
            elif isinstance(found, Exception):
                report.failures.append(f"{what}: {backend} raises {type(found).__name__}: {found}")
            elif (error := _error(found, expected)) > TOLERANCES[dtype]:
                report.failures.append(f"{what}: {backend} differs by {error:.2g}")
            else:
                report.equal += 1
                report.fell_back += scenario.ran_by == "reference"


def _outcome(scenario: _Scenario, backend: str) -> list[Tensor | None] | Exception:
    try:
        return scenario.run(backend)
    except Exception as error:  # whatever it is, it is the finding
        return error


def _error(found: list[Tensor | None], expected: list[Tensor | None]) -> float:
    """The largest difference, as a share of the largest magnitude; infinite where shapes or types differ."""
    if len(found) != len(expected):
        return float("inf")
    size = max(
        (float(t.detach().abs().nan_to_num(0, 0, 0).max()) for t in expected if t is not None and t.numel()), default=1
    )
    worst = 0.0
    for mine, true in zip(found, expected, strict=True):
        if mine is None or true is None:  # no gradient is one of zeros
            other = true if mine is None else mine
            worst = max(worst, float(other.abs().max()) if other is not None and other.numel() else 0.0)
            continue
        if mine.shape != true.shape or mine.dtype != true.dtype:
            return float("inf")
        mine, true = (t.detach().nan_to_num(7.0, 8.0, -8.0) for t in (mine, true))
        worst = max(worst, float((mine - true).abs().max()) if true.numel() else 0.0)
    return worst / max(size, 1e-6)


@contextlib.contextmanager
def _as_python() -> Iterator[None]:
    """Traced steps run as Python: compiling each would take most of the time."""
    compiles = fused.Traced.lowered
    fused.Traced.lowered = None
    try:
        yield
    finally:
        fused.Traced.lowered = compiles


def _recipe(draw: Random, unusual: float) -> tuple[list[str], Callable[[], Recipe]]:
    """The names of a random step's operations, and what makes a cell of it, the same each time."""
    choices = {**SMOOTH, **CORNERED} if draw.random() < 0.7 else SMOOTH
    names = draw.choices(list(choices), k=draw.randint(1, 6))
    if draw.random() < unusual:
        names.insert(draw.randint(0, len(names)), draw.choice(list(UNUSUAL)))
    known = {**SMOOTH, **CORNERED, **UNUSUAL}
    steps = [(known[name], draw.randrange(8), draw.randrange(8)) for name in names]
    sizes, states, seed = (
        (draw.choice((1, 2, 3, 5)), draw.choice((1, 2, 3, 4, 5))),
        draw.choice((1, 1, 2)),
        draw.random(),
    )

    def build() -> Recipe:
        torch.manual_seed(int(seed * 2**31))
        return Recipe(*sizes, steps, states)

    return names, build


@dataclass
class _Scenario:
    """Calls of a layer, one after the other, with a change in between.

    build: makes the cell.
    words: what happens, for the report.
    calls: ``(layer, generator seed) -> results``, run one after the other.
    """

    build: Callable[[], Cell]
    words: str
    calls: list[Callable[[Recurrent], list[Tensor | None]]]
    ran_by: str = ""

    def run(self, backend: str) -> list[Tensor | None]:
        """Everything that the calls gave."""
        layer = Recurrent(self.build(), backend)
        results: list[Tensor | None] = []
        with _restored():
            for call in self.calls:
                results += call(layer)
        self.ran_by = layer.choice.name
        return results


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """What a change did to the class of all recipes does not last."""
    step, factor = Recipe.step, Recipe.factor
    try:
        yield
    finally:
        Recipe.step, Recipe.factor = step, factor


def _scenario(draw: Random, build: Callable[[], Recipe], dtype: torch.dtype) -> _Scenario:
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
    return _Scenario(make, ", ".join(str(word) for word in words if word), calls)


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
    """The gradients of ``of``; None for each where it depends on none of the leaves."""
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
    layer.train(not layer.training)  # what happens after the call does not reach the second pass
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
