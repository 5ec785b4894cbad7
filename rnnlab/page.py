"""One self-contained page: headings, text, figures and sortable tables in a single HTML file, light and dark.

Figures are matplotlib's, embedded as SVG; their colours become CSS variables, so that they follow the page. Everything
that is given as text is escaped here, and nowhere else: what stands in a configuration cannot break the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rnnlab import files
from rnnlab.interface import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1b1c1d", "#66696c", "#dadcde"
SERIES = ("#0072b2", "#d55e00", "#008f68", "#b0569a", "#b07a00", "#2f97d6", "#7a5b3a", "#5d6268")
"""Colours that people with any colour vision tell apart (after Okabe and Ito, 2008), dark enough for lines on white."""

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
    """Colour, marker and dash of the ``number``-th series, for matplotlib's ``plot``; 32 of them differ."""
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _DASHES[number // len(SERIES) % len(_DASHES)],
    }


def figure(width: float = 5.0, height: float = 3.1, **axes: str) -> tuple[Figure, Axes]:
    """An empty figure of one pair of axes in the page's manner.

    Args:
        width: in inches; 5 is what a phone still shows readably.
        height: in inches.
        axes: what ``Axes.set`` takes: ``title``, ``xlabel``, ``yscale`` and the like.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot, whose figures would have to be closed
    except ModuleNotFoundError:
        raise InputError("figures need matplotlib, which is not installed; pip install 'rnnlab[plots]'") from None
    made = Figure(figsize=(width, height), layout="constrained")
    made.patch.set_alpha(0)
    one = made.subplots()
    dress(one)
    one.set(**axes)
    return made, one


def dress(axes: Axes) -> None:
    """Give axes the page's colours and nothing that does not carry data."""
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
    """A legend beside or below the data, if there is anything to name."""
    if axes.get_legend_handles_labels()[0]:
        # Looking for the emptiest corner takes seconds where there are many lines.
        place = "best" if len(axes.lines) <= 16 else "upper right"
        axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc=place)


def save(made: Figure, stem: Path) -> str:
    """Write a figure to ``stem``.png and ``stem``.svg, on white; returns the SVG, for `Page.figure`."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=160, facecolor="white")
    made.set_layout_engine("none")  # the places are found now, which takes half the time of drawing
    text = render(made, stem.name)
    files.write_bytes(stem.with_name(f"{stem.name}.png"), buffer.getvalue())
    files.write_bytes(stem.with_name(f"{stem.name}.svg"), text.encode())
    return text


def render(made: Figure, name: str) -> str:
    """A figure as an SVG document on white; equal figures of one ``name`` give equal texts."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        made.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="white")
    return buffer.getvalue()


def themed(svg: str, alt: str, prefix: str) -> str:
    """A document of `render` as an element of a page, whose colours it follows.

    Args:
        svg: the document.
        alt: what it shows, for those who do not see it.
        prefix: makes the names inside it unique in its page.
    """
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour in _DARK:
        text = text.replace(colour, f"var(--{_name(colour)})")
    text = text.replace("#ffffff", "none", 1)  # the sheet it lies on
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)


class Cell(NamedTuple):
    """A table's cell that is more than its text.

    text: what is shown.
    sort: what it is sorted by.
    href: where it leads.
    mark: ``good`` or ``bad``, shown by weight and colour.
    """

    text: str
    sort: float | str | None = None
    href: str | None = None
    mark: str | None = None

    @property
    def is_number(self) -> bool:
        """Whether it stands at the right, below others."""
        return isinstance(self.sort, int | float)


