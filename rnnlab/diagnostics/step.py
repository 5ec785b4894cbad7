"""Draw the step of a cell: the operations of its traced program, from the inputs and the old state to the new state."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rnnlab.cells import Cell
from rnnlab.engine.ir.program import Extent, Node, Program, Value, values_of
from rnnlab.engine.traced import program_of
from rnnlab.report.diagram import Box, Diagram, Line
from rnnlab.trees import tensors_of

BINARY = {"add": "+", "sub": "−", "mul": "×", "div": "÷", "maximum": "max", "minimum": "min", "pow": "^"}
BINARY |= {"gt": ">", "lt": "<", "ge": "≥", "le": "≤", "eq": "=", "ne": "≠"}
UNARY = {"neg": "−( )", "sigmoid": "σ", "abs": "| |", "sqrt": "√", "log1p": "log(1+ )", "expm1": "exp( )−1"}
UNARY |= {"softplus": "softplus", "sgn": "sign", "sum": "Σ", "amax": "max"}
"""Signs of operations with two arguments and with one; others have their own name."""
HEADS = {"sub": ("", "−"), "div": ("", "÷"), "where": ("if", "then", "else")}
HEADS |= dict.fromkeys(("gt", "lt", "ge", "le"), ("left", "right"))
"""Texts at the lines into an operation whose arguments may not be exchanged."""
SILENT = {"t", "squeeze", "unsqueeze", "expand", "expand_as", "flatten", "unflatten", "as_number", "detach"}
"""Operations that only change the shape or the type of a value, or its derivative. They have no box of their own."""
TWICE = {"mul": "( )²", "add": "2 ×"}
"""Texts of operations whose two arguments are the same value."""
KINDS = ("arithmetic", "function", "product")
"""The kinds of boxes of operations; a box with several has the last of their kinds."""
CLAMPS = {"lt": "max", "le": "max", "gt": "min", "ge": "min"}
"""The extreme that ``where(comparison(x, bound), bound, x)`` takes, by the comparison."""
INSIDE_NORM = {"sum", "div", "sub", "mul", "add", "sqrt", "squeeze", "unsqueeze", "where", "eq", "expand", "expand_as"}
"""Operations of which the statistics of a normalisation consist."""


@dataclass
class Drawing:
    """The drawing of a step.

    diagram: its boxes and lines.
    nodes: the operations of the program in each box; each operation is in exactly one box.
    """

    diagram: Diagram = field(default_factory=Diagram)
    nodes: dict[Box, list[Node]] = field(default_factory=lambda: defaultdict(list))


def draw(cell: Cell) -> str:
    """Return the step of a cell as an SVG file.

    Raises:
        Unsupported: the step cannot be traced.
    """
    return drawing(cell, program_of(cell)).diagram.svg(f"One time step of {type(cell).__name__}")


def drawing(cell: Cell, program: Program) -> Drawing:
    """Return the boxes and lines of a traced step, with the names that the cell's code gives to its values."""
    return _Painter(cell, program).paint()


