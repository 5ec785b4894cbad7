"""Trace a cell's step into a program: the ordered list of the operations that it performs.

The step runs once on example tensors. Every operation that reaches torch is recorded in terms of
`rnnlab.engine.ir.operations`. The recorded program can run without the cell and can be differentiated
(`rnnlab.engine.ir.derive`).

The trace also follows autograd: a result computed under ``torch.no_grad()`` is detached. A step is refused with
`Unsupported` if it applies a custom ``autograd.Function``, registers a hook, converts a tensor to Python numbers, or
uses the batch size in arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from rnnlab.cells import Cell
from rnnlab.engine.ir.operations import EXPANSIONS, OPERATIONS
from rnnlab.engine.ir.program import Builder, Node, Program, Unsupported, Value, values_of
from rnnlab.trees import State, tensors_of


class _Recorder(TorchDispatchMode):
    """Records every operation that reaches torch."""

    def __init__(self, rows: int, differentiates: bool) -> None:
        super().__init__()
        self.rows, self.differentiates = rows, differentiates
        self.builder = Builder("v")
        self.values: dict[int, Value | float] = {}
        self.alive: list[Tensor] = []  # keeps the ids in `values` from being reused
        self.constant: set[Value] = set()  # the constants, and values computed from nothing else

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports torch's compiler at the first use, which takes seconds

    def note(self, tensor: Tensor, value: Value) -> Value:
        """Record that ``tensor`` is ``value``."""
        self.values[id(tensor)] = value
        self.alive.append(tensor)
        return value

    def leaf(self, tensor: Tensor, prefix: str) -> Value:
        """Return the Value of an argument of the step; a tensor that is passed twice has one Value."""
        if id(tensor) in self.values:
            return self.values[id(tensor)]
        return self.note(tensor, self.builder.fresh(tensor.shape, prefix))

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        results = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name == "scalar_tensor":  # a number that torch wraps in a tensor
            self.alive.append(results)
            self.values[id(results)] = args[0]
            return results
        if torch.Tag.nondeterministic_seeded in function.tags:  # random numbers are drawn in prepare
            raise Unsupported(name)
        made = results if isinstance(results, tuple | list) else (results,)
        arguments = [self.argument(argument, name) for argument in args]
        first = len(self.builder.nodes)
        values = self.expand(name, arguments, kwargs or {}, args, made)
        if self.differentiates and not torch.is_grad_enabled():
            values = tuple(self.builder.detach(value) for value in values)
        self.check_rows(name, self.builder.nodes[first:])
        for tensor, value in zip(made, values, strict=True):
            if tensor.numel() and value.shape != tensor.shape:  # the record would differ from the computation
                raise Unsupported(f"{name} to {list(tensor.shape)}")
            self.note(tensor, value)
        return results

    def expand(
        self, name: str, arguments: list[Any], options: dict[str, Any], given: tuple, made: tuple
    ) -> tuple[Value, ...]:
        """Record an operation in terms of `OPERATIONS`, and return the Values of its results."""
        b = self.builder
        if name == "_to_copy":  # only masks can be converted, to floats
            if given[0].dtype == made[0].dtype:
                return (arguments[0],)
            if given[0].dtype == torch.bool and made[0].is_floating_point():
                return (b.as_number(arguments[0]),)
            raise Unsupported(f"conversion from {given[0].dtype} to {made[0].dtype}")
        if name.startswith("bitwise") and made[0].dtype != torch.bool:
            raise Unsupported(f"{name} of {made[0].dtype}")
        options = {key: value for key, value in options.items() if value is not None and value is not False}
        if name in ("zeros_like", "ones_like"):
            options = {}
        return expand(b, name, arguments, options)

    def check_rows(self, name: str, nodes: list[Node]) -> None:
        """Refuse operations along the batch axis: a program must run with any batch size."""
        for node in nodes:
            read = values_of(node.arguments)
            if all(value in self.constant for value in read):
                self.constant.update(node.results)
                continue
            place = _AXES.get(node.operation)
            if place is None:
                continue
            rank = len(read[0].shape) + (node.operation == "unsqueeze")
            varies = any(value not in self.constant and value.shape[:1] == (self.rows,) for value in read)
            if varies and node.arguments[place] % rank == 0:
                raise Unsupported(f"{name} over the sequences of a batch")

    def argument(self, argument: Any, name: str) -> Any:
        """Replace the tensors in an argument by their Values, also within lists."""
        if isinstance(argument, list | tuple):
            return [self.argument(item, name) for item in argument]
        if isinstance(argument, Tensor):
            if id(argument) not in self.values:
                raise Unsupported(f"{name} of a tensor that is neither constant, nor per step, nor state")
            return self.values[id(argument)]
        return argument


# The position of the axis among the arguments of operations that have one.
_AXES = {"sum": 1, "amax": 1, "squeeze": 1, "unsqueeze": 1, "split": 2, "cat": 1}


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift", "and", "or", "xor")
_UNARY = ("neg", "pos", "abs", "invert", "float", "bool", "round", "trunc", "lt", "le", "gt", "ge")


class _Rows(int):
    """The batch size in a shape that a step reads. It can be passed to functions such as ``view``.

    Arithmetic with it, or a comparison with a number, is refused: the trace would be valid for one batch size only.
    """

    def _refuse(self, *others: Any) -> Any:
        raise Unsupported("arithmetic with the batch size")

    def _compare(self, other: Any, same: bool) -> bool:
        return (int(self) == int(other)) == same if isinstance(other, _Rows) else self._refuse()

    def __eq__(self, other: object) -> bool:
        return self._compare(other, True)

    def __ne__(self, other: object) -> bool:
        return self._compare(other, False)

    __hash__ = int.__hash__
    for _name in _BINARY:
        locals()[f"__{_name}__"] = locals()[f"__r{_name}__"] = _refuse
    for _name in _UNARY:
        locals()[f"__{_name}__"] = _refuse
    del _name


class _Watch(TorchFunctionMode):
    """Intercepts calls of torch that are not operations, and refuses calls that a program cannot represent."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(function, "__name__", "")
        owner = getattr(function, "__self__", None)
        attribute = owner.__name__ if name in ("__get__", "__set__", "__delete__") else None
        refused = _REFUSED_ATTRIBUTES if attribute else _REFUSED
        if (attribute or name) in refused:
            raise Unsupported(refused[attribute or name])
        if attribute and name != "__get__":
            raise Unsupported(f"an assignment to {attribute} of a tensor")
        if name not in _SHAPED and any(isinstance(argument, _Rows) for argument in args):
            raise Unsupported("arithmetic with the batch size")
        result = function(*args, **(kwargs or {}))
        if attribute == "shape" or name == "size":
            return self.shape(args[0], result, args[1:] or tuple((kwargs or {}).values()))
        if name == "__len__" and self.varies(args[0]):
            raise Unsupported("len of a tensor, which is the batch size")
        return result

    def shape(self, tensor: Tensor, result: Any, dim: tuple[int, ...]) -> Any:
        """Return a shape or a size in which the batch size is a `_Rows`."""
        if not self.varies(tensor):
            return result
        if isinstance(result, int):
            return _Rows(result) if dim[0] % tensor.dim() == 0 else result
        return torch.Size((_Rows(result[0]), *result[1:]))

    def varies(self, tensor: Tensor) -> bool:
        """Whether the first axis of a tensor is the batch axis. A batch of one sequence has its own program."""
        value = self.recorder.values.get(id(tensor))
        if value in self.recorder.constant or self.recorder.rows == 1:
            return False
        return tensor.dim() > 0 and tensor.shape[0] == self.recorder.rows


