"""Figures of a report, made with matplotlib; their colours follow the colours of the page."""

from __future__ import annotations

import io
import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnlab import files
from rnnlab.interface import InputError
from rnnlab.report.numbers import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1b1c1d", "#66696c", "#dadcde"
SERIES = ("#0072b2", "#d55e00", "#008f68", "#b0569a", "#b07a00", "#2f97d6", "#7a5b3a", "#5d6268")
"""Colours for series, safe for colour-blind readers (after Okabe and Ito, 2008), dark enough for lines on white."""

_PALE = ("#4aa8e0", "#f08a4b", "#3cc79d", "#d98cc6", "#dcae3c", "#86c8f2", "#c2a07c", "#b4b9be")
_DARK = {
    INK: "#e8e9ea",
    MUTED: "#a2a6aa",
    GRID: "#3a3d40",
    **dict(zip(SERIES, _PALE, strict=True)),
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", ":", "-.")


def style(number: int) -> dict[str, str]:
    """Colour, marker and line style of the ``number``-th series, for matplotlib's ``plot``; 32 styles are distinct."""
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _DASHES[number // len(SERIES) % len(_DASHES)],
    }


def figure(width: float = 5.0, height: float = 3.1, **axes: str) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes, in the style of the page.

    Args:
        width: width in inches; 5 is the largest width readable on a phone.
        height: height in inches.
        axes: keyword arguments of ``Axes.set``, such as ``title``, ``xlabel`` and ``yscale``.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # figures of pyplot would have to be closed
    except ModuleNotFoundError:
        raise InputError("figures need matplotlib, which is not installed; pip install 'rnnlab[plots]'") from None
    made = Figure(figsize=(width, height), layout="constrained")
    one = made.subplots()
    dress(one)
    one.set(**axes)
    return made, one


def dress(axes: Axes) -> None:
    """Apply the style of the page to axes: its colours, without frame lines at the top and right."""
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(which="both", colors=MUTED, labelsize=9)
    axes.xaxis.label.set(color=INK, size=10)
    axes.yaxis.label.set(color=INK, size=10)
    axes.title.set(color=INK, size=11)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def legend(axes: Axes) -> None:
    """Add a legend if the axes have labelled series."""
    if axes.get_legend_handles_labels()[0]:
        # loc="best" takes seconds for many lines.
        place = "best" if len(axes.lines) <= 16 else "upper right"
        axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc=place)


