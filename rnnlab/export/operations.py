"""The operations of a program as nodes of an ONNX graph, one function for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rnnlab.engine.ir.program import Node, Unsupported, Value


class Writer:
    """The nodes of a graph, or of the body of a ``Scan`` in it, which shares the constants of the graph.

    lengths: name of the lengths of the sequences, int64 ``[batch]``; empty if all have the same length.

    Args:
        outside: the writer of the graph that contains this one; None for the outermost graph.
    """

    def __init__(self, outside: Writer | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.names: dict[Value, str] = {} if outside is None else dict(outside.names)
        self.constants: dict[Any, onnx.TensorProto] = {} if outside is None else outside.constants
        self.masks: set[str] = set() if outside is None else outside.masks
        self.taken: set[str] = set() if outside is None else outside.taken
        self.lengths = "" if outside is None else outside.lengths

    def fresh(self, name: str) -> str:
        """Return ``name``, or ``name_2``, ``name_3``, ... if it is taken."""
        found, number = name, 1
        while found in self.taken:
            number += 1
            found = f"{name}_{number}"
        self.taken.add(found)
        return found

    def add(self, operation: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Add a node, and return the name of its output, or a list if it has several ``outputs``."""
        made = [self.fresh(name or operation.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(operation, list(inputs), made, **attributes))
        return made if outputs > 1 else made[0]

    def array(self, value: Any, name: str = "constant", key: Any = None) -> str:
        """Return the name of a constant; arrays with the same ``key`` are stored once."""
        if key is None or key not in self.constants:
            stored = numpy_helper.from_array(np.ascontiguousarray(value), self.fresh(name))
            key = stored.name if key is None else key
            self.constants[key] = stored
            if stored.data_type == TensorProto.BOOL:
                self.masks.add(stored.name)
        return self.constants[key].name

    def number(self, value: float) -> str:
        """Return the name of a float32 scalar."""
        return self.array(np.array(value, np.float32), "number", ("number", float(value)))

    def integers(self, values: list[int]) -> str:
        """Return the name of a vector of integers, such as axes or a shape."""
        return self.array(np.array(values, np.int64), "integers", ("integers", tuple(values)))

    def float(self, argument: Any) -> str:
        """Return the name of an argument as floating-point numbers."""
        if not isinstance(argument, Value):
            return self.number(argument)
        name = self.names[argument]
        return self.add("Cast", name, to=TensorProto.FLOAT) if name in self.masks else name

    def mask(self, argument: Value) -> str:
        """Return the name of an argument as truth values."""
        name = self.names[argument]
        return name if name in self.masks else self.logical("Not", self.logical("Equal", name, self.number(0.0)))

    def logical(self, operation: str, *inputs: str) -> str:
        """Add a node whose output has truth values."""
        name = self.add(operation, *inputs)
        self.masks.add(name)
        return name

    def write(self, node: Node) -> None:
        """Add an operation of a program.

        Raises:
            Unsupported: there is no such operation in ONNX.
        """
        if node.operation not in WRITTEN:
            raise Unsupported(node.operation)
        made = WRITTEN[node.operation](self, node)
        names = made if isinstance(made, list) else [made]
        self.names.update(zip(node.results, names, strict=True))


Write = Callable[[Writer, Node], Any]


def _same(operation: str) -> Write:
    """An operation on floating-point numbers that ONNX has."""
    return lambda w, n: w.add(operation, *map(w.float, n.arguments))


def _compared(operation: str, opposite: bool = False) -> Write:
    def write(w: Writer, n: Node) -> str:
        name = w.logical(operation, *map(w.float, n.arguments))
        return w.logical("Not", name) if opposite else name

    return write


def _trunc(w: Writer, n: Node) -> str:
    x = w.float(n.arguments[0])
    return w.add("Mul", w.add("Sign", x), w.add("Floor", w.add("Abs", x)))


def _expm1(w: Writer, n: Node) -> str:
    return w.add("Sub", w.add("Exp", w.float(n.arguments[0])), w.number(1.0))


def _log1p(w: Writer, n: Node) -> str:
    return w.add("Log", w.add("Add", w.float(n.arguments[0]), w.number(1.0)))


def _standardise(w: Writer, n: Node) -> str:
    x, mean, scale = map(w.float, n.arguments)
    return w.add("Mul", w.add("Sub", x, mean), scale)


def _where(w: Writer, n: Node) -> str:
    mask, yes, no = n.arguments
    return w.add("Where", w.mask(mask), w.float(yes), w.float(no))


def _filled(number: float) -> Write:
    def write(w: Writer, n: Node) -> str:
        return w.add("Expand", w.number(number), w.add("Shape", w.names[n.arguments[0]]))

    return write


def _reduced(operation: str) -> Write:
    def write(w: Writer, n: Node) -> str:
        x, dim = n.arguments
        return w.add(operation, w.float(x), w.integers([dim % len(x.shape)]), keepdims=1)

    return write


def _axis(operation: str, added: int = 0) -> Write:
    """An operation that removes or inserts an axis; truth values stay truth values."""

    def write(w: Writer, n: Node) -> str:
        x, dim = n.arguments
        made = w.logical if w.names[x] in w.masks else w.add
        return made(operation, w.names[x], w.integers([dim % (len(x.shape) + added)]))

    return write


def _expand_as(w: Writer, n: Node) -> str:
    return w.add("Expand", w.float(n.arguments[0]), w.add("Shape", w.names[n.arguments[1]]))


def _expand(w: Writer, n: Node) -> str:
    x, sizes = n.arguments
    return w.add("Expand", w.float(x), w.integers([1 if size == -1 else size for size in sizes]))  # 1 keeps an axis


def _flatten(w: Writer, n: Node) -> str:
    return w.add("Reshape", w.float(n.arguments[0]), w.integers([0, -1]))  # 0 keeps an axis


def _unflatten(w: Writer, n: Node) -> str:
    x, sizes = n.arguments
    kept = len(n.results[0].shape) - len(sizes)
    return w.add("Reshape", w.float(x), w.integers([0] * kept + sizes))


def _permute(w: Writer, n: Node) -> str:
    x, order = n.arguments
    made = w.logical if w.names[x] in w.masks else w.add
    return made("Transpose", w.names[x], perm=order)


def _reshape(w: Writer, n: Node) -> str:
    return w.add("Reshape", w.float(n.arguments[0]), w.integers(n.arguments[1]))  # 0 keeps an axis


def sizes_of(w: Writer, name: str, first: int, end: int) -> str:
    """The sizes of some axes of a tensor, int64 ``[end - first]``."""
    return w.add("Slice", w.add("Shape", name), w.integers([first]), w.integers([end]))


def repeated(w: Writer, name: str, rank: int, sizes: str) -> str:
    """Repeat a tensor of ``rank`` axes, whose first axis has size 1, so that this axis has size ``sizes``, ``[1]``."""
    rest = [w.integers([1] * (rank - 1))] if rank > 1 else []
    return w.add("Expand", name, w.add("Concat", sizes, *rest, axis=0))


def _repeat(w: Writer, n: Node) -> str:
    x, like = n.arguments
    return repeated(w, w.float(x), len(x.shape), sizes_of(w, w.names[like], 0, 1))


def _unmerge(w: Writer, n: Node) -> str:
    x, like = n.arguments
    sizes = [sizes_of(w, w.names[like], 0, 2), *([w.integers(list(x.shape[1:]))] if len(x.shape) > 1 else [])]
    return w.add("Reshape", w.float(x), w.add("Concat", *sizes, axis=0))


def _next(w: Writer, n: Node) -> str:
    """The values of the next step; for the last step of a sequence, of its first."""

    def part(name: str, start: int, end: int) -> str:
        return w.add("Slice", name, w.integers([start]), w.integers([end]), w.integers([0]))

    x = w.float(n.arguments[0])
    first = part(x, 0, 1)
    if not w.lengths:
        return w.add("Concat", part(x, 1, 2**62), first, axis=0)
    return _reversed(w, w.add("Concat", first, part(_reversed(w, x), 0, -1), axis=0))


def _reversed(w: Writer, name: str) -> str:
    return w.add("ReverseSequence", name, w.lengths, time_axis=0, batch_axis=1)


def _group_norm(w: Writer, n: Node) -> str:
    x, groups, eps = n.arguments
    name = w.float(x)
    by_group = w.add("Reshape", name, w.integers([0, groups, -1]))
    ones, zeros = (w.array(np.full(groups, number, np.float32)) for number in (1.0, 0.0))
    normal = w.add("InstanceNormalization", by_group, ones, zeros, epsilon=eps)
    return w.add("Reshape", normal, w.add("Shape", name))


def _cat(w: Writer, n: Node) -> str:
    pieces, dim = n.arguments
    return w.add("Concat", *map(w.float, pieces), axis=dim)


def _split(w: Writer, n: Node) -> list[str]:
    x, sizes, dim = n.arguments
    if len(sizes) == 1:
        return [w.float(x)]
    return w.add("Split", w.float(x), w.integers(sizes), outputs=len(sizes), axis=dim % len(x.shape))


def _flip(w: Writer, n: Node) -> str:
    x, dims = n.arguments
    if w.lengths and dims == [0]:
        return _reversed(w, w.float(x))
    first, end, back = (w.integers([value] * len(dims)) for value in (-1, -(2**62), -1))
    return w.add("Slice", w.float(x), first, end, w.integers([dim % len(x.shape) for dim in dims]), back)


def _gather(w: Writer, n: Node) -> str:
    return w.add("Gather", *(w.names[argument] for argument in n.arguments), axis=0)


WRITTEN: dict[str, Write] = {
    **{name: _same(name.capitalize()) for name in ("add", "sub", "mul", "div", "neg", "pow", "sqrt", "abs")},
    **{name: _same(name.capitalize()) for name in ("round", "floor", "ceil", "exp", "log", "sin", "cos", "atan")},
    **{name: _same(name.capitalize()) for name in ("erf", "sigmoid", "tanh", "relu", "softplus")},
    "sgn": _same("Sign"),
    "maximum": _same("Max"),
    "minimum": _same("Min"),
    "mm": _same("MatMul"),
    "trunc": _trunc,
    "expm1": _expm1,
    "log1p": _log1p,
    "standardise": _standardise,
    "where": _where,
    "gt": _compared("Greater"),
    "lt": _compared("Less"),
    "ge": _compared("GreaterOrEqual"),
    "le": _compared("LessOrEqual"),
    "eq": _compared("Equal"),
    "ne": _compared("Equal", opposite=True),
    "detach": lambda w, n: w.names[n.arguments[0]],
    "as_number": lambda w, n: w.float(n.arguments[0]),
    "zeros_like": _filled(0.0),
    "ones_like": _filled(1.0),
    "sum": _reduced("ReduceSum"),
    "amax": _reduced("ReduceMax"),
    "expand_as": _expand_as,
    "expand": _expand,
    "squeeze": _axis("Squeeze"),
    "unsqueeze": _axis("Unsqueeze", 1),
    "flatten": _flatten,
    "unflatten": _unflatten,
    "cat": _cat,
    "split": _split,
    "t": lambda w, n: w.add("Transpose", w.float(n.arguments[0]), perm=[1, 0]),
    "flip": _flip,
    "permute": _permute,
    "reshape": _reshape,
    "repeat": _repeat,
    "next": _next,
    "unmerge": _unmerge,
    "softmax": lambda w, n: w.add("Softmax", w.float(n.arguments[0]), axis=n.arguments[1]),
    "convolution": lambda w, n: w.add("Conv", *map(w.float, n.arguments), pads=[1, 1, 1, 1]),
    "pool": lambda w, n: w.add("MaxPool", w.float(n.arguments[0]), kernel_shape=[2, 2], strides=[2, 2]),
    "group_norm": _group_norm,
    "gather": _gather,
}
"""Functions ``(writer, node) -> name or names of the results``, by operation.

They cover the operations of `rnnlab.engine.ir.operations` in a forward step, and further ones of a recorded model."""
