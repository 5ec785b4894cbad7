"""Figures of a report, made with matplotlib; their colours follow the colours of the page."""

from __future__ import annotations

import io
import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from rnnlab import files
from rnnlab.interface import InputError

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
    made.patch.set_alpha(0)
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


def save(made: Figure, stem: Path) -> str:
    """Write a figure to ``stem``.png and ``stem``.svg on white; returns the SVG, for `Page.figure`."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=160, facecolor="white")
    made.set_layout_engine("none")  # the layout is done; computing it again would take half the time of drawing
    text = render(made, stem.name)
    files.write_bytes(stem.with_name(f"{stem.name}.png"), buffer.getvalue())
    files.write_bytes(stem.with_name(f"{stem.name}.svg"), text.encode())
    return text


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
    light = "".join(f"--{_name(colour)}:{colour};" for colour in _DARK) + "--paper:#fff;--soft:#f3f4f5;"
    dark = "".join(f"--{_name(colour)}:{other};" for colour, other in _DARK.items())
    dark += "--paper:#17181a;--soft:#222427;"
    return (
        f":root{{color-scheme:light dark;{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f"@media print{{:root{{color-scheme:light;{light}}}}}\n"
    )


def _name(colour: str) -> str:
    return {INK: "ink", MUTED: "muted", GRID: "grid"}.get(colour) or f"s{SERIES.index(colour)}"
