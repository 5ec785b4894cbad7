"""Public checks of the contracts, for cells and tasks inside this package and outside it.

    from rnnlab.contracts import check_cell, check_task
    check_cell(MyCell)
    check_task(MyTask, seq_len=20)

A broken contract raises AssertionError with a sentence that says which.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from math import isfinite
from statistics import geometric_mean
from typing import Any

import torch
from torch import Tensor

from rnnlab import cells, engine, lookup, tasks
from rnnlab.cells import Cell
from rnnlab.interface import Batch, Images, State, Tokens, Vectors, map_state, tensors_of
from rnnlab.layers import Recurrent
from rnnlab.models import Model
from rnnlab.models.sequence_model import SequenceModel
from rnnlab.tasks import Task
from rnnlab.training.device import autocast
from rnnlab.training.evaluation import evaluate

STEPS, BATCH, INPUT, HIDDEN = 6, 3, 5, 4
EXACT = {"rtol": 0.0, "atol": 1e-10}
"""Float64 with values of order one: rounding alone stays below 1e-13, a wrong term does not stay below 1e-10."""
DRAWS = 25
"""Of inputs and weights, at most, before a cell is found imprecise in float32. LMU's error goes from 1e-6 to 1e-3 of
the largest magnitude by draw, and its ratio to the plain loop's from 0.4 to 3: five draws told of an error that was
none in a fifth of all cases, fifteen in a fiftieth."""


def check_cell(cell: str | type[Cell], **options: Any) -> None:
    """Check that a cell keeps the contract of `rnnlab.cells.base`, on every backend that can run it.

    In float64: shapes and structure; a pure step; derivatives against finite differences, in evaluation and in
    training; a gradient for every parameter; and in evaluation, where no masks are drawn, splitting a sequence; varying
    lengths; independence of the sequences of a batch; causality; agreement of the backends in outputs, final states and
    every gradient; determinism; NaN and infinity; precision in float32; copies and saved weights.

    Args:
        cell: a name, ``package.module:Class``, or the class itself.
        options: the cell's own options.

    Raises:
        AssertionError: the contract is broken; the message says where.
        InputError: the cell cannot be run at all, as its step returns no output and state of the given shapes, say.
    """
    make = cells.find(cell) if isinstance(cell, str) else cell
    lookup.check_options(options, make, f"cell {make.__name__}")
    for check in CELL_CHECKS:
        torch.manual_seed(0)
        check(partial(make, **options))


def _layer(make: Callable[..., Cell], backend: str = "reference") -> Recurrent:
    layer = Recurrent(make(INPUT, HIDDEN).double(), backend).eval()
    for parameter in layer.parameters():  # zeros (a bias, a gate) would hide a term that is missing
        torch.nn.init.normal_(parameter, std=0.4)
    return layer


def _sequence(layer: Recurrent, grad: bool = False) -> tuple[Tensor, State]:
    """Random inputs and a random state."""
    state = map_state(torch.randn_like, layer.initial_state(BATCH))
    inputs = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    if grad:
        state = map_state(Tensor.requires_grad_, state)
    return inputs.requires_grad_(grad), state


def _backends(make: Callable[..., Cell]) -> list[str]:
    return engine.backends_of(make(INPUT, HIDDEN))


def _same(found: Any, expected: Any, sentence: str, equal_nan: bool = False) -> None:
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
        f"outputs are {tuple(outputs.shape)}, they must be [T, B, output_size] = {expected}"
    )
    assert outputs.dtype == torch.float64, f"a float64 cell gives {outputs.dtype}"
    for before, after in zip(tensors_of(state), tensors_of(final), strict=True):
        assert before.dtype == after.dtype, f"a state goes from {before.dtype} to {after.dtype} in a step"
        assert before.shape[0] == BATCH, f"a state is {tuple(before.shape)}, the batch must come first"
    assert layer.cell.__doc__, "the cell has no docstring; it must give the equations and the paper"


def pure_step(make: Callable[..., Cell]) -> None:
    """A step depends on its arguments alone, changes none of them, and draws no random number."""
    cell = _layer(make).cell.train()
    state = map_state(torch.randn_like, cell.initial_state(BATCH))
    constants, prepared = cell.prepare(torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64))
    arguments = (constants, map_state(lambda tensor: tensor[0], prepared), state)
    before, random = deepcopy([t.detach() for t in tensors_of(arguments)]), torch.get_rng_state()
    first = cell.step(*arguments)
    _same([t.detach() for t in tensors_of(arguments)], before, "a step changed its arguments")
    assert torch.equal(random, torch.get_rng_state()), "a step drew a random number; draw masks in prepare"
    _same(cell.step(*arguments), first, "the same step twice gave different results")


def derivatives(make: Callable[..., Cell], training: bool = False) -> None:
    """Gradients of outputs and final states agree with finite differences, and every parameter has one."""
    layer = _layer(make).train(training)
    inputs, state = _sequence(layer, grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(inputs: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(0)  # the same masks each time, where the cell draws any
        states = iter(rest)
        start = map_state(lambda _: next(states), state)
        return tuple(tensors_of(layer(inputs[:3], start)))

    parameters = list(layer.parameters())
    free = [inputs, *tensors_of(state)]
    assert torch.autograd.gradcheck(lambda *all_: run(*all_[: len(free)]), (*free, *parameters))
    loss = sum(tensor.abs().sum() for tensor in run(*free))
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        assert gradient is not None, f"the parameter {name} is never used"


def derivatives_in_training(make: Callable[..., Cell]) -> None:
    """The same while training, where a cell may draw masks; one with the very same gradients then is not done again."""
    layer = _layer(make)
    inputs, state = _sequence(layer, grad=True)
    runs = []
    for training in (False, True):
        torch.manual_seed(0)
        runs.append(_everything(layer.train(training), inputs, state))
    if not all(torch.equal(evaluated, trained) for evaluated, trained in zip(*runs, strict=True)):
        derivatives(make, training=True)


def splitting(make: Callable[..., Cell]) -> None:
    """Running a sequence in two parts, the state passed on, equals running it whole."""
    for backend in _backends(make):
        layer = _layer(make, backend)
        inputs, state = _sequence(layer)
        whole = layer(inputs, state)
        first, middle = layer(inputs[:2], state)
        rest, final = layer(inputs[2:], middle)
        _same((torch.cat([first, rest]), final), whole, f"{backend}: a sequence in two parts differs from the whole")


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
            _same(ours, alone, f"{backend}: a sequence of length {length} differs from the same one alone")
            assert not outputs[length:, row].any(), f"{backend}: outputs past a sequence's end are not zero"


def independent_rows(make: Callable[..., Cell]) -> None:
    """The sequences of a batch do not see each other."""
    for backend in _backends(make):
        layer = _layer(make, backend)
        inputs, state = _sequence(layer)
        changed = inputs.clone()
        changed[:, 0] += 1
        before, after = layer(inputs, state)[0], layer(changed, state)[0]
        _same(after[:, 1:], before[:, 1:], f"{backend}: changing one sequence changed another")
        assert not torch.equal(after[:, 0], before[:, 0]), f"{backend}: outputs do not depend on the inputs"


def causal(make: Callable[..., Cell]) -> None:
    """No output depends on a later input."""
    for backend in _backends(make):
        layer = _layer(make, backend)
        inputs, state = _sequence(layer)
        changed = inputs.clone()
        changed[3:] += 1
        _same(layer(changed, state)[0][:3], layer(inputs, state)[0][:3], f"{backend}: an output saw a later input")


def backends_agree(make: Callable[..., Cell]) -> None:
    """Every backend gives the reference's outputs, final states and gradients."""
    reference = _layer(make)
    inputs, state = _sequence(reference, grad=True)
    for lengths in (None, torch.tensor([2, STEPS, 1])):
        expected = _everything(reference, inputs, state, lengths)
        for backend in _backends(make):
            found = _everything(Recurrent(reference.cell, backend).eval(), inputs, state, lengths)
            _same(tuple(found), tuple(expected), f"{backend} differs from the reference")


