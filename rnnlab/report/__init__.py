"""A report as a self-contained HTML page: `Page`, and the figures in it; page.css and page.js lie beside."""

from rnnlab.report.figures import GRID, INK, MUTED, SERIES, dress, figure, legend, render, save, style, themed
from rnnlab.report.page import Cell, Page, number

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
    "number",
    "render",
    "save",
    "style",
    "themed",
]
