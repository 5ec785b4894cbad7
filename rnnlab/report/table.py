"""Tables as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence


def aligned(rows: Iterable[Sequence[str]], pad: Callable[[str, int], str] = str.ljust) -> list[str]:
    """Return a line for each row, with columns of equal width, two spaces apart.

    Args:
        rows: the cells of the table; all rows have the same number.
        pad: ``str.ljust`` or ``str.rjust``.
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(pad, row, widths)).rstrip() for row in rows]