def deterministic(make: Callable[..., Cell]) -> None:
    """The same call gives the same numbers, bit for bit, gradients too."""
    for backend in _backends(make):
        layer = _layer(make, backend)
        inputs, state = _sequence(layer, grad=True)
        first, second = (_everything(layer, inputs, state) for _ in range(2))
        same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert same, f"{backend}: the same call gives different numbers"


def not_finite(make: Callable[..., Cell]) -> None:
    """NaN and infinity in one sequence show as in the reference, and only in that sequence."""
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
                    msg=lambda text, b=backend, v=value: f"{b}: {v} in the inputs is not passed on: {text}",
                )


def single_precision(make: Callable[..., Cell]) -> None:
    """Over 512 steps in float32 no backend is off by more than 1e-5 of a tensor's largest magnitude, or, where the
    plain loop in float32 is, by more than twice that.

    A cell that loses digits does so by luck, the plain loop's luck another than a backend's: a draw that says
    otherwise is followed by others, and the geometric mean decides.
    """
    for backend in _backends(make)[1:]:
        draws: list[list[tuple[float, float]]] = []
        for _ in range(DRAWS):
            draws.append(_errors(make, backend))
            far = _too_far(draws)
            if far is None:
                break
        assert far is None, f"{backend} in float32 is off by {far[1]:.1e} (tensor {far[0]}), more than {far[2]:.1e}"