_SHAPED = ("view", "reshape", "expand", "repeat", "unflatten", "zeros", "ones", "empty", "new_zeros", "new_ones")
_REFUSED = {
    name: f"{name}, which converts a tensor to values outside torch"
    for name in ("numpy", "__array__", "tolist", "data_ptr", "untyped_storage", "__dlpack__")
}
for _name in ("register_hook", "register_post_accumulate_grad_hook", "retain_grad"):
    _REFUSED[_name] = "a hook on a tensor"
for _name in ("grad", "backward", "requires_grad_"):
    _REFUSED[_name] = "autograd"
_REFUSED_ATTRIBUTES = {
    name: f"the attribute {name} of a tensor" for name in ("requires_grad", "grad", "grad_fn", "is_leaf", "_version")
}


def trace(cell: Cell, constants: Any, inputs: Any, state: State, raw: bool = False) -> Program:
    """Trace ``cell.step``. If gradients are enabled, the trace follows autograd, too.

    Args:
        cell: the cell.
        constants: example constants of a sequence.
        inputs: example inputs of one step.
        state: an example state.
        raw: whether the trace includes ``cell.activate``.

    Raises:
        Unsupported: the step uses something that a program cannot represent.
        InputError: the step returns an output or a state of a wrong shape.
    """
    states = tensors_of(state)
    recorder = _Recorder(len(states[0]), torch.is_grad_enabled())
    leaves = [
        [recorder.leaf(tensor, prefix) for tensor in tensors_of(part)]
        for prefix, part in (("c", constants), ("x", inputs), ("s", state))
    ]
    recorder.constant.update(leaves[0])
    with recorder, _Watch(recorder):
        result = cell.step(constants, cell.activate(constants, inputs) if raw else inputs, state)
    output, new_state = cell.checked(result, state)
    tensors = [output, *tensors_of(new_state)]
    _check_graph([tensor.grad_fn for tensor in tensors])
    results = [recorder.argument(tensor, "return") for tensor in tensors]
    return Program(*leaves, recorder.builder.nodes, results[0], results[1:])


def _check_graph(functions: list[Any]) -> None:
    """Refuse an autograd graph with a custom ``autograd.Function``."""
    left, seen = [function for function in functions if function is not None], set()
    while left:
        function = left.pop()
        if function in seen:
            continue
        seen.add(function)
        if isinstance(function, BackwardCFunction):
            name = type(function).__name__.removesuffix("Backward")
            raise Unsupported(
                f"{name}, an autograd.Function, which cannot be traced; "
                "define its derivative with rnnlab.cells.surrogate instead"
            )
        left += [following for following, _ in function.next_functions if following is not None]


def expand(
    b: Builder,
    name: str,
    arguments: Sequence[Any],
    options: dict[str, Any],
    expansions: dict[str, Callable[..., Any]] = EXPANSIONS,
) -> tuple[Value, ...]:
    """Add the nodes of an operation of torch, and return the values of its results.

    Args:
        b: the builder of the program.
        name: name of the operation.
        arguments: its positional arguments.
        options: its keyword arguments.
        expansions: functions that express an operation by others.

    Raises:
        Unsupported: there is no such operation, or it has other arguments.
    """
    try:
        if name in expansions:
            values = expansions[name](b, *arguments, **options)
        elif name in OPERATIONS and not options:
            values = getattr(b, name)(*arguments)
        else:
            raise Unsupported(name)
    except TypeError as error:  # a variant of the operation with other arguments
        raise Unsupported(name) from error
    return tuple(values) if isinstance(values, tuple | list) else (values,)
