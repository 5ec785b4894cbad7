"""Print a step and its backward step as two readable Python functions.

The functions call one torch operation after the other, on any device and in any dtype. Given tensors with an additional
first axis, ``[T, B, F]``, they compute all steps at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import inf, nan
from typing import Any

import torch

from rnnlab.engine.ir.derive import Backward
from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.ir.program import Node, Program, Value, values_of


@dataclass(frozen=True)
class Steps:
    """The two functions of a cell.

    source: their source code.
    forward: ``(constants, inputs, state) -> (output, new state, saved)``, all tuples except the output.
    backward: ``(constants, inputs, state, saved, output gradient, state gradients) -> (constant, input and state
        gradients, product gradients)``, all tuples; None for a leaf without gradient.
    rows: for every product, the place of its rows: ``("saved" | "inputs" | "state", index)``.
    weights: for every product, the index of its weight among the constants.
    transposed: for every product, whether the weight is transposed.
    """

    source: str
    forward: Callable
    backward: Callable
    rows: tuple[tuple[str, int], ...]
    weights: tuple[int, ...]
    transposed: tuple[bool, ...]


def emit(program: Program, back: Backward) -> Steps:
    """Print a program and its backward step, and compile the two functions."""
    leaves = {"inputs": program.inputs, "state": program.state}
    place = {value: (kind, i) for kind, values in leaves.items() for i, value in enumerate(values)}
    made = [result for node in program.nodes for result in node.results]
    used = {value for node in back.nodes for value in values_of(node.arguments)} | {p.rows for p in back.products}
    saved = [value for value in made if value in used]
    place |= {value: ("saved", i) for i, value in enumerate(saved)}

    lines = ["def forward(constants, inputs, state):", *_unpack(program)]
    lines += [_line(node) for node in program.nodes]
    lines += [f"    return {program.output}, {_pack(program.new_state)}, {_pack(saved)}", "", ""]
    lines += ["def backward(constants, inputs, state, saved, output_gradient, state_gradients):", *_unpack(program)]
    lines += [f"    {_pack(saved)} = saved"] if saved else []
    lines += [f"    {back.output_gradient} = output_gradient", f"    {_pack(back.state_gradients)} = state_gradients"]
    lines += [_line(node) for node in back.nodes]
    left = dict(back.gradients)  # a tensor that a cell returns twice gets its gradient once
    parts = (program.constants, program.inputs, program.state)
    gradients = [[left.pop(leaf, None) for leaf in part] for part in parts]
    packed = [*map(_pack, gradients), _pack([product.gradient for product in back.products])]
    lines += [f"    return {', '.join(packed)}", ""]
    source = "\n".join(lines)
    return Steps(
        source,
        *_compile(source),
        rows=tuple(place[product.rows] for product in back.products),
        weights=tuple(program.constants.index(product.weight) for product in back.products),
        transposed=tuple(product.transposed for product in back.products),
    )


@lru_cache
def _compile(source: str) -> tuple[Callable, Callable]:
    names: dict[str, Any] = {"torch": torch, "aten": torch.ops.aten, "inf": inf, "nan": nan}
    exec(compile(source, "<step>", "exec"), names)
    return names["forward"], names["backward"]


def _unpack(program: Program) -> list[str]:
    parts = {"constants": program.constants, "inputs": program.inputs, "state": program.state}
    dtype = any(node.operation == "as_number" for node in program.nodes)
    lines = [f"    {_pack(values)} = {name}" for name, values in parts.items() if values]
    return [*lines, f"    dtype = {program.state[0]}.dtype"] if dtype else lines


def _pack(values: list[Value | None]) -> str:
    return f"({', '.join(map(str, values))}{',' if len(values) == 1 else ''})"


def _line(node: Node) -> str:
    results = ", ".join(map(str, node.results)) + ("," if node.operation == "split" else "")
    return f"    {results} = {_call(node)}"


def _call(node: Node) -> str:
    first, *rest = node.arguments
    operation = OPERATIONS[node.operation]
    if operation.infix:
        return operation.c.format(first, *rest)
    if node.operation in ("sum", "amax"):
        return f"{first}.{node.operation}({_from_last(first, rest[0])}, keepdim=True)"
    if node.operation == "squeeze":
        return f"{first}.squeeze({_from_last(first, rest[0])})"
    if node.operation == "unsqueeze":
        return f"{first}.unsqueeze({rest[0] - len(first.shape) - 1})"
    if node.operation == "split":
        return f"{first}.split({rest[0]}, {_from_last(first, rest[1])})"
    if node.operation == "cat":
        return f"torch.cat({first}, {_from_last(first[0], rest[0])})"
    if node.operation == "sum_to":
        return f"{first}.sum_to_size({rest[0]}.shape)"
    if node.operation == "expand_as":
        return f"{first}.expand_as({rest[0]})"
    if node.operation == "expand":
        sizes = [f"{first}.shape[{i - len(rest[0])}]" if n == -1 else str(n) for i, n in enumerate(rest[0])]
        return f"{first}.expand(*{first}.shape[: -{len(rest[0])}], {', '.join(sizes)})"
    if node.operation == "flatten":
        return f"{first}.flatten({1 - len(first.shape)})"
    if node.operation == "unflatten":
        return f"{first}.unflatten(-1, {rest[0]})"
    if node.operation == "as_number":
        return f"{first}.to(dtype)"
    if node.operation == "softplus":  # torch's own is the identity above 20
        return f"torch.logaddexp({first}, torch.zeros_like({first}))"
    if node.operation == "mm":
        return f"{first} @ {rest[0]}"
    home = "torch" if hasattr(torch, node.operation) else "aten"
    return f"{home}.{node.operation}({', '.join(map(str, node.arguments))})"


def _from_last(value: Value, dim: int) -> int:
    """Count an axis from the last one, so that the functions also take tensors of all steps at once."""
    return dim % len(value.shape) - len(value.shape)