def _errors(make: Callable[..., Cell], backend: str) -> list[tuple[float, float]]:
    """For every output, final state and gradient the largest error of a backend and of the plain loop in float32."""
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

    return list(zip(errors(backend), errors("reference"), strict=True))


def _too_far(draws: list[list[tuple[float, float]]]) -> tuple[int, float, float] | None:
    """The first tensor whose error is more than allowed, as geometric means: its number, the error, what is allowed."""
    for number, pairs in enumerate(zip(*draws, strict=True)):
        pairs = [pair for pair in pairs if isfinite(pair[1])] or [(0.0, 0.0)]  # the plain loop itself may overflow
        allowed = [max(1e-5, 2 * theirs) for _, theirs in pairs]
        # One draw that comes out exact does not hide the others.
        ours = [max(mine, limit / 10) for (mine, _), limit in zip(pairs, allowed, strict=True)]
        if not geometric_mean(ours) <= geometric_mean(allowed) * (1 + 1e-9):  # also where it is NaN
            return number, geometric_mean(ours), geometric_mean(allowed)
    return None


def _everything(layer: Recurrent, inputs: Tensor, state: State, lengths: Tensor | None = None) -> list[Tensor]:
    """Outputs, final state, and the gradients of everything."""
    results = tensors_of(layer(inputs, state, lengths))
    weights = [torch.linspace(0.5, 1.5, r.numel(), dtype=r.dtype).reshape(r.shape) for r in results]
    loss = sum((weight * result).sum() for weight, result in zip(weights, results, strict=True))
    leaves = [inputs, *tensors_of(state), *layer.parameters()]
    return [*(result.detach() for result in results), *torch.autograd.grad(loss, leaves)]


def copies(make: Callable[..., Cell]) -> None:
    """A deep copy, saved weights loaded anew, and float32 give the same results."""
    layer = _layer(make)
    inputs, state = _sequence(layer)
    expected = layer(inputs, state)
    _same(deepcopy(layer)(inputs, state), expected, "a deep copy differs")
    other = _layer(make)
    other.load_state_dict(layer.state_dict())
    _same(other(inputs, state), expected, "loading the state dict into another cell does not bring all of its state")
    single = layer.float()(inputs.float(), map_state(Tensor.float, state))[0]
    assert single.dtype == torch.float32, f"a float32 cell gives {single.dtype}"


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


def check_task(
    task: str | type[Task], *, model: type[Model] = SequenceModel, data_root: str = "data", **options: Any
) -> None:
    """Check that a task keeps the contract of `rnnlab.tasks.base`.

    Batches are a pure function of seed, split and step; valid and test sets are the same for every run seed; shapes
    are time-major; loss and metrics are finite, declared, and reach the model's parameters; samples are
    repeatable; what travels with a model is plain.

    Args:
        task: a name, ``package.module:Class``, or the class itself.
        model: the class of a model that can learn it; a small one is made, with GRU cells.
        data_root: where public data sets lie.
        options: the task's own options.

    Raises:
        AssertionError: the contract is broken; the message says where.
    """
    make = tasks.find(task) if isinstance(task, str) else task
    lookup.check_options(options, make, f"task {make.__name__}")

    def create(seed: int) -> Task:
        return make(seed, data_root, **options)

    torch.manual_seed(0)
    random = torch.get_rng_state()
    first = create(0)
    _check_declarations(first)
    for split in first.splits:
        _check_batches(split, create)
    assert torch.equal(random, torch.get_rng_state()), (
        "making batches drew from the global generator; use task.generator"
    )
    assert first.data_digest() == create(1).data_digest(), "data_digest depends on the seed; it tells data from data"

    cell = partial(cells.find("gru"))
    built = model(first.input, first.output_size, cell, hidden_size=8, num_layers=1)
    _check_learning(first, built)
    _check_memory(first, create(0), built)


def _check_declarations(task: Task) -> None:
    assert isinstance(task.input, Tokens | Vectors | Images), (
        f"task.input is {task.input!r}, not Tokens, Vectors or Images"
    )
    assert task.output_size >= 1, f"task.output_size is {task.output_size}"
    assert "train" in task.splits, f"task.splits is {task.splits}; train must be there"
    assert set(task.splits) <= {"train", "valid", "test"}, f"task.splits is {task.splits}"
    assert {"loss", task.monitor} <= set(task.metrics), f"task.metrics {list(task.metrics)} lack loss or {task.monitor}"


