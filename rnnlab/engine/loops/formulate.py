"""First phase of lowering: write a step and its backward step as formulas for single numbers."""

from __future__ import annotations

from dataclasses import dataclass

from rnnlab.engine.ir.derive import Backward
from rnnlab.engine.ir.program import Node, Program, Unsupported, Value
from rnnlab.engine.loops.formulas import Array, Formulas, Place, Segments, width_of
from rnnlab.engine.loops.schedule import Multiply

Products = dict[Array, tuple[Node, Segments]]
"""For the result of each product, its node and the formulas of its rows, in order."""


@dataclass
class Formulated:
    """A step and its backward step as formulas.

    program, back: the two steps.
    formulas: the formulas of all their values.
    inputs, states: the arrays of the inputs and of the states.
    carries: the arrays of the gradients of the states.
    new_state: the formulas of every state after the step.
    output: the formulas of the output.
    forward_products, backward_products: the matrix products of the two steps.
    """

    program: Program
    back: Backward
    formulas: Formulas
    inputs: list[Array]
    states: list[Array]
    carries: list[Array]
    new_state: list[Segments]
    output: Segments
    forward_products: Products
    backward_products: Products

    def multiply(self, node: Node, rows: Place, result: Place, stage: int, accumulate: bool = False) -> Multiply:
        """Describe the product of a node.

        Args:
            node: an ``mm`` of one of the two steps.
            rows: the place of its rows.
            result: the place of its result.
            stage: the stage after which it is computed.
            accumulate: whether it is added to the numbers at ``result``.

        Raises:
            Unsupported: its right factor is not a constant of the cell.
        """
        nodes = (*self.program.nodes, *self.back.nodes)
        transposed = {n.results[0]: n.arguments[0] for n in nodes if n.operation == "t"}
        matrix, inner, outer = node.arguments[1], node.arguments[0].shape[1], node.results[0].shape[1]
        weight = transposed.get(matrix, matrix)
        if weight not in self.program.constants:
            raise Unsupported("mm with a matrix that is not constant over the sequence")
        number = self.program.constants.index(weight)
        return Multiply(rows, number, matrix in transposed, result, inner, outer, stage, accumulate)

    def first_gradients(self, leaves: list[Value]) -> list[Value | None]:
        """Return the gradient of each leaf; if a cell returns a tensor twice, only its first leaf has the gradient."""
        left = dict(self.back.gradients)
        return [left.pop(leaf, None) for leaf in leaves]


def formulate(program: Program, back: Backward, batch_size: int) -> Formulated:
    """Write a step and its backward step as formulas.

    Args:
        program: the step.
        back: its backward step.
        batch_size: the number of rows that the step was traced with.

    Raises:
        Unsupported: a tensor is neither ``[B, F]`` nor a vector nor a weight, or the step mixes rows.
    """
    formulas = Formulas(batch_size)
    inputs = [Array(value.name, formulas.row_width(value), "input") for value in program.inputs]
    states = [Array(value.name, formulas.row_width(value), "state") for value in program.state]
    _leaves(formulas, program, inputs, states)
    for node in program.nodes:
        formulas.node(node, "u")
    forward_products = dict(formulas.multiplied)
    new_state = [formulas.get(value) for value in program.new_state]
    for array, segments in zip(states, new_state, strict=True):
        if width_of(segments) != array.width:
            raise Unsupported(f"a state whose width changes from {array.width} to {width_of(segments)} columns")
    output = formulas.get(program.output)
    carries = [Array(f"d{array.name}", array.width, "carry") for array in states]
    _gradient_leaves(formulas, program, back, carries)
    for node in back.nodes:
        formulas.node(node, "du")
    backward_products = {a: found for a, found in formulas.multiplied.items() if a not in forward_products}
    return Formulated(
        program, back, formulas, inputs, states, carries, new_state, output, forward_products, backward_products
    )


def _leaves(formulas: Formulas, program: Program, inputs: list[Array], states: list[Array]) -> None:
    """Define inputs, states and constants as loads from their arrays."""
    for value, array in zip(program.inputs, inputs, strict=True):
        formulas.leaf(value, array)
    for value, array in zip(program.state, states, strict=True):
        if value.shape[0] != formulas.batch_size:
            raise Unsupported(f"a state of shape {list(value.shape)}")
        formulas.leaf(value, array)
    for value in program.constants:
        if len(value.shape) < 2 or (len(value.shape) == 2 and value.shape[0] in (1, formulas.batch_size)):
            width = value.shape[-1] if value.shape else 1
            formulas.leaf(value, Array(value.name, width, "constant"))


def _gradient_leaves(formulas: Formulas, program: Program, back: Backward, carries: list[Array]) -> None:
    """Define the gradients of the output and of the new state as loads from their arrays."""
    formulas.leaf(back.output_gradient, Array("dy", formulas.columns_of(program.output), "upstream"))
    for value, array in zip(back.state_gradients, carries, strict=True):
        formulas.leaf(value, array, shift=1)
    gradients, results = (back.output_gradient, *back.state_gradients), (program.output, *program.new_state)
    for value, like in zip(gradients, results, strict=True):
        formulas.by_row[value] = formulas.by_row.get(like, False)
