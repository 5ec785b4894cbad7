"""``rnnlab explain``: print the generated code for the steps of a cell."""

from __future__ import annotations

SYNOPSIS = (("explain cell=NAME", "print the step of a cell and its derived backward step, as Python and as C"),)
NOTES = (
    "NAME is a built-in cell, or my_module:MyCell. cell.OPTION=VALUE sets an option of the cell, as in rnnlab train."
)


def run(arguments: list[str]) -> int:
    """Print the forward and backward steps."""
    from rnnlab import cells as home
    from rnnlab import config, engine, lookup
    from rnnlab.engine.ir.program import Unsupported

    name, options = lookup.read_section(config.compose(arguments)["cell"])
    cell = home.create(name, input_size=4, hidden_size=4, **options)
    engine.choose(cell, "fused")  # raises an error if the cell cannot be fused
    step = engine.fused.traced(cell)
    print(step.python.source)
    try:
        print(step.c())
    except Unsupported as error:
        print(f"# No C code: the step uses {error}; the Python code above is run instead.")
    return 0
