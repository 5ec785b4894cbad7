"""Count the floating-point operations of a traced step."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.ir.program import Node, Program, Value, values_of


class Operations(NamedTuple):
    """Floating-point operations for one sequence.

    products: operations of matrix products with weights, two for each weight.
    elements: other operations: one for each element of the result of an elementwise operation, such as a sigmoid, and
        one for each element that is summed.
    """

    products: int
    elements: int


_FREE = ("detach", "zeros_like", "ones_like", "as_number")  # their C is a copy or a number
_REDUCTIONS = ("sum", "amax", "sum_to")


def operations(program: Program) -> Operations:
    """Return the operations of a step for one sequence. Operations that only move or copy numbers are not counted."""
    varies = {*program.inputs, *program.state}  # their first axis is the batch axis
    products = elements = 0
    for node in program.nodes:
        read = values_of(node.arguments)
        if not varies.isdisjoint(read):
            varies.update(node.results)
        if node.operation == "mm":
            products += 2 * prod(read[1].shape)
        elif counted := _counted(node):
            elements += prod(counted.shape[1:] if counted in varies else counted.shape)
    return Operations(products, elements)


def _counted(node: Node) -> Value | None:
    """Return the value whose elements are the operations of a node; None if it computes nothing."""
    if node.operation in _REDUCTIONS:
        return values_of(node.arguments)[0]
    return node.results[0] if OPERATIONS[node.operation].c and node.operation not in _FREE else None
