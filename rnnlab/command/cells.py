"""``rnnlab cells``: the table of recurrent cells."""

from __future__ import annotations

from rnnlab.command import options

SYNOPSIS = (("cells", "list the recurrent cells by family, oldest first; takes no options"),)

HEADS = ("family", "year", "cell", "states", "parameters", "backends", "verified against", "paper")


def run(arguments: list[str]) -> int:
    """Print the table."""
    options.read_none("cells", arguments)
    from rnnlab import cells as home
    from rnnlab import engine

    rows = []
    for name in home.available():
        kind, about = home.find(name), home.describe(name)
        parameters = sum(p.numel() for p in kind(128, 128).parameters())
        states, backends = ",".join(kind.states), ",".join(engine.backends_of(kind(4, 4)))
        rows.append((about.family, about.year, name, states, f"{parameters:,}", backends, kind.verified, about.paper))
    table = [HEADS, *((row[0], str(row[1]), *row[2:]) for row in sorted(rows))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    print("\nparameters: for input and hidden size 128. Tests also compare each cell with a loop over its equations.")
    return 0
