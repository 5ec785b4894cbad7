"""Print the step of a cell with matrix states as C: functions ``forward`` and ``backward``.

A thread runs all time steps of one head of one sequence, whose state stays in its cache. The forward pass stores the
state of every K-th step, a checkpoint, and of every step the sums over elements of a matrix, which are small but take
long to compute. The backward pass computes the states between two checkpoints again, then the other values of each step
from the state before it. All states of a head are one record, in which each of them starts at a multiple of 16
elements. The sums of a step are another record.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from rnnlab.engine.cpu.layout import View, laid_out
from rnnlab.engine.cpu.nests import AHEAD, ALIGNED, Body, needed
from rnnlab.engine.ir.derive import Backward
from rnnlab.engine.ir.operations import OPERATIONS
from rnnlab.engine.ir.program import Node, Program, Value

SHARE = """static void {name}_share(const struct call *call) {{
  const struct array *const a = call->arrays;
  const long every = call->sizes[0];
  real *const scratch = a[{scratch}].at;
  for (long item = call->first; item < call->last; item++) {{
    const long b = item / HEADS, h = item % HEADS;
    const long steps = call->lengths && call->lengths[b] < call->T ? call->lengths[b] : call->T;
{body}
  }}
}}

void {name}(struct team *team) {{ together(team, {name}_share); }}"""

FORWARD = """    real *now = scratch, *next = now{swap};
{load}
    for (long t = 0; t < steps; t++) {{
      if (every && t % every == 0)
        memcpy(a[{checkpoints}].at + t / every * a[{checkpoints}].step + item * RECORD, now, RECORD * sizeof(real));
      forward_step(call, t, b, h, now, next, scratch + 2 * RECORD);
      real *const before = now;
      now = next, next = before;
    }}
{store}"""

BACKWARD = """    const unsigned long mode = flush();
    real *g_now = scratch, *g_next = g_now{swap};
    real *const states = scratch + 2 * RECORD, *const others = states + (every + 1) * RECORD;
{load}
    for (long end = steps; end > 0;) {{
      const long start = (end - 1) / every * every;
      const real *const stored = a[{checkpoints}].at + start / every * a[{checkpoints}].step + item * RECORD;
      memcpy(states, stored, RECORD * sizeof(real));
      restore(mode);
      for (long t = start; t < end; t++)
        advance(call, t, b, h, states + (t - start) * RECORD, states + (t - start + 1) * RECORD, others);
      for (long t = end - 1; t >= start; t--) {{
        const real *const before = states + (t - start) * RECORD;
        backward_step(call, t, b, h, before, before + RECORD, g_now, g_next, others, mode);
        real *const done = g_now;
        g_now = g_next, g_next = done;
      }}
      end = start;
    }}
{store}
    restore(mode);"""


@dataclass(frozen=True)
class Pointer:
    """A pointer that a step function declares.

    Attributes:
        kind: the type of its elements, such as ``const real``.
        name: its name.
        start: its value.
        array: if it points to the elements of one time step of an array ``[T, B, ...]``, the number of that array.
        size: the number of these elements.
    """

    kind: str
    name: str
    start: str
    array: int = -1
    size: int = 0

    def declared(self) -> str:
        """Return the declaration."""
        return f"{self.kind} *const {self.name} = {self.start};"

    def fetched(self, sign: str, part: str) -> list[str]:
        """Return the code that fetches the elements of the next step.

        Args:
            sign: the direction of time.
            part: which part of them, and the number of parts.
        """
        at = f"{self.name} {sign} a[{self.array}].step"
        return [f"fetch({at}, {self.size}, {int(self.kind == 'real')}, {part});"] if self.size else []


class HeadSource:
    """The C code of a step with heads, and the meaning of its arguments.

    Args:
        program: the step.
        back: its backward step.
        batch_size: the number of sequences that the step was traced with.
        single: whether the precision is single; otherwise it is double.

    Attributes:
        text: the C code.
        heads: the number of heads.
        offsets: for every state, its first element in the record and its number of elements.
        record: the number of elements of a record.
        sums: the number of elements of the sums that the forward pass stores for each step and head.
        scratch: the number of elements that a thread needs besides records.
        learned: the inputs and constants that get gradients.
        shared: the inputs that all heads share.
        arrays: for each function, the names of its arrays in the order of its arguments.

    Raises:
        Unsupported: the states have no common head axis, or the step combines heads.
    """

    def __init__(self, program: Program, back: Backward, batch_size: int, single: bool) -> None:
        self.program, self.back, self.single = program, back, single
        self.layout = layout = laid_out(program, back, batch_size)
        self.shared = layout.shared.intersection(program.inputs)
        self.heads, self.record, self.offsets = layout.heads, 0, []
        for value in program.state:
            size = self.size(value)
            self.offsets.append((self.record, size))
            self.record += -(-size // ALIGNED) * ALIGNED
        leaves = [*program.inputs, *program.constants]
        self.learned = [value for value in dict.fromkeys(leaves) if value in back.gradients]
        inputs = [str(value) for value in leaves]
        learned = [f"gradient of {value}" for value in self.learned]
        first, last = ([f"{time} {value}" for value in program.state] for time in ("first", "last"))
        self.arrays = {
            "forward": [*inputs, *first, "output", "sums", "checkpoints", *last, "scratch"],
            "backward": [*inputs, *last, "upstream", "sums", "checkpoints", *first, *learned, "scratch"],
        }
        self.kept, self.sums = self._kept()
        self.scratch = 0
        sizes = f"enum {{ HEADS = {self.heads}, RECORD = {self.record} }};"
        self.text = "\n\n".join(['#include "step.h"\n#include "heads.h"', sizes, self._forward(), self._backward(), ""])

    def size(self, value: Value) -> int:
        """Return the number of elements of a head of an input, a state, a constant, the output or a gradient."""
        if value in self.layout.constants:
            return prod(value.shape) // (self.heads if self.layout.by_head.get(value) else 1)
        return prod(self.layout.inner(value))

    def _element(self, array: int, size: int, shared: bool = False) -> str:
        head = "" if shared else f" + h * {size}"
        return f"at(&a[{array}], t) + b * a[{array}].row{head}"

    def _row(self, kind: str, name: str, array: int, size: int, shared: bool = False) -> Pointer:
        """Return the pointer to the ``size`` elements of one head and one time step of an array."""
        return Pointer(kind, name, self._element(array, size, shared), array, size)

    def _kept(self) -> tuple[dict[Value, int], int]:
        """Return the place in the sums of a step of every value that is stored there, and the size of the sums."""
        layout, program, back = self.layout, self.program, self.back
        places: dict[Value, int] = {}
        size = 0
        stored = {layout.views[value].base for value in program.new_state}
        worth = [node for node in program.nodes if node in layout.operands and self._is_worth_keeping(node)]
        worth = [node for node in worth if node.results[0] not in stored]
        leaves = {node.results[0] for node in worth} | stored | set(program.state)
        wanted = [back.gradients[value] for value in (*self.learned, *program.state) if value in back.gradients]
        readers = needed(layout, [*program.nodes, *back.nodes], wanted, leaves)
        readers += needed(layout, program.nodes, program.new_state, leaves - stored)
        read = {view.base for node in readers for view in layout.operands[node] if isinstance(view, View)}
        read.update(layout.views[value].base for value in (*wanted, *program.new_state))
        for value in sorted((node.results[0] for node in worth), key=self.length, reverse=True):
            if value in read:
                places[value] = size
                size += self.length(value)
        return places, -(-size // ALIGNED) * ALIGNED

    def _is_worth_keeping(self, node: Node) -> bool:
        """Whether a value of the forward step is small, but a sum or the result of an expensive operation."""
        is_number = self.length(node.results[0]) == 1
        return self.layout.reduces(node) or (is_number and OPERATIONS[node.operation].costly)

    def length(self, value: Value) -> int:
        """Return the number of elements of a computed value of one head."""
        return prod(self.layout.views[value].shape)

    def _inputs(self) -> tuple[list[Pointer], dict[Value, str]]:
        """Return the pointers to inputs and constants, and their names."""
        pointers = [
            self._row("const real", f"{value}_at", n, self.size(value), value in self.shared)
            for n, value in enumerate(self.program.inputs)
        ]
        constants = {value: n for n, value in enumerate(self.program.constants, len(self.program.inputs))}
        for value, n in constants.items():  # a cell may return a constant twice
            head = f" + h * {self.size(value)}" if self.layout.by_head.get(value) else ""
            pointers.append(Pointer("const real", f"{value}_at", f"a[{n}].at{head}"))
        return pointers, {value: f"{value}_at" for value in (*self.program.inputs, *self.program.constants)}

    def _sums(self, function: str, kind: str) -> list[Pointer]:
        """Return the pointers to the stored sums of a step."""
        whole = self._row(kind, "sums", self.arrays[function].index("sums"), self.sums)
        return [whole, *(Pointer(kind, f"{value}_kept", f"sums + {offset}") for value, offset in self.kept.items())]

    def _records(self, record: str, names: list[str], kind: str = "const real") -> list[Pointer]:
        pairs = zip(names, self.offsets, strict=True)
        return [Pointer(kind, name, f"{record} + {offset}") for name, (offset, _) in pairs]

    def _function(self, name: str, arguments: str, pointers: list[Pointer], body: Body) -> str:
        """Print a step; pointers that it does not use are left out.

        The arrays of a step are far apart from those of the next step, so that the processor does not fetch them by
        itself. The code asks for those of the next step while it goes through the first matrix, a few at a time: a core
        waits if too many are on their way.
        """
        self.scratch = max(self.scratch, body.scratch)
        names, used = set(re.findall(r"\w+", "\n".join(body.lines))), []
        for pointer in reversed(pointers):  # a pointer may start at an earlier one
            if pointer.name in names:
                used.insert(0, pointer)
                names.update(re.findall(r"\w+", pointer.start))
        code = [*(pointer.declared() for pointer in used), *body.lines]
        sign = "-" if name == "backward_step" else "+"
        blocks = [n for n, line in enumerate(code) if AHEAD in line]
        for n in reversed(blocks):
            indent, rows, count = re.fullmatch(rf"( *){AHEAD} (\w+) (\w+)", code[n]).groups()
            part = f"i / {rows}, {count} / {rows}"
            fetched = [indent + line for pointer in used for line in pointer.fetched(sign, part)]
            code[n : n + 1] = fetched if n == blocks[0] else []
        if not blocks:
            code[len(used) : len(used)] = [line for pointer in used for line in pointer.fetched(sign, "0, 1")]
        lines = [f"  {line}" if not line.startswith("#") else line for line in code]
        start = f"static void {name}(const struct call *call, long t, long b, long h, {arguments}, real *scratch"
        start += ", unsigned long mode) {" if name == "backward_step" else ") {"
        return "\n".join([start, "  const struct array *const a = call->arrays;", *lines, "}"])

    def _stepped(self, name: str, has_output: bool) -> tuple[str, Body]:
        """Print the forward step, or the part of it that computes the new state."""
        program = self.program
        pointers, leaves = self._inputs()
        before, after = [f"{s}_at" for s in program.state], [f"{s}_new" for s in program.state]
        leaves |= dict(zip(program.state, before, strict=True))
        targets = list(zip(program.new_state, after, strict=True))
        if has_output:
            n = self.arrays["forward"].index("output")
            pointers.append(self._row("real", "y_at", n, self.size(program.output)))
            targets.append((program.output, "y_at"))
            pointers += self._sums("forward", "real")
            targets += [(value, f"{value}_kept") for value in self.kept]
        else:
            pointers += self._sums("backward", "const real")
            leaves |= {value: f"{value}_kept" for value in self.kept}
        nodes = needed(self.layout, program.nodes, [value for value, _ in targets], leaves)
        body = Body(self.layout, [nodes], leaves, targets, self.single)
        pointers += [*self._records("before", before), *self._records("after", after, "real")]
        return self._function(name, "const real *before, real *after", pointers, body), body

    def _swap(self, body: Body, before: list[Value], after: list[Value | None], pointers: list[str]) -> str:
        """Return where the next record starts: at the previous one if a step can overwrite it."""
        triples = zip(before, after, pointers, strict=True)
        return "" if all(new and body.is_in_place(old, new, place) for old, new, place in triples) else " + RECORD"

    def _forward(self) -> str:
        code, body = self._stepped("forward_step", True)
        swap = self._swap(body, self.program.state, self.program.new_state, [f"{s}_new" for s in self.program.state])
        places = {name: n for n, name in enumerate(self.arrays["forward"])}
        share = FORWARD.format(
            swap=swap, checkpoints=places["checkpoints"], **self._copies("forward", "now", "first", "last")
        )
        share += self._ended([(places["output"], self.program.output)])
        return f"{code}\n\n{SHARE.format(name='forward', scratch=places['scratch'], body=share)}"

    def _copies(self, function: str, record: str, before: str, after: str) -> dict[str, str]:
        """Print how a record is filled with states or their gradients, and how they are stored at the end."""
        lines: dict[str, str] = {}
        for key, time in (("load", before), ("store", after)):
            copies = []
            for value, (offset, size) in zip(self.program.state, self.offsets, strict=True):
                n = self.arrays[function].index(f"{time} {value}")
                copies.append(f"    {key}({record} + {offset}, a[{n}].at, item, {size});")
            lines[key] = "\n".join(copies)
        return lines

    def _ended(self, cleared: list[tuple[int, Value]]) -> str:
        """Print the zeros after the end of a sequence."""
        sizes = [(n, self.size(value)) for n, value in cleared]
        lines = [f"memset({self._element(n, size)}, 0, {size} * sizeof(real));" for n, size in sizes]
        return "".join(f"\n    for (long t = steps; t < call->T; t++) {line}" for line in lines)

    def _backward(self) -> str:
        program, back = self.program, self.back
        places = {name: n for n, name in enumerate(self.arrays["backward"])}
        pointers, leaves = self._inputs()
        states, news = [f"{s}_at" for s in program.state], [f"{s}_new" for s in program.state]
        gradients, results = [f"{g}_at" for g in back.state_gradients], [f"{s}_gradient" for s in program.state]
        # The new state is in memory, unless it is only a view of another value.
        for value, pointer in zip(program.new_state, news, strict=True):
            if self.layout.views[value].base is value:
                leaves[value] = pointer
        leaves |= dict(zip((*program.state, *back.state_gradients), (*states, *gradients), strict=True))
        leaves[back.output_gradient] = "y_gradient"
        leaves |= {value: f"{value}_kept" for value in self.kept}
        pointers += self._sums("backward", "const real")
        pointers.append(self._row("const real", "y_gradient", places["upstream"], self.size(program.output)))
        targets, cleared, zeros = [], [], []
        for value in self.learned:
            n = places[f"gradient of {value}"]
            if value in self.layout.constants:
                head = f" + h * {self.size(value)}" if self.layout.by_head.get(value) else ""
                pointers.append(Pointer("double", f"total_{value}", f"a[{n}].total{head}"))
                targets.append((back.gradients[value], f"total_{value}"))
            else:
                pointers.append(self._row("real", f"{value}_gradient", n, self.size(value)))
                targets.append((back.gradients[value], f"{value}_gradient"))
                cleared.append((n, value))
        for value, pointer, (_, size) in zip(program.state, results, self.offsets, strict=True):
            if value in back.gradients:
                targets.append((back.gradients[value], pointer))
            else:
                zeros.append(f"for (long i = 0; i < {size}; i++) {pointer}[i] = 0;")
        wanted = [value for value, _ in targets]
        nodes = needed(self.layout, [*program.nodes, *back.nodes], wanted, leaves)
        of_forward = set(program.nodes)
        phases = [[node for node in nodes if (node in of_forward) == first] for first in (True, False)]
        body = Body(self.layout, phases, leaves, targets, self.single, "flush();")
        body.lines = ["restore(mode);", *body.lines, *zeros]
        for record, names, kind in (
            ("before", states, "const real"),
            ("after", news, "const real"),
            ("g_now", gradients, "const real"),
            ("g_next", results, "real"),
        ):
            pointers += self._records(record, names, kind)
        arguments = "const real *before, const real *after, const real *g_now, real *g_next"
        code = self._function("backward_step", arguments, pointers, body)
        after = [back.gradients.get(value) for value in program.state]
        swap = self._swap(body, back.state_gradients, after, results)
        copies = self._copies("backward", "g_now", "last", "first")
        share = BACKWARD.format(swap=swap, checkpoints=places["checkpoints"], **copies)
        share += self._ended(cleared)
        shared = SHARE.format(name="backward", scratch=places["scratch"], body=share)
        return "\n\n".join([self._stepped("advance", False)[0], code, shared])
