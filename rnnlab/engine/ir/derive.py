"""Derive the backward step of a program by reverse-mode differentiation, one operation at a time.

`rnnlab.engine.ir.operations` has one rule for each operation. The gradient of a weight is not part of the backward
step: the two factors of its product are kept, and one matrix product over all steps computes the gradient at the end
(`Backward.products`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.ir.program import Builder, Node, Program, Unsupported, Value, needed


@dataclass
class Product:
    """A product ``rows @ weight.t()`` if ``transposed``, else ``rows @ weight``, and the gradient of its result."""

    weight: Value
    transposed: bool
    rows: Value
    gradient: Value


@dataclass(eq=False)
class Backward:
    """The backward step.

    nodes: its operations in order; they read the forward step's values and the gradients of its results.
    output_gradient, state_gradients: its leaves, the gradients of the output and of the new state.
    gradients: the gradient of each leaf of the forward step; leaves without one are missing.
    products: the products with weights, whose gradients are computed after the last step.
    """

    nodes: list[Node]
    output_gradient: Value
    state_gradients: list[Value]
    gradients: dict[Value, Value] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)


def derive(program: Program, unwanted: Collection[Value] = ()) -> Backward:
    """Derive the backward step of ``program``.

    Args:
        program: the step.
        unwanted: leaves that need no gradient.

    Raises:
        Unsupported: the right factor of a product is not a constant, or both factors are.
    """
    b = Builder("g")
    output_gradient = b.fresh(program.output.shape)
    state_gradients = [b.fresh(value.shape) for value in program.new_state]
    back = Backward(b.nodes, output_gradient, state_gradients)
    so_far: dict[Value, Value] = {}

    def give(value: Value, gradient: Value | None) -> None:
        if gradient is None or not isinstance(value, Value):
            return
        if gradient.shape != value.shape:  # it was broadcast
            gradient = b.sum_to(gradient, value)
        so_far[value] = b.add(so_far[value], gradient) if value in so_far else gradient

    give(program.output, output_gradient)
    for value, gradient in zip(program.new_state, state_gradients, strict=True):
        give(value, gradient)
    transposed = {node.results[0]: node.arguments[0] for node in program.nodes if node.operation == "t"}
    for node in reversed(program.nodes):
        found = [so_far.get(result) for result in node.results]
        if not any(found):
            continue
        if node.operation == "mm":
            rows, factor = node.arguments
            weight = transposed.get(factor, factor)
            if weight not in program.constants:
                raise Unsupported("mm with a matrix that is not constant over the sequence")
            if rows in program.constants:
                raise Unsupported("mm of two constants; compute it in prepare")
            back.products.append(Product(weight, factor in transposed, rows, found[0]))
            give(rows, b.mm(found[0], weight if factor in transposed else b.t(weight)))
        elif node.operation == "split":
            whole, _, dim = node.arguments
            pieces = [g or b.zeros_like(result) for g, result in zip(found, node.results, strict=True)]
            give(whole, b.cat(pieces, dim))
        elif node.operation == "t":
            raise Unsupported("t of a matrix that is not a weight")
        else:
            gradients = OPERATIONS[node.operation].rule(b, node, found[0])
            for argument, gradient in zip(node.arguments, gradients, strict=False):
                nested = isinstance(argument, list)
                for value, one in zip(argument, gradient, strict=True) if nested else [(argument, gradient)]:
                    give(value, one)
    leaves = [*program.constants, *program.inputs, *program.state]
    back.gradients = {leaf: so_far[leaf] for leaf in leaves if leaf in so_far and leaf not in unwanted}
    # Rules also compute gradients that are not needed.
    back.nodes = needed(b.nodes, [*back.gradients.values(), *(product.gradient for product in back.products)])
    return back
