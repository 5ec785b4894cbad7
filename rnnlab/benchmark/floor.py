"""The floor of a cell: the matrix products that its trace contains, and their time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rnnlab import engine
from rnnlab.benchmark.contenders import Contender, Missing, Work
from rnnlab.cells import Cell
from rnnlab.interface import InputError


class Products(NamedTuple):
    """The products of a cell over a sequence, each ``[rows, inner]`` with ``[inner, outer]``.

    whole: the products over all steps at once, as (rows, inner, outer).
    steps: the products of each step, likewise.
    """

    whole: list[tuple[int, int, int]]
    steps: list[tuple[int, int, int]]


class Counted(TorchDispatchMode):
    """Records the shapes of the matrix products that reach torch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, int, int]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports torch's compiler at the first use, which takes seconds

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            left, right = args[-2:]
            self.found.append((*left.shape, right.shape[1]))
        return function(*args, **(kwargs or {}))


def products(cell: Cell, inputs: Tensor) -> Products:
    """Return the unavoidable products of running ``cell`` over ``inputs`` ``[T, B, F]``.

    Raises:
        Missing: the step of the cell cannot be traced.
    """
    try:
        engine.choose(cell, "fused")
    except InputError as error:
        raise Missing(f"the products of a step are unknown: {error}") from error
    with torch.no_grad(), Counted() as noted:
        cell(inputs)
    steps = []
    for product in engine.fused.traced(cell).back.products:
        outer, inner = product.weight.shape if product.transposed else product.weight.shape[::-1]
        steps.append((product.rows.shape[0] * inputs.shape[1] // 2, inner, outer))  # the trace has a batch of two
    rows = inputs.shape[0] * inputs.shape[1]  # excludes products of weights alone in prepare
    return Products([product for product in noted.found if product[0] == rows], steps)


def floor(work: Work) -> Contender:
    """Return the contender that computes only the products, into existing memory.

    Raises:
        Missing: the cell does no matrix product, or its step cannot be traced.
    """
    found = products(work.cell, work.inputs)
    if not found.whole and not found.steps:
        raise Missing(f"{type(work.cell).__name__} does no matrix product")
    forward, backward = [], []
    for number, (rows, inner, outer) in enumerate([*found.whole, *found.steps]):
        times = 1 if number < len(found.whole) else len(work.inputs)
        # Allocate all memory here and fill it: products of memory that was never written may be faster.
        shapes = [(times * rows, inner), (outer, inner), (times * rows, outer)]
        left, weight, result = (work.upstream.new_empty(shape).normal_() for shape in shapes)
        of_left, of_weight = left.new_empty(rows, inner), torch.empty_like(weight)
        forward += [(a, weight.t(), c) for a, c in zip(left.split(rows), result.split(rows), strict=True)]
        backward += [(c, weight, of_left) for c in result.split(rows)]
        backward.append((result.t(), left, of_weight))

    def multiply(triples: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        with torch.no_grad():
            for a, b, out in triples:
                torch.mm(a, b, out=out)

    return Contender("floor", None, lambda: multiply(forward + backward), lambda: multiply(forward))