@dataclass
class Page:
    """A page in the making; what is added appears in the order of adding.

    Args:
        title: what it is about.
        lead: its message, in a sentence.
    """

    title: str
    lead: str = ""

    def __post_init__(self) -> None:
        self._body: list[str] = []
        self._sections: list[tuple[str, str]] = []
        self._count = self._tables = 0

    def section(self, heading: str, anchor: str | None = None) -> None:
        """Begin a section; it appears in the table of contents."""
        anchor = anchor or f"s{len(self._sections) + 1}"
        self._sections.append((anchor, heading))
        self._body.append(f'<h2 id="{escape(anchor)}">{escape(heading)}</h2>')

    def heading(self, text: str) -> None:
        """A heading within a section."""
        self._body.append(f"<h3>{escape(text)}</h3>")

    def text(self, text: str, kind: str = "") -> None:
        """A paragraph; ``kind`` may be ``warning`` or ``note``."""
        chosen = f' class="{escape(kind)}"' if kind else ""
        self._body.append(f"<p{chosen}>{escape(text)}</p>")

    def code(self, text: str) -> None:
        """Text as it is, line by line."""
        self._body.append(f"<pre>{escape(text)}</pre>")

    def figure(self, made: Figure | str, alt: str, caption: str = "", is_wide: bool = False) -> None:
        """A matplotlib figure, or its SVG as `save` gave it; those that follow each other stand side by side.

        One that ``is_wide`` has the page's whole width, and is moved sideways where that is too narrow to read it.
        """
        self._count += 1
        svg = themed(made if isinstance(made, str) else render(made, "figure"), alt, f"f{self._count}-")
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        if is_wide:
            moved = f'<div class="wide" tabindex="0" role="region" aria-label="{escape(alt)}">{svg}</div>'
            self._body.append(f"<figure>{moved}{below}</figure>")
            return
        drawn = f"<figure>{svg}{below}</figure>"
        if self._body and self._body[-1].endswith("</figure></div>"):
            self._body[-1] = f"{self._body[-1].removesuffix('</div>')}{drawn}</div>"
        else:
            self._body.append(f'<div class="figures">{drawn}</div>')

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[Cell | str | float | None]], caption: str = ""
    ) -> None:
        """A table that can be sorted by any column.

        Args:
            columns: their headings.
            rows: a cell is a text, a number, None for nothing, or a `Cell`.
            caption: what the table shows.
        """
        cells = [[_as_cell(cell) for cell in row] for row in rows]
        numbers = {place for row in cells for place, cell in enumerate(row) if cell.is_number}
        looks = [' class="n"' if place in numbers else "" for place in range(len(columns))]
        head = "".join(
            f'<th scope="col"{look}><button type="button">{escape(name)}</button></th>'
            for name, look in zip(columns, looks, strict=True)
        )
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in cells)
        self._tables += 1
        # Outside the table, as it would be as wide as the table; the region can be scrolled with the keyboard.
        named = f'<p class="caption" id="t{self._tables}">{escape(caption)}</p>' if caption else ""
        label = f'aria-labelledby="t{self._tables}"' if caption else 'aria-label="table"'
        self._body.append(
            f'{named}<div class="table" tabindex="0" role="region" {label}><table {label}><thead><tr>{head}</tr>'
            f"</thead><tbody>{body}</tbody></table></div>"
        )

    def details(self, summary: str, anchor: str, rows: Sequence[tuple[str, str | None]]) -> None:
        """A list that opens on demand, and when a link leads to it; rows are texts and where they lead."""
        items = "".join(f"<li>{_link(text, href)}</li>" for text, href in rows)
        self._body.append(
            f'<details id="{escape(anchor)}"><summary>{escape(summary)}</summary><ul>{items}</ul></details>'
        )

    def html(self) -> str:
        """The whole page."""
        contents = "".join(f'<li><a href="#{escape(a)}">{escape(h)}</a></li>' for a, h in self._sections)
        nav = f'<nav aria-label="Contents"><ul>{contents}</ul></nav>' if len(self._sections) > 2 else ""
        lead = f'<p class="lead">{escape(self.lead)}</p>' if self.lead else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<link rel="icon" href="data:,">'
            f"<title>{escape(self.title)}</title><style>{_css()}</style></head>\n<body><main>"
            f"<h1>{escape(self.title)}</h1>{lead}{nav}\n"
            + "\n".join(self._body)
            + f"\n</main><script>{_SCRIPT}</script></body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Put the page at ``path``, whole or not at all."""
        files.write_bytes(Path(path), self.html().encode())


def number(value: float | None, digits: int = 4) -> str:
    """A number for people: ``digits`` significant ones, thousands parted, nothing for None."""
    if value is None or value != value:
        return "–"
    if abs(value) == float("inf"):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    text = f"{value:,.{digits}g}" if abs(value) < 1e5 else f"{value:.{digits}g}"
    return text.replace("-", "−")


def _as_cell(cell: Cell | str | float | None) -> Cell:
    if isinstance(cell, Cell):
        return cell
    return Cell(cell) if isinstance(cell, str) else Cell(number(cell), cell)


def _cell(cell: Cell) -> str:
    key = str(cell.sort).replace("inf", "Infinity") if cell.is_number else str(cell.sort)  # as JavaScript reads it
    sort = "" if cell.sort is None else f' data-sort="{escape(key)}"'
    names = [name for name, holds in (("n", cell.is_number), (cell.mark, cell.mark)) if holds]
    chosen = f' class="{" ".join(names)}"' if names else ""
    return f"<td{sort}{chosen}>{_link(cell.text, cell.href)}</td>"


def _link(text: str, href: str | None) -> str:
    return f'<a href="{escape(href)}">{escape(text)}</a>' if href else escape(text)


def _name(colour: str) -> str:
    return {INK: "ink", MUTED: "muted", GRID: "grid"}.get(colour) or f"s{SERIES.index(colour)}"


