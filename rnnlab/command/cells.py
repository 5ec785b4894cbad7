"""``rnnlab cells``: the table of recurrent cells."""

from __future__ import annotations

import inspect
import json

SYNOPSIS = (("cells [NAME ...]", "list the recurrent cells by family, or print the equations and options of some"),)

HEADS = ("family", "year", "cell", "states", "parameters", "backends", "verified against", "paper")


def run(arguments: list[str]) -> int:
    """Print the table, or the documentation of the given cells."""
    from rnnlab import cells, lookup

    for number, kind in enumerate([cells.find(name) for name in arguments]):
        options = {
            name: one.default for name, one in lookup.options(kind).items() if one.default is not lookup.REQUIRED
        }
        defaults = " ".join(f"cell.{name}={json.dumps(value)}" for name, value in options.items())
        print("\n" * (number > 0) + inspect.getdoc(kind), f"\nDefaults: {defaults or 'none'}", sep="\n")
    if not arguments:
        _print_table()
    return 0


def _print_table() -> None:
    from rnnlab import cells, engine
    from rnnlab.report.table import aligned

    rows = []
    for name in cells.available():
        kind, about = cells.find(name), cells.describe(name)
        parameters = sum(p.numel() for p in kind(128, 128).parameters())
        states, backends = ",".join(kind.states), ",".join(engine.backends_of(kind(4, 4)))
        rows.append((about.family, about.year, name, states, f"{parameters:,}", backends, kind.verified, about.paper))
    table = [HEADS, *((row[0], str(row[1]), *row[2:]) for row in sorted(rows))]
    print(*aligned(table), sep="\n")
    print("\nparameters: for input and hidden size 128. Tests also compare each cell with a loop over its equations.")
