"""``rnnlab explain``: the derived steps of a cell."""

from __future__ import annotations

SYNOPSIS = (("explain cell=NAME", "print the step of a cell, the backward step derived from it, and both as C"),)
NOTES = (
    "NAME is a built-in cell, or my_module:MyCell. cell.OPTION=VALUE sets the options of the cell, as in rnnlab train."
)


def run(arguments: list[str]) -> int:
    """Print the steps."""
    from rnnlab import cells as home
    from rnnlab import config, engine, lookup
    from rnnlab.engine.ir.program import Unsupported

    name, options = lookup.read_section(config.compose(arguments)["cell"])
    cell = home.create(name, input_size=4, hidden_size=4, **options)
    engine.choose(cell, "fused")  # raises an error that names the obstacle, if there is one
    step = engine.fused.traced(cell)
    print(step.python.source)
    try:
        print(step.c())
    except Unsupported as error:
        print(f"# There is no C: the step uses {error}; it runs as the Python above.")
    return 0