class _Painter:
    def __init__(self, cell: Cell, program: Program) -> None:
        self.program, self.drawing = program, Drawing()
        code = _Names(cell)
        self.texts: dict[Value, str] = dict(zip(program.constants, code.constants, strict=True))
        self.leaves = dict(zip(program.inputs, code.inputs, strict=True))
        self.states = list(zip(program.state, program.new_state, code.state, strict=True))
        self.splits = code.splits(program)
        self.at: dict[Value, tuple[Box, int, str]] = {}  # the exit at which a value leaves a box, and its name there
        self.readers = Counter(value for node in program.nodes for value in set(values_of(node.arguments)))
        self.readers.update([program.output, *program.new_state])
        self.pending: list[Node] = []  # operations on constants, which join the box that reads them

    def paint(self) -> Drawing:
        old = {}
        used = {value for node in self.program.nodes for value in values_of(node.arguments)}
        used |= {self.program.output, *self.program.new_state}
        for value, name in self.leaves.items():
            if value in used:
                self.at[value] = (self.box(f"{name}ₜ", "leaf"), 0, "")
        for value, _, name in self.states:
            old[value] = self.box(f"{name}ₜ₋₁", "leaf")
            self.at[value] = (old[value], 0, "")
        groups = {node: (text, members) for node, text, members in _groups(self.program, set(self.texts))}
        inner = {node for _, members in groups.values() for node in members}
        for node in self.program.nodes:
            if node in groups:
                text, members = groups[node]
                source = next(value for value in values_of(node.arguments[::-1]) if value in self.at)
                self.operation(node, text, [source], "function", members=members)
            elif node not in inner:
                self.add(node)
        for value, new, name in self.states:
            box = self.result(new, f"{name}ₜ")
            self.drawing.diagram.feedback.append((box, old[value]))
        output = self.result(self.program.output, "yₜ")
        self.drawing.nodes[output] += self.pending
        return self.drawing

    def box(self, text: str, kind: str, exits: int = 1) -> Box:
        box = Box((text,) if text else (), kind, exits)
        self.drawing.diagram.boxes.append(box)
        return box

    def result(self, value: Value, text: str) -> Box:
        box = self.box(text, "result")
        if value in self.at:
            self.line(value, box)
        return box

    def line(self, value: Value, end: Box, head: str = "") -> None:
        start, number, tail = self.at[value]
        self.drawing.diagram.lines.append(Line(start, end, number, tail, head))

    def add(self, node: Node) -> None:
        """Add one operation."""
        read = values_of(node.arguments)
        varying = [value for value in read if value in self.at]
        if not varying:  # it has constants only: an expression, which the boxes that read it show
            self.texts |= dict.fromkeys(node.results, _expression(node, self.texts))
            self.pending.append(node)
        elif node.operation in SILENT:
            self.at |= dict.fromkeys(node.results, self.at[varying[0]])
            self.drawing.nodes[self.at[varying[0]][0]].append(node)
        elif node.operation == "split":
            self.split(node, varying[0])
        else:
            kind = "product" if node.operation == "mm" else "function"
            kind = "arithmetic" if node.operation in {*BINARY, "neg", "where"} else kind
            heads = HEADS.get(node.operation, ("",) * len(node.arguments))
            named = {value: head for value, head in zip(node.arguments, heads, strict=True) if value in varying}
            shown = list(named.values()) if len(named) > 1 or node.operation == "where" else [""]
            twice = len(varying) == 2 and len(named) == 1
            text = (twice and TWICE.get(node.operation)) or self.label(node)
            self.operation(node, text, list(named or varying), kind, shown)

    def operation(
        self, node: Node, text: str, read: list[Value], kind: str, heads: list[str] = ("",), members: list[Node] = ()
    ) -> None:
        """Add an operation to the box that computes its only varying argument, or else as a box of its own."""
        start = self.at[read[0]][0]
        if len(read) == 1 and start.kind in KINDS and self.readers_of(start) == 1:
            box = start
            box.texts += (text,)
            box.kind = max(box.kind, kind, key=KINDS.index)
        else:
            box = self.box(text, kind)
            for value, head in itertools.zip_longest(read, heads, fillvalue=""):
                self.line(value, box, head)
        self.drawing.nodes[box] += [*members, node, *self.pending]
        self.pending = []
        self.at |= dict.fromkeys(node.results, (box, 0, ""))

    def readers_of(self, box: Box) -> int:
        """The number of operations that read the values of a box outside it."""
        inside = set(self.drawing.nodes[box])
        made = {value for node in inside for value in node.results}
        count = sum(
            any(value in made for value in values_of(node.arguments))
            for node in self.program.nodes
            if node not in inside
        )
        return count + sum(value in made for value in (self.program.output, *self.program.new_state))

    def split(self, node: Node, value: Value) -> None:
        """Add the columns of a value as a bar with an exit for each piece that is read."""
        names = self.splits.get(node, [""] * len(node.results))
        read = [place for place, piece in enumerate(node.results) if self.readers[piece]]
        box = self.box("", "columns", len(read))
        self.line(value, box)
        for number, place in enumerate(read):
            self.at[node.results[place]] = (box, number, names[place])
        self.drawing.nodes[box].append(node)

    def label(self, node: Node) -> str:
        """The text of an operation, with its constant arguments."""
        name = node.operation
        if name == "mm":
            return f"{self.text(node.arguments[1])} ·"
        if name in BINARY:
            sides = [self.text(argument) for argument in node.arguments]
            if name in ("add", "mul"):
                sides.sort(key=bool)  # "+ b" also where the code has b + h
            return " ".join(text for text in (sides[0], BINARY[name], sides[1]) if text)
        if name == "where":
            _, yes, no = (self.text(argument) for argument in node.arguments)
            return "if" + (f" then {yes}" if yes else "") + (f" else {no}" if no else "")
        return UNARY.get(name, name)

    def text(self, argument: Any) -> str:
        """A constant argument as text; nothing for a value that varies."""
        if isinstance(argument, Value):
            return "" if argument in self.at else self.texts[argument]
        return _number(argument) if isinstance(argument, int | float) else ""


def _number(number: float) -> str:
    """A number as text; n for a size, which depends on the width of the cell."""
    return "n" if isinstance(number, Extent) else f"{number:.3g}".replace("-", "−")


def _expression(node: Node, texts: dict[Value, str]) -> str:
    """An operation on constants as text."""
    if node.operation in SILENT or node.operation == "split":
        return texts[values_of(node.arguments)[0]]
    is_binary = node.operation in BINARY
    numbers = int | float if is_binary else float  # an int may be an axis
    shown = [texts[a] if isinstance(a, Value) else _number(a) for a in node.arguments if isinstance(a, Value | numbers)]
    if is_binary:
        return f"({shown[0]} {BINARY[node.operation]} {shown[1]})"
    return f"{UNARY.get(node.operation, node.operation)}({', '.join(shown)})"