def _check_batches(split: str, create: Callable[[int], Task]) -> None:
    task, same, other = create(0), create(0), create(1)
    count = task.num_batches(split)
    assert count >= 1, f"num_batches({split!r}) is {count}"
    steps = [0, min(1, count - 1), count - 1]
    batches = [task.batch(split, step) for step in steps]
    for step, batch in reversed(list(zip(steps, batches, strict=True))):
        _check_batch(task, batch, split)
        _same(
            _content(same.batch(split, step)),
            _content(batch),
            f"batch({split!r}, {step}) is not a function of seed and step",
            equal_nan=True,
        )
        if split != "train":
            sentence = f"batch({split!r}, {step}) depends on the run's seed; valid and test must be the same for all"
            _same(_content(other.batch(split, step)), _content(batch), sentence, equal_nan=True)


def _content(batch: Batch) -> tuple[Tensor, ...]:
    parts = (batch.inputs, batch.targets, batch.lengths, batch.target_lengths, batch.fresh)
    return tuple(part for part in parts if part is not None)


def _check_batch(task: Task, batch: Batch, split: str) -> None:
    inputs, given = batch.inputs, f"{split} inputs are {batch.inputs.dtype} {list(batch.inputs.shape)}"
    if isinstance(task.input, Tokens):
        assert inputs.dtype == torch.int64, f"{given}; tokens are int64"
        assert inputs.dim() == 2, f"{given}; tokens are [T, B]"
        assert int(inputs.min()) >= 0, f"{given}; a token is negative"
        assert int(inputs.max()) < task.input.size, f"{given}; a token is not below task.input.size = {task.input.size}"
    else:
        shape = (task.input.size,) if isinstance(task.input, Vectors) else task.input.shape
        assert inputs.is_floating_point(), f"{given}; vectors and images are floating point"
        assert inputs.shape[2:] == shape, f"{given}; they must be [T, B, {', '.join(map(str, shape))}]"
    for name in ("lengths", "target_lengths"):
        lengths = getattr(batch, name)
        if lengths is not None:
            assert lengths.shape == (batch.batch_size,), f"{name} are {list(lengths.shape)}, not [B]"
            assert int(lengths.min()) >= 1, f"{name} go down to {int(lengths.min())}"
            longest = (batch.inputs if name == "lengths" else batch.targets).shape[0]
            assert int(lengths.max()) <= longest, f"{name} go up to {int(lengths.max())}, there are {longest} steps"
    if batch.fresh is not None:
        assert batch.fresh.dtype == torch.bool, f"fresh is {batch.fresh.dtype}, not bool"
        assert batch.fresh.shape == (batch.batch_size,), f"fresh is {list(batch.fresh.shape)}, not [B]"


def _check_learning(task: Task, model: Model) -> None:
    batch = task.batch("train", 0)
    outputs, _ = model(batch)
    assert outputs.shape[-1] == task.output_size, (
        f"outputs have {outputs.shape[-1]} features, task.output_size says otherwise"
    )
    total, count = task.loss(outputs, batch)
    assert float(count) > 0, f"the loss counts {count}"
    assert total.isfinite(), f"the loss is {total.detach()}"
    (total / count).backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters()), "the loss reaches no parameter"
    cpu = torch.device("cpu")
    for split in task.splits:
        values = evaluate(model, task, split, cpu, autocast(cpu, "fp32")).values
        assert set(values) == set(task.metrics), (
            f"{split} reports {sorted(values)}, task.metrics are {sorted(task.metrics)}"
        )
        assert all(isfinite(value) for value in values.values()), f"{split} reports {values}"
        for name, others in task.baselines(split).items():
            assert others.keys() <= values.keys(), f"baseline {name} has {sorted(others)}, metrics are {sorted(values)}"
            assert all(isfinite(value) for value in others.values()), f"baseline {name} is {others}"
    random = torch.get_rng_state()
    samples = [task.sample(model.eval()) for _ in range(2)]
    assert samples[0] == samples[1], "two samples of one model differ; give the draw a seed of its own"
    assert samples[0] is None or samples[0].strip(), "the sample is empty"
    assert torch.equal(random, torch.get_rng_state()), "a sample drew from the global generator"


def _check_memory(task: Task, other: Task, model: Model) -> None:
    buffer = io.BytesIO()
    torch.save(task.memory(), buffer)
    buffer.seek(0)
    other.restore(torch.load(buffer, weights_only=True))
    assert (other.input, other.output_size) == (task.input, task.output_size), (
        "restore(memory()) changes input or output_size"
    )
    assert other.sample(model) == task.sample(model), "restore(memory()) changes what a sample looks like"
