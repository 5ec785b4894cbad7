"""Reports as self-contained HTML pages: `Page` and its figures; page.css and page.js are in this folder."""

from rnnlab.report.figures import (
    GRID,
    INK,
    MUTED,
    SERIES,
    dress,
    figure,
    legend,
    legend_below,
    mark_values,
    render,
    save,
    style,
    themed,
    write_counts,
)
from rnnlab.report.numbers import number, raised
from rnnlab.report.page import Cell, Page

__all__ = [
    "GRID",
    "INK",
    "MUTED",
    "SERIES",
    "Cell",
    "Page",
    "dress",
    "figure",
    "legend",
    "legend_below",
    "mark_values",
    "number",
    "raised",
    "render",
    "save",
    "style",
    "themed",
    "write_counts",
]
