"""The contract of a cell, checked on every backend that can run it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache, partial
from math import isfinite
from statistics import geometric_mean
from typing import Any

import torch
from torch import Tensor

from rnnlab import cells, engine, lookup
from rnnlab.cells import Cell
from rnnlab.layers import Recurrent
from rnnlab.trees import State, map_state, nested, tensors_of

STEPS, BATCH, INPUT, HIDDEN = 6, 3, 5, 4
EXACT = {"rtol": 0.0, "atol": 1e-10}
"""Tolerances for float64 and values of order one: rounding errors are below 1e-13, an error in a term exceeds 1e-10."""
SMALL = 1e-5
"""Relative error in float32 that every backend may have."""
DRAWS = 25
"""Largest number of draws of inputs and weights before a cell is judged imprecise in float32. The relative error of LMU
varies between draws from 1e-6 to 1e-3, and its ratio to the reference's error from 0.4 to 3. Five draws gave a false
alarm in a fifth of all cases, fifteen in a fiftieth."""


def check_cell(cell: str | type[Cell], **options: Any) -> None:
    """Check that a cell keeps the contract of `rnnlab.cells.base`, on every backend that can run it.

    The checks, in float64 unless stated otherwise:

    - shapes and structure of outputs and state; a step without side effects;
    - derivatives against finite differences, in evaluation and training mode; a gradient for every parameter;
    - splitting a sequence; varying lengths; independence of the sequences of a batch; causality;
    - equal outputs, final states and gradients on all backends; determinism; NaN and infinity;
    - precision in float32; copies and saved weights.

    Args:
        cell: a name, ``package.module:Class``, or the class itself.
        options: the cell's own options.

    Raises:
        AssertionError: the cell breaks the contract; the message names the difference.
        InputError: the cell cannot run at all, for example because its step returns wrong shapes.
    """
    make = cells.find(cell) if isinstance(cell, str) else cell
    lookup.check_options(options, make, f"cell {make.__name__}")
    make = partial(make, **options)
    for check in CELL_CHECKS:
        torch.manual_seed(0)
        check(make)


def _layer(make: Callable[..., Cell], backend: str = "reference") -> Recurrent:
    layer = Recurrent(make(INPUT, HIDDEN).double(), backend).eval()
    for parameter in layer.parameters():  # zeros, such as new biases, would hide a missing term
        torch.nn.init.normal_(parameter, std=0.4)
    return layer


def _sequence(layer: Recurrent, grad: bool = False) -> tuple[Tensor, State]:
    """Draw random inputs and a random state."""
    state = map_state(torch.randn_like, layer.initial_state(BATCH))
    inputs = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    if grad:
        state = map_state(Tensor.requires_grad_, state)
    return inputs.requires_grad_(grad), state


@lru_cache(maxsize=1)  # a call of `check_cell` has one ``make``
def _backends(make: Callable[..., Cell]) -> list[str]:
    return engine.backends_of(make(INPUT, HIDDEN))


def same(found: Any, expected: Any, sentence: str, equal_nan: bool = False) -> None:
    """Raise an AssertionError that begins with ``sentence`` if two nested tuples of tensors differ."""
    pairs = zip(tensors_of(found), tensors_of(expected), strict=True)
    for number, (ours, theirs) in enumerate(pairs):
        torch.testing.assert_close(
            ours,
            theirs,
            **EXACT,
            equal_nan=equal_nan,
            msg=lambda text, n=number: f"{sentence} (tensor {n}): {text}",
        )


def shapes(make: Callable[..., Cell]) -> None:
    """Outputs are [T, B, output_size]; the state keeps its structure, shapes and types."""
    layer = _layer(make)
    inputs, state = _sequence(layer)
    outputs, final = layer(inputs, state)
    expected = (STEPS, BATCH, layer.output_size)
    assert outputs.shape == expected, (
        f"outputs have the shape {tuple(outputs.shape)}; it must be [T, B, output_size] = {expected}"
    )
    assert outputs.dtype == torch.float64, f"outputs of a float64 cell are {outputs.dtype}"
    for before, after in zip(tensors_of(state), tensors_of(final), strict=True):
        assert before.dtype == after.dtype, f"a step changes a state from {before.dtype} to {after.dtype}"
        assert before.shape[0] == BATCH, f"a state has the shape {tuple(before.shape)}; it must be [B, ...]"
    assert layer.cell.__doc__, "the cell has no docstring; it must give the equations and the paper"


def pure_step(make: Callable[..., Cell]) -> None:
    """A step depends on its arguments alone, changes none of them, and draws no random number."""
    cell = _layer(make).cell.train()
    state = map_state(torch.randn_like, cell.initial_state(BATCH))
    inputs = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    constants, prepared = cell(inputs)
    arguments = (constants, map_state(lambda tensor: tensor[0], prepared), state)
    before, random = deepcopy([t.detach() for t in tensors_of(arguments)]), torch.get_rng_state()
    first = cell.step(*arguments)
    same([t.detach() for t in tensors_of(arguments)], before, "a step changed its arguments")
    assert torch.equal(random, torch.get_rng_state()), "a step drew a random number; draw masks in prepare"
    same(cell.step(*arguments), first, "the same step twice gave different results")
    if type(cell).activate is not Cell.activate:
        one = map_state(lambda tensor: tensor[0], cell(inputs, raw=True)[1])
        same(cell.activate(constants, one), arguments[1], "activate gives one step other values than all steps")


def derivatives(make: Callable[..., Cell], training: bool = False) -> None:
    """Gradients of outputs and final states agree with finite differences, and every parameter has one."""
    layer = _layer(make).train(training)
    inputs, state = _sequence(layer, grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(inputs: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        if training:
            torch.manual_seed(0)  # the same masks in each call, if the cell draws masks
        return tuple(tensors_of(layer(inputs[:3], nested(state, rest))))

    parameters = list(layer.parameters())
    free = [inputs, *tensors_of(state)]
    assert layer.cell.has_surrogate or torch.autograd.gradcheck(
        lambda *all_: run(*all_[: len(free)]), (*free, *parameters), fast_mode=True
    )
    loss = sum(tensor.abs().sum() for tensor in run(*free))
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        assert gradient is not None, f"the parameter {name} is never used"


def derivatives_in_training(make: Callable[..., Cell]) -> None:
    """Check derivatives in training mode, where a cell may draw masks, unless the gradients are those of evaluation."""
    layer = _layer(make)
    inputs, state = _sequence(layer, grad=True)
    runs = []
    for training in (False, True):
        torch.manual_seed(0)
        runs.append(_everything(layer.train(training), inputs, state))
    if not all(torch.equal(evaluated, trained) for evaluated, trained in zip(*runs, strict=True)):
        derivatives(make, training=True)


def splitting(make: Callable[..., Cell]) -> None:
    """Running a sequence in two parts, with the state of the first passed to the second, equals running it whole."""
    for backend in _backends(make):
        layer = _layer(make, backend)
        inputs, state = _sequence(layer)
        whole = layer(inputs, state)
        first, middle = layer(inputs[:2], state)
        rest, final = layer(inputs[2:], middle)
        same((torch.cat([first, rest]), final), whole, f"{backend}: a sequence in two parts differs from the whole")


def varying_lengths(make: Callable[..., Cell]) -> None:
    """With lengths, each sequence ends as it would alone, and its outputs past the end are zero."""
    lengths = torch.tensor([2, STEPS, 1])
    for backend in _backends(make):
        layer = _layer(make, backend)
        inputs, state = _sequence(layer)
        outputs, final = layer(inputs, state, lengths)
        for row, length in enumerate(lengths.tolist()):
            one = slice(row, row + 1)
            alone = layer(inputs[:length, one], map_state(lambda tensor, one=one: tensor[one], state))
            ours = (outputs[:length, one], map_state(lambda tensor, one=one: tensor[one], final))
            same(ours, alone, f"{backend}: a sequence of length {length} differs from the same one alone")
            assert not outputs[length:, row].any(), f"{backend}: outputs past a sequence's end are not zero"


def independent_rows(make: Callable[..., Cell]) -> None:
    """No output depends on another sequence of the batch."""
    for backend in _backends(make):
        layer = _layer(make, backend)
        inputs, state = _sequence(layer)
        changed = inputs.clone()
        changed[:, 0] += 1
        before, after = layer(inputs, state)[0], layer(changed, state)[0]
        same(after[:, 1:], before[:, 1:], f"{backend}: changing one sequence changed another")
        assert not torch.equal(after[:, 0], before[:, 0]), f"{backend}: outputs do not depend on the inputs"


def causal(make: Callable[..., Cell]) -> None:
    """No output depends on a later input."""
    for backend in _backends(make):
        layer = _layer(make, backend)
        inputs, state = _sequence(layer)
        changed = inputs.clone()
        changed[3:] += 1
        same(
            layer(changed, state)[0][:3], layer(inputs, state)[0][:3], f"{backend}: an output depends on a later input"
        )


def backends_agree(make: Callable[..., Cell]) -> None:
    """Every backend gives the reference's outputs, final states and gradients."""
    reference = _layer(make)
    inputs, state = _sequence(reference, grad=True)
    for lengths in (None, torch.tensor([2, STEPS, 1])):
        expected = _everything(reference, inputs, state, lengths)
        for backend in _backends(make):
            found = _everything(Recurrent(reference.cell, backend).eval(), inputs, state, lengths)
            same(tuple(found), tuple(expected), f"{backend} differs from the reference")


