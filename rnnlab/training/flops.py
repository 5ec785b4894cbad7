"""Count the floating-point operations of the forward pass of a model, on any device, and of a time step of a cell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from rnnlab.cells import Cell
from rnnlab.engine.ir.count import operations as operations_of
from rnnlab.engine.ir.program import broadcast
from rnnlab.engine.traced import program_of
from rnnlab.interface import Batch
from rnnlab.layers import Recurrent
from rnnlab.models import Model
from rnnlab.trees import State, map_state, tensors_of

VECTOR = 2
"""Dimensions of a batch of vectors, ``[B, H]``. The state of S4D has three, ``[B, H, N]``, the state of mLSTM four."""


class _Operations(TorchDispatchMode):
    """Counts the operations of matrix products, convolutions and attention, like PyTorch's FLOP counter.

    products: operations of products, convolutions and attention counted so far; a multiply-add is two.
    elements: other operations counted so far.
    counts_elements: whether to also count point-wise operations and sums on tensors with more than `VECTOR` dimensions,
        one operation per element. They are most of the cost of a step if the state is a matrix, and a small part of it
        if the state is a vector.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products = self.elements = 0
        self.counts_elements = False

    @property
    def total(self) -> int:
        return self.products + self.elements

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, because PyTorch would otherwise import its compiler for this mode, which takes a second."""
        return False

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        packet = function.overloadpacket
        result = _shape_of(packet, args) if args and not kwargs else None
        if result is None:
            result = function(*args, **kwargs)
        if packet in flop_registry:
            self.products += flop_registry[packet](*args, **kwargs, out_val=result)
        elif self.counts_elements:
            is_sum = packet.__name__ in ("sum", "mean", "linalg_vector_norm")
            if is_sum or torch.Tag.pointwise in function.tags:
                counted = args[0] if is_sum else result
                self.elements += counted.numel() if counted.dim() > VECTOR else 0
        return result

    @contextmanager
    def counting(self, counts: bool) -> Iterator[None]:
        """Set ``counts_elements`` to ``counts`` inside the context."""
        before, self.counts_elements = self.counts_elements, counts
        try:
            yield
        finally:
            self.counts_elements = before


_ARITHMETIC = {getattr(torch.ops.aten, name) for name in ("add", "sub", "rsub", "mul", "div")}
_UNARY = {getattr(torch.ops.aten, name) for name in ("sigmoid", "tanh", "relu", "exp", "neg")}


def _shape_of(packet: Any, args: tuple) -> Tensor | None:
    """The result of a frequent operation on the meta device; None for other operations.

    PyTorch's own implementation would import its compiler, which takes a second.
    """
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if not all(tensor.is_meta for tensor in tensors):
        return None
    if packet in (torch.ops.aten.mm, torch.ops.aten.addmm):
        left, right = args[-2:]
        return left.new_empty(left.shape[0], right.shape[1])
    if packet == torch.ops.aten.embedding:
        return args[0].new_empty(*args[1].shape, args[0].shape[1])
    if packet in _ARITHMETIC and len(args) == 2:
        shape = broadcast(*(tensor.shape for tensor in tensors))
        return torch.empty(shape, dtype=torch.result_type(*args), device="meta")
    if packet in _UNARY and len(args) == 1:  # empty_like would import it
        return torch.empty(args[0].shape, dtype=args[0].dtype, device="meta")
    return None


@torch.no_grad()
def forward_operations(model: Model, batch: Batch) -> int:
    """The number of operations of a forward pass of ``model`` on ``batch``, padding included.

    The cells of `rnnlab.layers.Recurrent` layers run one step; its operations are multiplied by the number of steps.

    Args:
        model: model on any device; the meta device suffices.
        batch: batch on the same device.
    """
    was_training = model.training
    with ExitStack() as entered:
        operations = _Operations()
        for layer in model.modules():
            if isinstance(layer, Recurrent):
                entered.enter_context(layer.run_by(partial(_one_step, operations)))
        entered.enter_context(operations)
        model.eval()(batch)
    model.train(was_training)
    return operations.total


def _one_step(
    operations: _Operations, cell: Cell, inputs: Tensor, state: State, lengths: Tensor | None = None, **context: Any
) -> tuple[Tensor, State]:
    """Run only the first step of a cell, count it once for each step, and return its output for all steps."""
    constants, prepared = cell(inputs, **context)
    before = operations.products, operations.elements
    with operations.counting(any(tensor.dim() > VECTOR for tensor in tensors_of(state))):
        first = map_state(lambda tensor: tensor[0], prepared)
        output, state = cell.checked(cell.step(constants, first, state), state)
    operations.products += (len(inputs) - 1) * (operations.products - before[0])
    operations.elements += (len(inputs) - 1) * (operations.elements - before[1])
    return output.expand(len(inputs), *output.shape), state


class Cost(NamedTuple):
    """The cost of a cell for each sequence.

    state: numbers of its state.
    products: operations of the matrix products of a time step, input projections included; a multiply-add is two.
    elements: other operations of a time step: one for each element of the result of an elementwise operation, such as a
        sigmoid, and one for each element that is summed.
    """

    state: int
    products: int
    elements: int


@torch.no_grad()
def cost_of(cell: Cell) -> Cost:
    """The state and the forward operations of a time step of ``cell``.

    Operations that are done once for each sequence, whatever its length, are not counted.

    Raises:
        rnnlab.engine.ir.program.Unsupported: the step cannot be traced.
    """
    prepared = []
    for steps in (1, 2):
        with _Operations() as counter, counter.counting(True):
            cell(cell.like.new_zeros(steps, 1, cell.input_size))
        prepared.append((counter.products, counter.elements))
    step = operations_of(program_of(cell))
    state = sum(tensor.numel() for tensor in tensors_of(cell.initial_state(1)))
    return Cost(state, *(two - one + more for one, two, more in zip(*prepared, step, strict=True)))
