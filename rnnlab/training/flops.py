"""Floating-point operations of a model's forward pass on a batch, counted as it runs on tensors without numbers."""

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
from rnnlab.interface import Batch, State, map_state, tensors_of
from rnnlab.layers import Recurrent
from rnnlab.models import Model

VECTOR = 2
"""Axes of a batch of vectors, ``[B, H]``. The state of S4D has three, ``[B, H, N]``, that of mLSTM four."""


class _Operations(TorchDispatchMode):
    """Counts the operations of matrix products, convolutions and attention, as PyTorch's own FLOP counter does.

    total: operations so far, two for a multiplication with its addition.
    counts_elements: whether the results of point-wise operations, and the terms of sums, on tensors with more axes than
        `VECTOR` count too, one for each element. Where a state is a matrix they are most of the cost of a step; on
        vectors they are few beside the matrix products.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.counts_elements = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether PyTorch keeps its compiler away from this mode, for which it would import it: a second."""
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
        """While the context lasts, ``counts_elements`` is ``counts``."""
        before, self.counts_elements = self.counts_elements, counts
        try:
            yield
        finally:
            self.counts_elements = before


_ARITHMETIC = {getattr(torch.ops.aten, name) for name in ("add", "sub", "rsub", "mul", "div")}
_UNARY = {getattr(torch.ops.aten, name) for name in ("sigmoid", "tanh", "relu", "exp", "neg")}


def _shape_of(packet: Any, args: tuple) -> Tensor | None:
    """The result of a frequent operation on the meta device; None for others.

    PyTorch itself would import its compiler for each of them, which takes a second.
    """
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if not all(tensor.is_meta for tensor in tensors):
        return None
    if packet == torch.ops.aten.addmm and len(args) == 3:
        return args[1].new_empty(args[1].shape[0], args[2].shape[1])
    if packet in _ARITHMETIC and len(args) == 2:
        shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
        return torch.empty(shape, dtype=torch.result_type(*args), device="meta")
    return torch.empty_like(args[0]) if packet in _UNARY and len(args) == 1 else None


@torch.no_grad()
def forward_operations(model: Model, batch: Batch) -> int:
    """Operations of a forward pass of ``model`` on ``batch``, padding included.

    The cells of `rnnlab.layers.Recurrent` layers run one step, whose operations count for each step of the batch.

    Args:
        model: on the meta device, or on another one that ``batch`` is on as well.
        batch: on the same device.
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
    """Run a cell as `rnnlab.engine.reference` does, but all steps by the first one, counted as often as there are."""
    constants, prepared = cell(inputs, **context)
    before = operations.total
    with operations.elements(any(tensor.dim() > VECTOR for tensor in tensors_of(state))):
        first = map_state(lambda tensor: tensor[0], prepared)
        output, state = cell.checked(cell.step(constants, first, state), state)
    operations.total += (len(inputs) - 1) * (operations.total - before)
    return output.expand(len(inputs), *output.shape), state