def deterministic(make: Callable[..., Cell]) -> None:
    """Repeating a call gives bit-identical results and gradients."""
    for backend in _backends(make):
        layer = _layer(make, backend)
        inputs, state = _sequence(layer, grad=True)
        first, second = (_everything(layer, inputs, state) for _ in range(2))
        same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert same, f"{backend}: repeating a call gives different results"


def not_finite(make: Callable[..., Cell]) -> None:
    """With NaN or infinity in the inputs of one sequence, all results equal those of the reference."""
    for value in (float("nan"), float("inf"), -float("inf")):
        layer = _layer(make)
        inputs, state = _sequence(layer)
        inputs[2, 0, 0] = value
        expected = layer(inputs, state)
        for backend in _backends(make):
            found = Recurrent(layer.cell, backend)(inputs, state)
            for ours, theirs in zip(tensors_of(found), tensors_of(expected), strict=True):
                torch.testing.assert_close(
                    ours,
                    theirs,
                    **EXACT,
                    equal_nan=True,
                    msg=lambda text, b=backend, v=value: (
                        f"{b}: with {v} in the inputs, it differs from the reference: {text}"
                    ),
                )


def single_precision(make: Callable[..., Cell]) -> None:
    """Over 512 steps in float32 the error of a backend stays below 1e-5 of a tensor's largest magnitude, or below twice
    the error of the reference in float32.

    Errors of cells that lose digits vary between draws. If one draw exceeds the limit, others follow, and the
    geometric mean decides.
    """
    for backend in _backends(make)[1:]:
        draws: list[list[tuple[float, float]]] = []
        for _ in range(DRAWS):
            draws.append(_errors(make, backend, is_first=not draws))
            far = _too_far(draws)
            if far is None:
                break
        assert far is None, f"{backend}: the error in float32 (tensor {far[0]}) is {far[1]:.1e}, above {far[2]:.1e}"