def write_counts(axes: Axes, most: int = 6) -> None:
    """Write the numbers of the x axis as 1,000; a linear axis gets at most about ``most`` of them."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_formatter(lambda value, place: number(value))
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))


def legend_below(made: Figure, handles: dict[str, Any] | None = None) -> None:
    """Add a legend below the axes, with as many columns as the width of the figure allows.

    Args:
        made: the figure.
        handles: lines by label; None for the labelled lines of all axes.
    """
    if handles is None:
        found = [axes.get_legend_handles_labels() for axes in made.axes]
        handles = {label: line for lines, labels in found for line, label in zip(lines, labels, strict=True)}
    if not handles:
        return
    widest = max(map(len, handles))
    columns = max(1, min(4, len(handles), int(made.get_figwidth() * 13 / (widest + 5))))
    look = {"loc": "outside lower center", "ncols": columns, "frameon": False, "labelcolor": INK, "fontsize": 9}
    made.legend(handles.values(), handles.keys(), **look)


def mark_values(axes: Axes, values: dict[str, float], is_vertical: bool = False, is_below: bool = False) -> None:
    """Draw labelled reference lines across axes that hold the data already.

    A line that would squeeze the data is not drawn; an arrow at the edge of the axes points to it.

    Args:
        axes: the axes.
        values: where the lines cross the x axis or the y axis, by label.
        is_vertical: whether the lines are vertical, with their labels above the axes.
        is_below: whether the label of a horizontal line is below it, and not above.
    """
    along = 0 if is_vertical else 1
    low, high = (axes.dataLim.intervalx, axes.dataLim.intervaly)[along]
    reach = 2 * (max(high - low, 0.1 * abs(high)) if high > low else abs(high))
    is_logarithmic = (axes.get_xscale(), axes.get_yscale())[along] == "log"
    near = [label for label, value in values.items() if is_logarithmic or low - reach <= value <= high + reach]
    for place, label in enumerate(near):
        draw = axes.axvline if is_vertical else axes.axhline
        draw(values[label], color=MUTED, linestyle=(0, (4, 2 + 2 * place)), linewidth=1.1, zorder=1)
    axes.get_xlim(), axes.get_ylim()  # matplotlib sets the limits when they are read
    to_share = axes.transData + axes.transAxes.inverted()
    taken: list[tuple[float, int]] = []
    for label, value in values.items():
        is_near, is_above = label in near, value > high
        place = to_share.transform((value, value))[along] if is_near else float(is_above)
        gap = 0.3 if is_vertical else 0.07
        row = 0
        while any(row == other and abs(place - at) < gap for at, other in taken):
            row += 1
        taken.append((place, row))
        (_label_above if is_vertical else _label_beside)(axes, label, place, row, is_near, is_below)


def _label_above(axes: Axes, label: str, place: float, row: int, is_near: bool, is_below: bool) -> None:
    text = label if is_near else f"{label} →" if place else f"← {label}"
    side = "center" if is_near else "right" if place else "left"
    at = (place, 1.01 + 0.09 * row)
    axes.annotate(text, at, xycoords="axes fraction", ha=side, color=MUTED, fontsize=8, annotation_clip=False)


def _label_beside(axes: Axes, label: str, place: float, row: int, is_near: bool, is_below: bool) -> None:
    text = label if is_near else f"↑ {label}" if place else f"↓ {label}"
    side, x = (("right", 0.99), ("left", 0.01), ("center", 0.5))[row % 3]
    height, off = ("top", -1.5) if is_below and is_near else ("bottom", 1.5)
    look = {"ha": side, "va": height, "color": MUTED, "fontsize": 8, "annotation_clip": False}
    axes.annotate(text, (x, place), (0, off), xycoords="axes fraction", textcoords="offset points", **look)


def save(made: Figure, stem: Path, with_pdf: bool = False) -> str:
    """Write a figure to ``stem``.png and ``stem``.svg on white; returns the SVG, for `Page.figure`.

    Args:
        made: the figure.
        stem: path of the files without suffix.
        with_pdf: whether to write ``stem``.pdf too, for LaTeX.
    """
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=160, facecolor="white")
    made.set_layout_engine("none")  # the layout is done; computing it again would take half the time of drawing
    text = render(made, stem.name)
    files.write_bytes(stem.with_name(f"{stem.name}.png"), buffer.getvalue())
    files.write_bytes(stem.with_name(f"{stem.name}.svg"), text.encode())
    if with_pdf:
        files.write_bytes(stem.with_name(f"{stem.name}.pdf"), _pdf(made))
    return text


def _pdf(made: Figure) -> bytes:
    """A figure as PDF on a transparent ground, with fonts that can be edited and searched."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        made.savefig(buffer, format="pdf", transparent=True, metadata={"CreationDate": None})
    return buffer.getvalue()


def render(made: Figure, name: str) -> str:
    """A figure as an SVG document on white; the text is deterministic for equal figures and an equal ``name``."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        made.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="white")
    return buffer.getvalue()


def themed(svg: str, alt: str, prefix: str) -> str:
    """Convert an SVG document of `render` to an element of a page, with the colours of the page.

    Args:
        svg: SVG document.
        alt: alternative text for screen readers.
        prefix: prefix that makes the ids in the SVG unique within the page.
    """
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour in _DARK:
        text = text.replace(colour, f"var(--{_name(colour)})")
    text = text.replace("#ffffff", "none", 1)  # the background
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)


def colours() -> str:
    """The colours of a page as CSS variables, for light mode, dark mode and print."""
    light = (
        "".join(f"--{_name(colour)}:{colour};" for colour in _DARK)
        + "--paper:#fff;--soft:#f3f4f5;--veil:#1b1c1d0d;--shadow:#1b1c1d55;"
    )
    dark = "".join(f"--{_name(colour)}:{other};" for colour, other in _DARK.items())
    dark += "--paper:#17181a;--soft:#222427;--veil:#e8e9ea0d;--shadow:#000c;"
    return (
        f":root{{color-scheme:light dark;{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f"@media print{{:root{{color-scheme:light;{light}}}}}\n"
    )


def _name(colour: str) -> str:
    return {INK: "ink", MUTED: "muted", GRID: "grid"}.get(colour) or f"s{SERIES.index(colour)}"
