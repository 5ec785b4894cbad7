"""Record a trained model as a program: encoder, recurrent layers, everything between them, readout.

The model runs once in evaluation mode on example inputs. Operations on values that depend on the inputs or the state
are recorded in terms of `rnnlab.engine.ir.operations`; everything else is computed once and becomes a constant. A
recurrent layer is recorded as one `Loop` over the traced step of its cell.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from rnnlab.cells import Cell
from rnnlab.engine.ir.operations import EXPANSIONS
from rnnlab.engine.ir.program import Builder, Node, Program, Unsupported, Value, broadcast, needed
from rnnlab.engine.ir.trace import expand
from rnnlab.engine.traced import program_of
from rnnlab.export.parts import Part
from rnnlab.interface import InputError
from rnnlab.layers import Recurrent
from rnnlab.trees import State, map_state, tensors_of

WHOLE_NUMBERS = ("inputs", "source", "present")
"""Arguments of parts that need not be real numbers."""

SIZES = (53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
"""Candidates for the example numbers of steps and sequences; two that are no size of a weight are used."""


@dataclass(frozen=True)
class Loop:
    """A cell over time.

    program: the traced step.
    scanned: for each leaf of the step that has one value per time step, the recorded value ``[T, ...]``.
    fixed: for each leaf that is constant over the sequence, the recorded value.
    before: the recorded states before the first step, in the order of ``program.state``.
    native: mode and weights of the equivalent layer of ``torch.nn``; None if there is none.
    inputs: the recorded inputs of the layer, ``[T, B, F]``.
    """

    program: Program
    scanned: dict[Value, Value]
    fixed: dict[Value, Value]
    before: list[Value]
    native: tuple[str, tuple[Value, ...]] | None
    inputs: Value

    def read(self) -> list[Value]:
        """List the recorded values that the loop reads."""
        weights = () if self.native is None else self.native[1]
        return [*self.scanned.values(), *self.fixed.values(), *self.before, *weights, self.inputs]


@dataclass
class Recording:
    """A recorded part of a model.

    given, returned: the arguments and the results, in the order of the part's.
    nodes: the operations in order; those called ``loop`` have a `Loop` as their first argument.
    constants: the value of each constant.
    """

    given: list[Value] = field(default_factory=list)
    returned: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    constants: dict[Value, Tensor] = field(default_factory=dict)


def record(part: Part) -> Recording:
    """Record a part of a model, which must be in evaluation mode, in float32 and on the CPU.

    Raises:
        InputError: the model uses something that cannot be recorded; the message names it.
    """
    used = {size for tensor in (*part.parameters(), *part.buffers()) for size in tensor.shape}
    used.update(size for port in part.given for size in port.shape if isinstance(size, int))
    model = part.model
    used.update(kind.size for kind in (model.input, model.source) if hasattr(kind, "size"))
    sizes = [size for size in SIZES if size not in used]
    try:
        first, second = (_Recorder(part, *pair).recording for pair in list(pairwise(sizes))[:2])
    except Unsupported as error:
        raise InputError(f"the model cannot be exported to ONNX because it uses {error}") from error
    pairs = zip(first.constants.values(), second.constants.values(), strict=False)
    if str(first.nodes) != str(second.nodes) or not all(torch.equal(*pair) for pair in pairs):
        raise InputError(
            "the model cannot be exported to ONNX because it computes with the number of steps or sequences"
        )
    return first


class _Recorder(TorchDispatchMode):
    """Records the operations of a part on example inputs of ``num_steps`` steps and ``batch_size`` sequences."""

    def __init__(self, part: Part, num_steps: int, batch_size: int) -> None:
        super().__init__()
        self.dynamic = {num_steps, batch_size, num_steps * batch_size}
        self.builder = Builder("v")
        self.values: dict[int, Value] = {}
        self.alive: list[Tensor] = []  # keeps the ids in `values` from being reused
        self.parameters = {id(tensor): name for name, tensor in part.model.state_dict(keep_vars=True).items()}
        layers = {name: module for name, module in part.model.named_modules() if isinstance(module, Recurrent)}
        per_step = [port.name for port in part.given if port.name == "elapsed"]
        programs = {name: program_of(layer.cell, *per_step) for name, layer in layers.items()}
        sizes = {"time": num_steps, "source_time": num_steps, "batch": batch_size}
        with torch.inference_mode(), ExitStack() as stack:
            given = [torch.zeros(port.sized(sizes), dtype=port.dtype) for port in part.given]
            if any(port.name not in WHOLE_NUMBERS and not port.dtype.is_floating_point for port in part.given):
                raise Unsupported("a state that is not a real number")
            self.recording = Recording([self.leaf(tensor, "x") for tensor in given])
            for name, layer in layers.items():
                stack.enter_context(layer.run_by(partial(self.loop, programs[name])))
            with self:
                returned = part(*given)
        self.recording.returned = [self.value(tensor) for tensor in returned]
        self.recording.nodes = needed(self.builder.nodes, self.recording.returned)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports torch's compiler at the first use, which takes seconds

    def leaf(self, tensor: Tensor, prefix: str) -> Value:
        """Return a new value for an argument of the model."""
        return self.note(tensor, self.builder.fresh(tensor.shape, prefix))

    def note(self, tensor: Tensor, value: Value) -> Value:
        """Record that ``tensor`` is ``value``."""
        self.values[id(tensor)] = value
        self.alive.append(tensor)
        return value

    def value(self, argument: Any) -> Any:
        """Replace the tensors in an argument by their values; tensors that are not recorded become constants."""
        if isinstance(argument, list | tuple):
            return [self.value(item) for item in argument]
        if not isinstance(argument, Tensor):
            return argument
        return self.values.get(id(argument)) or self.constant(argument)

    def constant(self, tensor: Tensor) -> Value:
        """Return a constant; the axes of steps and sequences, along which it must not vary, get size 1."""
        if tensor.dtype not in (torch.float32, torch.bool):
            raise Unsupported(f"constants of {tensor.dtype}")
        found = tensor
        for axis, size in enumerate(tensor.shape):
            if size in self.dynamic:
                if not (found == found.narrow(axis, 0, 1)).all():
                    raise Unsupported("values that depend on the number of steps or sequences")
                found = found.narrow(axis, 0, 1)
        name = self.parameters.get(id(tensor))
        value = self.builder.fresh(found.shape, "c") if name is None else Value(name, tuple(found.shape))
        self.recording.constants[value] = found.detach()
        return self.note(tensor, value)

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        is_random = torch.Tag.nondeterministic_seeded in function.tags
        if is_random and (name, args[2:]) != ("dropout", (False,)):
            raise Unsupported(name)
        results = function(*args, **kwargs)
        if name == "to" and results is args[0]:
            return results
        if name in FILLED or not any(map(self.depends, tensors_of([*args, *kwargs.values()]))):
            return results
        made = results if isinstance(results, tuple | list) else (results,)
        options = {key: self.value(given) for key, given in kwargs.items() if given is not None and given is not False}
        values = self.expand(name, self.value(args), options)
        for tensor, value in zip(made, values, strict=True):
            if value.shape != tensor.shape:
                raise Unsupported(f"{name} to {list(tensor.shape)}")
            self.note(tensor, value)
        return results

    def depends(self, tensor: Any) -> bool:
        """Whether a tensor depends on the inputs or the state."""
        value = self.values.get(id(tensor)) if isinstance(tensor, Tensor) else None
        return value is not None and value not in self.recording.constants

    def expand(self, name: str, arguments: list[Any], options: dict[str, Any]) -> tuple[Value, ...]:
        """Record an operation of torch, and return the values of its results."""
        return expand(self.builder, name, arguments, options, WHOLE)

    def loop(
        self, program: Program, cell: Cell, inputs: Tensor, state: State, lengths: None, **context: Any
    ) -> tuple[Tensor, State]:
        """Record a layer; this is its backend while the model runs. The results are zeros of the right shapes."""
        constants, prepared = cell(inputs, **context)
        scanned, fixed = {}, {}
        for leaf, tensor in zip(program.constants, tensors_of(constants), strict=True):
            fixed[leaf] = self.value(tensor)
        for leaf, tensor in zip(program.inputs, tensors_of(prepared), strict=True):
            if self.depends(tensor):
                scanned[leaf] = self.value(tensor)
            elif leaf not in fixed:
                fixed[leaf] = self.value(tensor.detach()[0])  # no axis of steps if all of them are equal
                self.constant(tensor)  # refuses values that vary from step to step
        with _disable_current_modes():
            native = cell(inputs, native=True)
            outputs = torch.zeros(*inputs.shape[:2], cell.output_size)
            after = map_state(torch.zeros_like, state)
        native = native and (native.mode, tuple(self.value(list(native.weights))))
        found = Loop(program, scanned, fixed, self.value(tensors_of(state)), native, self.value(inputs))
        made = [outputs, *tensors_of(after)]
        values = self.builder.node("loop", (found, found.read()), *(tensor.shape for tensor in made))
        for tensor, value in zip(made, values, strict=True):
            self.note(tensor, value)
        return outputs, after


def _product(b: Builder, x: Value, y: Value) -> Value:
    if len(x.shape) < 2:
        raise Unsupported("a product of a vector")
    if len(y.shape) == 1:
        return b.squeeze(_product(b, x, b.unsqueeze(y, 1)), -1)
    shape = (*broadcast(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])
    return b.node("mm", (x, y), shape)[0]


def _linear(b: Builder, x: Value, weight: Value, bias: Value | None = None) -> Value:
    y = _product(b, x, b.t(weight))
    return y if bias is None else b.add(y, bias)


def _gather(b: Builder, table: Value, indices: Value, *options: Any) -> Value:
    return b.node("gather", (table, indices), (*indices.shape, *table.shape[1:]))[0]


def _index(b: Builder, table: Value, indices: list[Value | None]) -> Value:
    if len(indices) != 1 or len(table.shape) != 2:
        raise Unsupported("indexing with tensors")
    return _gather(b, table, indices[0])


def _unflatten(b: Builder, x: Value, dim: int, sizes: list[int]) -> Value:
    if dim == 0:
        return _unmerge(b, x, sizes)
    if dim % len(x.shape) != len(x.shape) - 1:
        raise Unsupported("unflatten of an axis between others")
    known = prod(size for size in sizes if size != -1)
    sizes = [x.shape[-1] // known if size == -1 else size for size in sizes]
    return b.node("unflatten", (x, sizes), (*x.shape[:-1], *sizes))[0]


def _unmerge(b: Builder, x: Value, sizes: list[int]) -> Value:
    """Divide the first axis into the two axes, steps and sequences, that `_flatten` has merged before."""
    for node in reversed(b.nodes):
        if node.operation == "reshape" and node.results[0].shape[0] == x.shape[0] == prod(sizes):
            before = node.arguments[0]
            if list(before.shape[:2]) == list(sizes):
                return b.node("unmerge", (x, before), (*sizes, *x.shape[1:]))[0]
    raise Unsupported("unflatten of steps or sequences")


def _flatten(b: Builder, x: Value, first: int = 0, last: int = -1) -> Value:
    last %= len(x.shape)
    kept, merged, rest = x.shape[:first], x.shape[first : last + 1], x.shape[last + 1 :]
    sizes = [0] * first + [-1 if first == 0 else prod(merged), *rest]  # 0 keeps an axis
    return b.node("reshape", (x, sizes), (*kept, prod(merged), *rest))[0]


def _permute(b: Builder, x: Value, *dims: Any) -> Value:
    axes = range(len(x.shape))
    if isinstance(dims[0], list):
        order = [dim % len(axes) for dim in dims[0]]
    else:
        swapped = {axes[dims[0]]: axes[dims[1]], axes[dims[1]]: axes[dims[0]]}
        order = [swapped.get(axis, axis) for axis in axes]
    return b.node("permute", (x, order), tuple(x.shape[axis] for axis in order))[0]


def _expand(b: Builder, x: Value, sizes: list[int], **options: Any) -> Value:
    for _ in range(len(sizes) - len(x.shape)):
        x = b.unsqueeze(x, 0)
    return EXPANSIONS["expand"](b, x, sizes)


def _cat(b: Builder, pieces: list[Value], dim: int = 0) -> Value:
    """Concatenate; a piece that is a constant for all sequences is repeated for each of them."""
    dim %= len(pieces[0].shape)
    largest = max(pieces, key=lambda piece: piece.shape[0])
    if dim:
        for place, piece in enumerate(pieces):
            if piece.shape[0] != largest.shape[0]:
                shape = (largest.shape[0], *piece.shape[1:])
                pieces[place] = b.node("repeat", (piece, largest), shape)[0]
    return b.cat(pieces, dim)


def _roll(b: Builder, x: Value, shifts: list[int], dims: list[int]) -> Value:
    if (*shifts, *dims) != (-1, 0):
        raise Unsupported("roll other than by one step")
    return b.node("next", (x,), x.shape)[0]


def _convolution(b: Builder, x: Value, weight: Value, bias: Value, *options: Any) -> Value:
    if options != ([1, 1], [1, 1]):  # stride and padding
        raise Unsupported("a convolution with other options than a padding of 1")
    return b.node("convolution", (x, weight, bias), (x.shape[0], weight.shape[0], *x.shape[2:]))[0]


def _pool(b: Builder, x: Value, kernel: list[int], stride: list[int], *others: Any) -> Value:
    if [*kernel, *stride] != [2, 2, 2, 2] or others:
        raise Unsupported("max pooling other than 2x2")
    return b.node("pool", (x,), (*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2))[0]


def _group_norm(b: Builder, x: Value, groups: int, gain: Value, bias: Value, *eps: Any) -> Value:
    y = b.node("group_norm", (x, groups, *(eps[:1] or (1e-5,))), x.shape)[0]
    gain, bias = (b.unsqueeze(b.unsqueeze(value, 1), 2) for value in (gain, bias))
    return b.add(b.mul(y, gain), bias)


def _view(b: Builder, x: Value, shape: list[int]) -> Value:
    if list(shape[:2]) != list(x.shape[:2]) or len(shape) != 3:
        raise Unsupported("view over steps or sequences")
    return b.node("unflatten", (x, [-1]), tuple(shape))[0]


def _chunk(b: Builder, x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    return EXPANSIONS["split"](b, x, -(-x.shape[dim] // chunks), dim)


def _rms_norm(b: Builder, x: Value, shape: list[int], weight: Value | None = None, eps: float | None = None) -> Value:
    if len(shape) != 1:
        raise Unsupported("rms_norm over several axes")
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    y = b.div(x, b.sqrt(b.add(b.div(b.sum(b.mul(x, x), -1), shape[0]), eps)))
    return y if weight is None else b.mul(y, weight)


def _dropout(b: Builder, x: Value, rate: float, training: bool) -> Value:
    if training:
        raise Unsupported("dropout in training mode")
    return x


def _layer_norm(b: Builder, x: Value, shape: list[int], *options: Any) -> Value:
    gain, bias, eps = (*options, *(None, None, 1e-5)[len(options) :])[:3]
    return EXPANSIONS["native_layer_norm"](b, x, shape, gain, bias, eps)[0]


FILLED = ("new_ones", "new_zeros", "new_full", "zeros_like", "ones_like", "full_like")
"""Operations whose results do not depend on the numbers in their argument."""

# Also operations on sequences [T, B, ...], which torch does not decompose in inference mode.
WHOLE: dict[str, Callable[..., Any]] = EXPANSIONS | {
    "linear": _linear,
    "matmul": _product,
    "bmm": _product,
    "transpose": _permute,
    "permute": _permute,
    "flatten": _flatten,
    "expand": _expand,
    "roll": _roll,
    "cat": _cat,
    "softmax": lambda b, x, dim, *options: b.node("softmax", (x, dim % len(x.shape)), x.shape)[0],
    "conv2d": _convolution,
    "max_pool2d": _pool,
    "group_norm": _group_norm,
    "embedding": _gather,
    "index": _index,
    "unflatten": _unflatten,
    "view": _view,
    "reshape": _view,
    "chunk": _chunk,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "dropout": _dropout,
    "square": lambda b, x: b.mul(x, x),
    "log_sigmoid": lambda b, x: b.neg(b.softplus(b.neg(x))),
    "flip": lambda b, x, dims: b.node("flip", (x, list(dims)), x.shape)[0],
    "contiguous": lambda b, x: x,
}