def _css() -> str:
    light = "".join(f"--{_name(colour)}:{colour};" for colour in _DARK) + "--paper:#fff;--soft:#f3f4f5;"
    dark = "".join(f"--{_name(c)}:{other};" for c, other in _DARK.items()) + "--paper:#17181a;--soft:#222427;"
    return (
        f":root{{color-scheme:light dark;{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        "*{box-sizing:border-box}body{margin:0;overflow-wrap:anywhere;background:var(--paper);color:var(--ink);"
        "font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}"
        "main{max-width:72rem;margin:0 auto;padding:1.5rem 1rem 4rem}"
        "h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0}"
        "h2{font-size:1.25rem;margin:2.5rem 0 .5rem;border-top:1px solid var(--grid);padding-top:1rem}"
        "h3{font-size:1rem;margin:1.5rem 0 .25rem}p{max-width:46rem;margin:.5rem 0}"
        ".lead{font-size:1.1rem}.note,figcaption,.caption{color:var(--muted);font-size:.875rem}"
        ".caption{margin:1rem 0 .25rem}"
        ".warning{border-left:4px solid var(--s1);padding-left:.75rem}"
        "nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1rem;padding:0;list-style:none}"
        "a{color:var(--s0)}td a{color:inherit;text-decoration-color:var(--muted)}"
        "pre{overflow-x:auto;background:var(--soft);padding:.75rem;font-size:.8rem}"
        ".figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1rem}"
        "figure{margin:.5rem 0;min-width:0}figure svg{display:block;width:100%;height:auto;max-width:46rem}"
        ".wide{overflow-x:auto}.wide svg{min-width:46rem;max-width:none}"
        ".table{overflow-x:auto;margin:.25rem 0 .75rem}table{border-collapse:collapse;font-size:.875rem}"
        "th,td{padding:.3rem .55rem;border-bottom:1px solid var(--grid);text-align:left;vertical-align:top}"
        "th,td{overflow-wrap:normal}td:first-child{overflow-wrap:break-word}"
        "@media(max-width:40rem){td:first-child{max-width:40vw}}"
        # What a row is of stays in sight while the table is moved sideways.
        "td:first-child,th:first-child{position:sticky;left:0;background:var(--paper)}"
        "thead th,thead th:first-child{background:var(--soft);white-space:nowrap}"
        "th button{all:unset;cursor:pointer;font-weight:600}"
        "th button:focus-visible,.table:focus-visible,.wide:focus-visible,a:focus-visible,summary:focus-visible"
        "{outline:2px solid var(--s0);outline-offset:2px}"
        "th[aria-sort=ascending] button::after{content:' ▲'}th[aria-sort=descending] button::after{content:' ▼'}"
        ".n{text-align:right}td.n{font-variant-numeric:tabular-nums;white-space:nowrap}"
        ".good{font-weight:650}.bad{color:var(--s1)}"
        "details{margin:.25rem 0}summary{cursor:pointer}"
        # A sheet of paper is white whatever the screen was.
        f"@media print{{:root{{color-scheme:light;{light}}}nav{{display:none}}figure,tr{{break-inside:avoid}}"
        "h2,h3,.caption{break-after:avoid}.table,.wide{overflow:visible}.wide svg{min-width:0}"
        ".table table{font-size:.75rem}th,td{padding:.2rem .35rem}}"
    )


_SCRIPT = """
document.querySelectorAll('table').forEach(function (table) {
  var heads = table.querySelectorAll('thead th'), body = table.tBodies[0];
  heads.forEach(function (head, column) {
    head.querySelector('button').addEventListener('click', function () {
      var down = head.getAttribute('aria-sort') === 'ascending';
      heads.forEach(function (other) { other.removeAttribute('aria-sort'); });
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      function key(row) {
        var cell = row.cells[column], given = cell.dataset.sort;
        var value = given === undefined ? cell.textContent : given;
        return value === '' || isNaN(value) ? value.toLowerCase() : Number(value);
      }
      var rows = Array.from(body.rows);
      rows.sort(function (a, b) {
        var x = key(a), y = key(b);
        if (typeof x !== typeof y) { return typeof x === 'number' ? -1 : 1; }
        var order = x < y ? -1 : x > y ? 1 : 0;
        return down ? -order : order;
      });
      rows.forEach(function (row) { body.appendChild(row); });
    });
  });
});
function reveal() {
  var target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === 'DETAILS') { target.open = true; target.scrollIntoView(); }
}
addEventListener('hashchange', reveal);
addEventListener('beforeprint', function () {
  document.querySelectorAll('details').forEach(function (one) { one.open = true; });
});
reveal();
"""
