"""The backward step of a program: reverse-mode differentiation, an operation at a time.

For every operation there is one rule, which says what the gradient of its result gives to each of its arguments. A
product of something with a weight gives the weight no gradient here: its two factors are kept, and one product over
all steps at the end gives the same, faster (`Backward.products`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from math import prod
from typing import Any

from rnnlab.engine.trace import Node, Program, Unsupported, Value, values_of


@dataclass
class Product:
    """``rows @ weight.t()`` of a step; ``gradient`` is that of its result."""

    weight: Value
    rows: Value
    gradient: Value


@dataclass
class Backward:
    """The backward step.

    nodes: what to compute, in order, from the forward step's values and the gradients of its results.
    output_gradient, state_gradients: the leaves: gradients of the output and of the new state.
    gradients: of the forward step's leaves, by leaf; a leaf that gets none is missing.
    products: the products with weights, whose weight gradients are left for the end.
    """

    nodes: list[Node]
    output_gradient: Value
    state_gradients: list[Value]
    gradients: dict[Value, Value] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)


class _Builder:
    """Adds nodes to a program; the methods are named after the operations."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.names: Iterator[int] = count()

    def fresh(self, shape: tuple[int, ...]) -> Value:
        return Value(f"g{next(self.names)}", shape)

    def __getattr__(self, operation: str) -> Callable[..., Value]:
        def add(*arguments: Any, shape: tuple[int, ...] | None = None) -> Value:
            shapes = [argument.shape for argument in arguments if isinstance(argument, Value)]
            result = self.fresh(shape or max(shapes, key=len))
            self.nodes.append(Node(operation, arguments, (result,)))
            return result

        return add

    def like(self, gradient: Value, argument: Any) -> Value | None:
        """The gradient summed over what ``argument`` was broadcast along; None where it is a number."""
        if not isinstance(argument, Value):
            return None
        return gradient if gradient.shape == argument.shape else self.sum_to(gradient, argument, shape=argument.shape)


def _layer_norm(b: _Builder, node: Node, g: Value) -> list[Value | None]:
    x, shape, gain, bias, _ = node.arguments
    _, mean, scale = node.results
    wanted = [True, gain is not None, bias is not None]
    made = tuple(b.fresh(x.shape if value is None else value.shape) for value in (x, gain, bias))
    b.nodes.append(Node("native_layer_norm_backward", (g, x, shape, mean, scale, gain, bias, wanted), made))
    of_x, of_gain, of_bias = (result if want else None for result, want in zip(made, wanted, strict=True))
    return [of_x, None, of_gain, of_bias, None]


def _cat(b: _Builder, node: Node, g: Value) -> list[Any]:
    pieces, dim = node.arguments[0], node.arguments[1] if len(node.arguments) > 1 else 0
    starts = [sum(piece.shape[dim] for piece in pieces[:i]) for i in range(len(pieces))]
    return [[b.narrow(g, dim, i, p.shape[dim], shape=p.shape) for i, p in zip(starts, pieces, strict=True)]]


def _joined(b: _Builder, node: Node, gradients: list[Value | None]) -> Value:
    """The gradient of what was split, from those of its pieces."""
    pieces = [b.zeros_like(r) if g is None else g for r, g in zip(node.results, gradients, strict=True)]
    dim = node.arguments[2] if len(node.arguments) > 2 else 0
    return b.cat(pieces, dim, shape=node.arguments[0].shape)


def _reduced(b: _Builder, node: Node, g: Value) -> Value:
    """The gradient of a sum over some axes, spread over them again."""
    x, dims = node.arguments[0], _axes(node)
    if len(node.arguments) < 3 or not node.arguments[2]:  # keepdim
        for dim in sorted(d % len(x.shape) for d in dims):
            g = b.unsqueeze(g, dim, shape=(*g.shape[:dim], 1, *g.shape[dim:]))
    return b.expand_as(g, x, shape=x.shape)


def _axes(node: Node) -> list[int]:
    """The axes of a sum or mean; over all of them it would mix the sequences of a batch."""
    if len(node.arguments) < 2 or not node.arguments[1]:
        raise Unsupported(f"{node.operation} over all axes")
    return node.arguments[1]


def _mean(b: _Builder, node: Node, g: Value) -> list[Any]:
    return [b.div(_reduced(b, node, g), prod(node.arguments[0].shape[d] for d in _axes(node)))]


def _pow(b: _Builder, node: Node, g: Value) -> list[Any]:
    base, exponent = node.arguments
    if isinstance(exponent, Value) or not isinstance(base, Value):
        raise Unsupported("pow with a tensor as exponent")
    return [b.mul(g, b.mul(b.pow(base, exponent - 1), exponent))]


