"""Count the floating-point operations of the forward pass of a model, which can run on the meta device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from rnnlab.cells import Cell
from rnnlab.engine.ir.program import broadcast
from rnnlab.interface import Batch
from rnnlab.layers import Recurrent
from rnnlab.models import Model
from rnnlab.trees import State, map_state, tensors_of

VECTOR = 2
"""Dimensions of a batch of vectors, ``[B, H]``. The state of S4D has three, ``[B, H, N]``, the state of mLSTM four."""


class _Operations(TorchDispatchMode):
    """Counts the operations of matrix products, convolutions and attention, like PyTorch's FLOP counter.

    total: operations counted so far; a multiply-add is two.
    counts_elements: whether to also count point-wise operations and sums on tensors with more than `VECTOR` dimensions,
        one operation per element. They are most of the cost of a step if the state is a matrix, and a small part of it
        if the state is a vector.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.counts_elements = False

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
            self.total += flop_registry[packet](*args, **kwargs, out_val=result)
        elif self.counts_elements:
            is_sum = packet.__name__ in ("sum", "mean")
            if is_sum or torch.Tag.pointwise in function.tags:
                counted = args[0] if is_sum else result
                self.total += counted.numel() if counted.dim() > VECTOR else 0
        return result

    @contextmanager
    def elements(self, counts: bool) -> Iterator[None]:
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
    before = operations.total
    with operations.elements(any(tensor.dim() > VECTOR for tensor in tensors_of(state))):
        first = map_state(lambda tensor: tensor[0], prepared)
        output, state = cell.checked(cell.step(constants, first, state), state)
    operations.total += (len(inputs) - 1) * (operations.total - before)
    return output.expand(len(inputs), *output.shape), state
