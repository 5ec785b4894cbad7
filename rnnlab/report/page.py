"""A self-contained page: headings, text, figures and sortable tables in one HTML file, with light and dark modes.

Figures of matplotlib are embedded as SVG. Their colours become CSS variables, so they follow the mode of the page. Only
this module escapes text, so the content of a configuration cannot break the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rnnlab import files
from rnnlab.report.figures import colours, render, themed
from rnnlab.report.numbers import inline, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Cell(NamedTuple):
    """A table cell with more than a text.

    text: text that is shown.
    sort: sort key; None sorts by the text.
    href: target of the link, or None.
    mark: ``good`` (bold), ``bad`` (coloured), or None.
    """

    text: str
    sort: float | str | None = None
    href: str | None = None
    mark: str | None = None

    @property
    def is_number(self) -> bool:
        """Whether the cell is a number, which is right-aligned."""
        return isinstance(self.sort, int | float)


@dataclass
class Page:
    """A page; its elements appear in the order in which they are added.

    Args:
        title: title of the page.
        lead: main result, in one sentence.
    """

    title: str
    lead: str = ""

    def __post_init__(self) -> None:
        self._body: list[str] = []
        self._sections: list[tuple[str, str]] = []
        self._count = self._tables = 0

    def section(self, heading: str, anchor: str | None = None) -> None:
        """Start a section; it appears in the table of contents."""
        anchor = anchor or f"s{len(self._sections) + 1}"
        self._sections.append((anchor, heading))
        self._body.append(f'<h2 id="{escape(anchor)}">{inline(heading)}</h2>')

    def heading(self, text: str) -> None:
        """Add a heading within a section."""
        self._body.append(f"<h3>{inline(text)}</h3>")

    def text(self, text: str, kind: str = "") -> None:
        """Add a paragraph; ``kind`` may be ``warning`` or ``note``."""
        chosen = f' class="{escape(kind)}"' if kind else ""
        self._body.append(f"<p{chosen}>{inline(text)}</p>")

    def code(self, text: str) -> None:
        """Add preformatted text."""
        self._body.append(f"<pre>{escape(text)}</pre>")

    def figure(self, made: Figure | str, alt: str, caption: str = "", is_wide: bool = False, reading: str = "") -> None:
        """Add a figure; consecutive figures are placed side by side.

        Args:
            made: matplotlib figure, or its SVG as returned by `save`.
            alt: alternative text for screen readers.
            caption: text below the figure.
            is_wide: whether the figure takes the full width of the page; on a narrow screen it scrolls horizontally.
            reading: text on how to read the figure, below the caption.
        """
        self._count += 1
        svg = themed(made if isinstance(made, str) else render(made, "figure"), alt, f"f{self._count}-")
        said = f"<p>{inline(caption)}</p>" if caption else ""
        said += f"<p><b>How to read this.</b> {inline(reading)}</p>" if reading else ""
        below = f"<figcaption>{said}</figcaption>" if said else ""
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
        """Add a table that can be sorted by any column.

        Args:
            columns: headings of the columns.
            rows: rows of cells; a cell is a text, a number, None (shown as a dash) or a `Cell`.
            caption: text above the table.
        """
        cells = [[_as_cell(cell) for cell in row] for row in rows]
        numbers = {place for row in cells for place, cell in enumerate(row) if cell.is_number}
        looks = [' class="n"' if place in numbers else "" for place in range(len(columns))]
        head = "".join(
            f'<th scope="col"{look}><button type="button">{inline(name)}</button></th>'
            for name, look in zip(columns, looks, strict=True)
        )
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in cells)
        self._tables += 1
        # Outside the table: a <caption> would be as wide as the table. The region can be scrolled with the keyboard.
        named = f'<p class="caption" id="t{self._tables}">{inline(caption)}</p>' if caption else ""
        label = f'aria-labelledby="t{self._tables}"' if caption else 'aria-label="table"'
        self._body.append(
            f'{named}<div class="table" tabindex="0" role="region" {label}><table {label}><thead><tr>{head}</tr>'
            f'</thead><tbody>{body}</tbody></table></div><p class="hint" hidden>Scroll sideways for more columns.</p>'
        )

    def details(self, summary: str, anchor: str, rows: Sequence[tuple[str, str | None]]) -> None:
        """Add a collapsible list, which opens on a click or when a link targets it; ``rows`` are (text, href) pairs."""
        items = "".join(f"<li>{_link(text, href)}</li>" for text, href in rows)
        self._body.append(
            f'<details id="{escape(anchor)}"><summary>{inline(summary)}</summary><ul>{items}</ul></details>'
        )

    def html(self) -> str:
        """The page as an HTML document."""
        contents = "".join(f'<li><a href="#{escape(a)}">{inline(h)}</a></li>' for a, h in self._sections)
        nav = f'<nav aria-label="Contents"><ul>{contents}</ul></nav>' if len(self._sections) > 2 else ""
        lead = f'<p class="lead">{inline(self.lead)}</p>' if self.lead else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<link rel="icon" href="data:,">'
            f"<title>{escape(self.title)}</title><style>{colours()}{_asset('page.css')}</style></head>\n<body><main>"
            f"<h1>{inline(self.title)}</h1>{lead}{nav}\n"
            + "\n".join(self._body)
            + f"\n</main><script>{_asset('page.js')}</script></body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page to ``path`` atomically."""
        files.write_bytes(Path(path), self.html().encode())


def _as_cell(cell: Cell | str | float | None) -> Cell:
    if isinstance(cell, Cell):
        return cell
    return Cell(cell) if isinstance(cell, str) else Cell(number(cell), cell)


def _cell(cell: Cell) -> str:
    key = str(cell.sort).replace("inf", "Infinity") if cell.is_number else str(cell.sort)  # the spelling of JavaScript
    sort = "" if cell.sort is None else f' data-sort="{escape(key)}"'
    names = [name for name, holds in (("n", cell.is_number), (cell.mark, cell.mark)) if holds]
    chosen = f' class="{" ".join(names)}"' if names else ""
    return f"<td{sort}{chosen}>{_link(cell.text, cell.href)}</td>"


def _link(text: str, href: str | None) -> str:
    return f'<a href="{escape(href)}">{inline(text)}</a>' if href else inline(text)


def _asset(name: str) -> str:
    """The text of a file in this folder."""
    return resources("rnnlab.report").joinpath(name).read_text(encoding="utf-8")