def _groups(program: Program, constants: set[Value]) -> Iterator[tuple[Node, str, list[Node]]]:
    """The operations that a reader knows as one: the last of each, its text, and the others.

    These are a normalisation ``(x - mean) * scale`` or ``x / root mean square``, ``x * sigmoid(x)``, and a clamp.
    Nothing else reads their intermediate values.
    """
    maker = {value: node for node in program.nodes for value in node.results}
    readers = defaultdict(set)
    for node in program.nodes:
        for value in values_of(node.arguments):
            readers[value].add(node)
    kept = {program.output, *program.new_state}
    for node in program.nodes:
        if node.operation in ("standardise", "div") and isinstance(node.arguments[0], Value):
            members = _between(node, maker, constants)
            own = {node, *members}
            closed = all(readers[v] <= own and v not in kept for one in members for v in one.results)
            if closed and {"sum", "sqrt"} <= {one.operation for one in members}:
                yield node, "norm", [one for one in program.nodes if one in members]
        elif node.operation == "mul" and all(isinstance(one, Value) for one in node.arguments):
            x, gate = node.arguments
            made = maker.get(gate)
            if made and made.operation == "sigmoid" and made.arguments == (x,) and readers[gate] == {node}:
                yield node, "silu", [made]
        elif node.operation == "where" and node.arguments[0] in maker:
            mask = maker[node.arguments[0]]
            _, bound, x = node.arguments
            is_clamp = mask.operation in CLAMPS and mask.arguments == (x, bound) and not isinstance(bound, Value)
            if is_clamp and readers[node.arguments[0]] == {node}:
                yield node, f"{CLAMPS[mask.operation]} {_number(bound)}", [mask]


def _between(node: Node, maker: dict[Value, Node], constants: set[Value]) -> set[Node]:
    """The operations that compute the other arguments of ``node`` from its first; none if they need anything else."""
    source, members = node.arguments[0], set()
    left = [value for value in values_of(node.arguments[1:]) if value is not source]
    while left:
        made = maker.get(left.pop())
        if made is None or made.operation not in INSIDE_NORM:
            return set()
        if made not in members:
            members.add(made)
            left += [value for value in values_of(made.arguments) if value is not source and value not in constants]
    return members


class _Names:
    """The names that a cell's ``step`` gives to its arguments and to the columns of its products."""

    def __init__(self, cell: Cell) -> None:
        rows = 2
        constants, prepared = cell(cell.like.new_zeros(1, rows, cell.input_size))
        state = cell.initial_state(rows)
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(type(cell).step))).body
            own = [argument.arg for argument in tree.args.args[1:]]
        except (OSError, TypeError, SyntaxError):
            tree, own = None, ["constants", "x", "state"]
        self.tuples = []
        unpacked: dict[str, ast.expr] = {}
        for one in ast.walk(tree) if tree is not None else ():
            if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Tuple | ast.Name):
                if isinstance(one.value, ast.Name) and one.value.id in own:
                    unpacked.setdefault(one.value.id, one.targets[0])
                elif isinstance(one.targets[0], ast.Tuple) and isinstance(one.value, ast.Call):
                    self.tuples.append([getattr(name, "id", "") for name in one.targets[0].elts])
        parts = zip(own, (constants, prepared, state), ("w", "x", ""), strict=True)
        self.constants, self.inputs, self.state = (_named(unpacked.get(key), *rest) for key, *rest in parts)
        known = {parameter.data_ptr(): name for name, parameter in cell.named_parameters()}
        for place, tensor in enumerate(tensors_of(constants)):
            if re.fullmatch(r"w\d*", self.constants[place]):  # the step passes all constants on
                self.constants[place] = known.get(tensor.data_ptr(), self.constants[place])
        if len(cell.states) == len(self.state):
            self.state = list(cell.states)

    def splits(self, program: Program) -> dict[Node, list[str]]:
        """The names of the pieces of each split, where the code has as many such assignments as the program."""
        found = defaultdict(list)
        for node in program.nodes:
            if node.operation == "split":
                found[len(node.results)].append(node)
        names = {count: [one for one in self.tuples if len(one) == count] for count in found}
        return {
            node: name
            for count, nodes in found.items()
            if len(names[count]) == len(nodes)
            for node, name in zip(nodes, names[count], strict=True)
        }


def _named(target: ast.expr | None, values: Any, letter: str) -> list[str]:
    """The names of all tensors in a nested tuple, given the names to which the code assigns it."""
    if isinstance(values, Tensor):
        return [target.id if isinstance(target, ast.Name) else letter]
    if isinstance(target, ast.Tuple) and len(target.elts) == len(values):
        return [
            name
            for one, value in zip(target.elts, values, strict=True)
            for name in _named(one, value, letter)
            if value is not None
        ]
    base = target.id if isinstance(target, ast.Name) else letter
    count = len(tensors_of(values))
    return [f"{base}{number + 1}" if count > 1 else base for number in range(count)]