# For each operation: (builder, node, gradient of the result) -> gradient of each argument, in their order.
RULES: dict[str, Callable[[_Builder, Node, Value], list[Any]]] = {
    "add": lambda b, n, g: [b.like(g, a) for a in n.arguments],
    "sub": lambda b, n, g: [b.like(g, n.arguments[0]), b.like(b.neg(g), n.arguments[1])],
    "rsub": lambda b, n, g: [b.like(b.neg(g), n.arguments[0])],
    "neg": lambda b, n, g: [b.neg(g)],
    "mul": lambda b, n, g: [
        b.like(b.mul(g, other), a) if isinstance(a, Value) else None
        for a, other in zip(n.arguments, reversed(n.arguments), strict=True)
    ],
    "div": lambda b, n, g: [
        b.like(b.div(g, n.arguments[1]), n.arguments[0]),
        b.like(b.neg(b.mul(g, b.div(n.results[0], n.arguments[1]))), n.arguments[1]),
    ],
    "reciprocal": lambda b, n, g: [b.neg(b.mul(g, b.mul(n.results[0], n.results[0])))],
    "pow": _pow,
    "sqrt": lambda b, n, g: [b.div(g, b.mul(n.results[0], 2))],
    "abs": lambda b, n, g: [b.mul(g, b.sgn(n.arguments[0]))],
    "exp": lambda b, n, g: [b.mul(g, n.results[0])],
    "log": lambda b, n, g: [b.div(g, n.arguments[0])],
    "sin": lambda b, n, g: [b.mul(g, b.cos(n.arguments[0]))],
    "cos": lambda b, n, g: [b.neg(b.mul(g, b.sin(n.arguments[0])))],
    "sigmoid": lambda b, n, g: [b.sigmoid_backward(g, n.results[0])],
    "tanh": lambda b, n, g: [b.tanh_backward(g, n.results[0])],
    "relu": lambda b, n, g: [b.threshold_backward(g, n.results[0], 0)],
    "softplus": lambda b, n, g: [b.softplus_backward(g, *n.arguments, *(1, 20)[len(n.arguments) - 1 :])],
    "silu": lambda b, n, g: [b.silu_backward(g, n.arguments[0])],
    "where": lambda b, n, g: [
        None,
        b.like(b.where(n.arguments[0], g, 0.0, shape=g.shape), n.arguments[1]),
        b.like(b.where(n.arguments[0], 0.0, g, shape=g.shape), n.arguments[2]),
    ],
    "sum": lambda b, n, g: [_reduced(b, n, g)],
    "mean": _mean,
    "cat": _cat,
    "native_layer_norm": _layer_norm,
    **dict.fromkeys(("detach", "zeros_like", "ones_like", "gt", "lt", "ge", "le", "eq", "ne"), lambda b, n, g: []),
}


def derive(program: Program) -> Backward:
    """The backward step of ``program``.

    Raises:
        Unsupported: an operation has no rule.
    """
    b = _Builder()
    output_gradient = b.fresh(program.output.shape)
    state_gradients = [b.fresh(value.shape) for value in program.new_state]
    back = Backward(b.nodes, output_gradient, state_gradients)
    so_far: dict[Value, Value] = {}

    def give(value: Value, gradient: Value | None) -> None:
        if gradient is not None:
            so_far[value] = b.add(so_far[value], gradient) if value in so_far else gradient

    give(program.output, output_gradient)
    for value, gradient in zip(program.new_state, state_gradients, strict=True):
        give(value, gradient)
    transposed = {node.results[0]: node.arguments[0] for node in program.nodes if node.operation == "t"}
    for node in reversed(program.nodes):
        if not any(result in so_far for result in node.results):
            continue
        if node.operation == "mm":
            rows, weight = node.arguments[0], transposed.get(node.arguments[1])
            if weight not in program.constants:
                raise Unsupported("mm of two tensors neither of which is a constant, transposed")
            gradient = so_far[node.results[0]]
            back.products.append(Product(weight, rows, gradient))
            give(rows, b.mm(gradient, weight, shape=rows.shape))
        elif node.operation == "split":
            give(node.arguments[0], _joined(b, node, [so_far.get(result) for result in node.results]))
        elif node.operation not in RULES or (len(node.results) > 1 and node.results[0] not in so_far):
            raise Unsupported(node.operation)
        else:
            gradients = RULES[node.operation](b, node, so_far[node.results[0]])
            for argument, gradient in zip(node.arguments, gradients, strict=False):
                nested = isinstance(argument, list) and gradient is not None
                pairs = zip(argument, gradient, strict=True) if nested else [(argument, gradient)]
                for value, one in pairs:
                    give(value, one)
    leaves = [*program.constants, *program.inputs, *program.state]
    back.gradients = {leaf: so_far[leaf] for leaf in leaves if leaf in so_far}
    back.nodes = _needed(b.nodes, [*back.gradients.values(), *(product.gradient for product in back.products)])
    return back


def _needed(nodes: list[Node], results: list[Value]) -> list[Node]:
    """The nodes that ``results`` depend on: a rule also says what a number would get, which nobody asks for."""
    wanted, kept = set(results), []
    for node in reversed(nodes):
        if wanted.intersection(node.results):
            wanted.update(values_of(node.arguments))
            kept.append(node)
    return kept[::-1]