def _errors(make: Callable[..., Cell], backend: str, is_first: bool) -> list[tuple[float, float]]:
    """Return the largest errors of a backend and of the reference in float32, for each output, state and gradient.

    The reference takes most of the time. Where the first draw needs no comparison with it, its errors are 0.
    """
    layer = _layer(make)
    state = map_state(Tensor.requires_grad_, map_state(torch.randn_like, layer.initial_state(BATCH)))
    inputs = torch.randn(512, BATCH, INPUT, dtype=torch.float64, requires_grad=True)
    truth = _everything(layer, inputs, state)
    layer.float()
    state = map_state(lambda tensor: tensor.detach().float().requires_grad_(), state)
    inputs = inputs.detach().float().requires_grad_()

    def errors(backend: str) -> list[float]:
        found = _everything(Recurrent(layer.cell, backend).eval(), inputs, state)
        pairs = zip(found, truth, strict=True)
        return [float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs]

    ours = errors(backend)
    if is_first and all(error <= SMALL for error in ours):
        return [(error, 0.0) for error in ours]
    return list(zip(ours, errors("reference"), strict=True))


def _too_far(draws: list[list[tuple[float, float]]]) -> tuple[int, float, float] | None:
    """Return number, error and limit (geometric means) of the first tensor whose error exceeds its limit."""
    for number, pairs in enumerate(zip(*draws, strict=True)):
        pairs = [pair for pair in pairs if isfinite(pair[1])] or [(0.0, 0.0)]  # the reference itself may overflow
        allowed = [max(SMALL, 2 * theirs) for _, theirs in pairs]
        # A lower bound, so that one exact draw does not hide the others.
        ours = [max(mine, limit / 10) for (mine, _), limit in zip(pairs, allowed, strict=True)]
        if not geometric_mean(ours) <= geometric_mean(allowed) * (1 + 1e-9):  # also if the error is NaN
            return number, geometric_mean(ours), geometric_mean(allowed)
    return None


def _everything(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None = None) -> list[Tensor]:
    """Return outputs, final state, and the gradients of inputs, state and parameters."""
    results = tensors_of(layer(inputs, state, lengths))
    weights = [torch.linspace(0.5, 1.5, r.numel(), dtype=r.dtype).reshape(r.shape) for r in results]
    loss = sum((weight * result).sum() for weight, result in zip(weights, results, strict=True))
    leaves = [inputs, *tensors_of(state), *layer.parameters()]
    return [*(result.detach() for result in results), *torch.autograd.grad(loss, leaves)]


def copies(make: Callable[..., Cell]) -> None:
    """A deep copy and a cell that loads the state dict give the same results, and float32 stays float32."""
    layer = _layer(make)
    inputs, state = _sequence(layer)
    expected = layer(inputs, state)
    same(deepcopy(layer)(inputs, state), expected, "a deep copy differs")
    other = _layer(make)
    other.load_state_dict(layer.state_dict())
    same(other(inputs, state), expected, "another cell with the same state dict differs")
    single = layer.float()(inputs.float(), map_state(Tensor.float, state))[0]
    assert single.dtype == torch.float32, f"outputs of a float32 cell are {single.dtype}"


CELL_CHECKS = (
    pure_step,
    shapes,
    derivatives,
    derivatives_in_training,
    splitting,
    varying_lengths,
    independent_rows,
    causal,
    backends_agree,
    deterministic,
    not_finite,
    single_precision,
    copies,
)
