"""Divide a step into a recurrence and a readout.

The recurrence computes the new state and one value. The readout computes the output from this value, the constants and
the inputs. No state depends on it, so it can run for all time steps at once after the recurrence.
"""

from __future__ import annotations

from collections.abc import Iterator

from rnnlab.engine.ir.program import Program, needed, values_of


def splits(program: Program) -> Iterator[tuple[Program, Program | None]]:
    """List the recurrences and readouts of a step, the shortest readout first, which is None if it computes nothing.

    The output of a recurrence is the value that the readout reads: the first input of the readout, a program without
    states. The other inputs and the constants of the readout are those of the step that it reads.
    """
    yield program, None
    for value in reversed([result for node in program.nodes for result in node.results]):
        readout = needed(program.nodes, [program.output], {value})
        read = {one for node in readout for one in values_of(node.arguments)}
        if value not in read or not read.isdisjoint(program.state):
            continue
        recurrence = needed(program.nodes, [value, *program.new_state])
        leaves = (program.constants, program.inputs, program.state)
        constants, inputs = ([leaf for leaf in dict.fromkeys(part) if leaf in read] for part in leaves[:2])
        yield (
            Program(*leaves, recurrence, value, program.new_state),
            Program(constants, [value, *inputs], [], readout, program.output, []),
        )
