"""Draw a data flow from left to right as SVG: boxes in columns, ordered so that few lines cross.

The layout follows Sugiyama, Tagawa and Toda (1981, doi:10.1109/TSMC.1981.4308636). A box stands one column to the right
of the last box that it reads. Long lines get a waypoint in each column that they pass. Sweeps over the columns sort
each by the mean position of its neighbours, and the heights minimise the squared slopes of the lines.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from html import escape

GAP, SPACE, HEIGHT, TEXT = 34, 12, 26, 13
"""Pixels between columns and between rows, height of a box, and size of the letters."""
FILLS = {
    "leaf": "#ffffff",
    "result": "#ffffff",
    "product": "#cfe3f7",
    "function": "#fde2b8",
    "arithmetic": "#e9edf0",
    "columns": "#8a97a3",
}
"""Colour of each kind of box."""
INK, LINE, BACK = "#1b1f24", "#5d6b78", "#b3541e"


@dataclass(eq=False)
class Box:
    """One box: its texts from left to right, its kind (a key of `FILLS`), and the number of its exits."""

    texts: tuple[str, ...]
    kind: str
    exits: int = 1
    column: int = 0
    y: float = 0.0
    x: float = 0.0

    @property
    def is_waypoint(self) -> bool:
        """Whether a line only passes here."""
        return self.kind == "waypoint"

    @property
    def widths(self) -> list[float]:
        """The width of each text with its margins, in pixels."""
        return [16 + 0.6 * TEXT * len(text) for text in self.texts]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        if self.kind == "columns":
            return 8, max(HEIGHT, 22 * self.exits)
        return (0, 6) if self.is_waypoint else (max(sum(self.widths), HEIGHT), HEIGHT)

    def exit(self, number: int) -> tuple[float, float]:
        """The point at which a line leaves the box."""
        width, height = self.size
        return self.x + width, self.y + height * ((number + 0.5) / self.exits - 0.5)


@dataclass(eq=False)
class Line:
    """A line from an exit of a box to another box, with a text at each end."""

    start: Box
    end: Box
    exit: int = 0
    tail: str = ""
    head: str = ""


@dataclass
class Diagram:
    """Boxes, each after all boxes that it reads; the lines between them; and lines back in time.

    feedback: pairs ``(result, leaf)`` of boxes.
    """

    boxes: list[Box] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    feedback: list[tuple[Box, Box]] = field(default_factory=list)

    def svg(self, title: str) -> str:
        """The drawing as an SVG file, with ``title`` as its description for readers who do not see it."""
        columns, pieces = _columns(self)
        _order(columns, pieces)
        _place(columns, pieces)
        return _svg(self, columns, pieces, title)


def _columns(diagram: Diagram) -> tuple[list[list[Box]], list[Line]]:
    """Assign the columns; return the boxes and waypoints of each, and the lines cut at every waypoint."""
    reads = defaultdict(list)
    for line in diagram.lines:
        reads[line.end].append(line.start)
    for box in diagram.boxes:
        box.column = max((start.column + 1 for start in reads[box]), default=0)
    last = max(box.column for box in diagram.boxes)
    for box in diagram.boxes:
        if box.kind == "result":
            box.column = last
    columns: list[list[Box]] = [[] for _ in range(last + 1)]
    for box in diagram.boxes:
        columns[box.column].append(box)
    pieces: dict[tuple[Box, int, Box], Line] = {}
    waypoints: dict[tuple[Box, int, int], Box] = {}
    for line in diagram.lines:
        at, number = line.start, line.exit
        for column in range(line.start.column + 1, line.end.column):
            key = (line.start, line.exit, column)  # the lines of one value run together as long as they can
            if key not in waypoints:
                waypoints[key] = Box((), "waypoint", column=column)
                columns[column].append(waypoints[key])
            tail = line.tail if at is line.start else ""
            pieces.setdefault((at, number, waypoints[key]), Line(at, waypoints[key], number, tail))
            at, number = waypoints[key], 0
        tail = line.tail if at is line.start else ""
        pieces[at, number, line.end] = Line(at, line.end, number, tail, line.head)
    return columns, list(pieces.values())


def _order(columns: list[list[Box]], pieces: list[Line], sweeps: int = 24) -> None:
    """Sort each column so that few lines cross; the best order of all sweeps stays."""
    best = [list(column) for column in columns]
    fewest = _crossings(columns, pieces)
    for sweep in range(sweeps):
        forward = sweep % 2 == 0
        spot = _spots(columns)
        for column in columns[1:] if forward else columns[-2::-1]:
            near: dict[Box, list[float]] = defaultdict(list)
            for piece in pieces:
                if forward and piece.end in column:
                    near[piece.end].append(spot[piece.start] + piece.exit / (piece.start.exits + 1))
                if not forward and piece.start in column:
                    near[piece.start].append(spot[piece.end])
            middle = {box: sum(near[box]) / len(near[box]) if near[box] else spot[box] for box in column}
            column.sort(key=middle.__getitem__)
            spot |= {box: float(number) for number, box in enumerate(column)}
        _exchange(columns, pieces)
        if (count := _crossings(columns, pieces)) < fewest:
            fewest, best = count, [list(column) for column in columns]
    for column, order in zip(columns, best, strict=True):
        column[:] = order


def _exchange(columns: list[list[Box]], pieces: list[Line]) -> None:
    """Exchange neighbours in a column as long as fewer lines cross then."""
    for number, column in enumerate(columns):
        around = [p for p in pieces if number in (p.start.column, p.end.column)]
        near, improved = columns[max(number - 1, 0) : number + 2], True
        while improved:
            improved = False
            for first in range(len(column) - 1):
                before = _crossings(near, around)
                column[first], column[first + 1] = column[first + 1], column[first]
                if _crossings(near, around) < before:
                    improved = True
                else:
                    column[first], column[first + 1] = column[first + 1], column[first]


def _spots(columns: list[list[Box]]) -> dict[Box, float]:
    return {box: float(number) for column in columns for number, box in enumerate(column)}


def _crossings(columns: list[list[Box]], pieces: list[Line]) -> int:
    """The number of pairs of lines that cross between two columns."""
    spot, between = _spots(columns), defaultdict(list)
    for piece in pieces:
        start = spot[piece.start] + piece.exit / (piece.start.exits + 1)
        between[piece.start.column].append((start, spot[piece.end]))
    return sum(
        (a[0] - b[0]) * (a[1] - b[1]) < 0
        for ends in between.values()
        for number, a in enumerate(ends)
        for b in ends[:number]
    )


def _place(columns: list[list[Box]], pieces: list[Line], sweeps: int = 40) -> None:
    """Set the coordinates: columns from left to right, heights by repeated projection onto the order."""
    x = 0.0
    for column in columns:
        width = max(box.size[0] for box in column)
        for box in column:
            box.x = x if box.kind == "leaf" else x + (width - box.size[0]) / 2
        x += width + GAP * (1.5 if any(box.kind == "columns" for box in column) else 1)
        _spread(column, dict.fromkeys(column, (0.0, 0.001)))
    for sweep in range(sweeps):
        for column in columns if sweep % 2 == 0 else columns[::-1]:
            wanted = {box: _wanted(box, pieces) for box in column}
            _spread(column, wanted)


def _wanted(box: Box, pieces: list[Line]) -> tuple[float, float]:
    """The height at which the lines of a box are straightest, and the weight of this wish."""
    pulls = [(box.y, 0.01)]
    for piece in pieces:
        if box in (piece.start, piece.end):
            shift = piece.start.exit(piece.exit)[1] - piece.start.y
            height = piece.end.y - shift if piece.start is box else piece.start.y + shift
            pulls.append((height, (1.0, 4.0, 16.0)[piece.start.is_waypoint + piece.end.is_waypoint]))
    total = sum(weight for _, weight in pulls)
    return sum(height * weight for height, weight in pulls) / total, total


def _spread(column: list[Box], wanted: dict[Box, tuple[float, float]]) -> None:
    """Move the boxes of a column to their wanted heights, as near as their order and the space between them allow.

    This is isotonic regression: boxes that would overlap form a block, which stands at its weighted mean.
    """
    offsets, offset = [], 0.0
    for above, box in zip([None, *column], column, strict=False):
        offset += 0 if above is None else (above.size[1] + box.size[1]) / 2 + SPACE
        offsets.append(offset)
    blocks: list[list[float]] = []  # weighted mean, weight, number of boxes
    for box, shift in zip(column, offsets, strict=True):
        height, weight = wanted[box]
        blocks.append([height - shift, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, v, m), (b, w, n) = blocks[-2:]
            blocks[-2:] = [[(a * v + b * w) / (v + w), v + w, m + n]]
    heights = [mean for mean, _, count in blocks for _ in range(int(count))]
    for box, shift, height in zip(column, offsets, heights, strict=True):
        box.y = height + shift


def _svg(diagram: Diagram, columns: list[list[Box]], pieces: list[Line], title: str) -> str:
    boxes = [box for column in columns for box in column]
    top = min(box.y - box.size[1] / 2 for box in boxes) - 16
    bottom = max(box.y + box.size[1] / 2 for box in boxes) + 16
    left, right = -20 - 8 * len(diagram.feedback), max(box.x + box.size[0] for box in boxes)
    right += 20 + 8 * len(diagram.feedback)
    loops = [_loop(result, leaf, n, bottom) for n, (result, leaf) in enumerate(diagram.feedback)]
    bottom += 10 * len(loops)
    width, height = right - left, bottom - top
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="{left:.0f} {top:.0f} {width:.0f} {height:.0f}" role="img" '
            f'font-family="DejaVu Sans, Segoe UI, Helvetica, Arial, sans-serif" font-size="{TEXT}" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0,0.5L8,4L0,7.5z" fill="{LINE}"/></marker></defs>',
            f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" rx="8" fill="white"/>',
            f'<g fill="none" stroke="{BACK}" stroke-width="1.2" stroke-dasharray="5 4">',
            *loops,
            "</g>",
            f'<g fill="none" stroke="{LINE}" stroke-width="1.3">',
            *map(_path, pieces),
            "</g>",
            *(_drawn(box) for box in diagram.boxes),
            *map(_ends, pieces),
            "</svg>\n",
        ]
    )


def _path(piece: Line) -> str:
    """A piece of a line, with horizontal tangents at both ends."""
    (x, y), (to, down) = piece.start.exit(piece.exit), (piece.end.x, piece.end.y)
    bend = (to - x) / 2
    head = "" if piece.end.is_waypoint else ' marker-end="url(#head)"'
    return f'<path d="M{x:.1f},{y:.1f}C{x + bend:.1f},{y:.1f} {to - bend:.1f},{down:.1f} {to:.1f},{down:.1f}"{head}/>'


def _ends(piece: Line) -> str:
    """The texts at the ends of a line."""
    x, y = piece.start.exit(piece.exit)
    small = f'font-size="{TEXT - 3}" fill="{LINE}" stroke="white" stroke-width="3" paint-order="stroke"'
    tail = f'<text x="{x + 4:.1f}" y="{y - 4:.1f}" {small}>{escape(piece.tail)}</text>'
    # The head of the line arrives horizontally; the side from which it comes is free on the other side.
    side = -5 if y <= piece.end.y else 12
    at = f'x="{piece.end.x - 9:.1f}" y="{piece.end.y + side:.1f}" text-anchor="end"'
    head = f"<text {at} {small}>{escape(piece.head)}</text>"
    return (tail if piece.tail else "") + (head if piece.head else "")


def _drawn(box: Box) -> str:
    """A box with its texts, separated by thin lines."""
    width, height = box.size
    stroke = BACK if box.kind in ("leaf", "result") else LINE
    radius = 3 if box.kind == "columns" else height / 2
    parts = [
        f'<rect x="{box.x:.1f}" y="{box.y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'rx="{radius:.0f}" fill="{FILLS[box.kind]}" stroke="{stroke}"/>'
    ]
    x = box.x + (width - sum(box.widths)) / 2
    for number, (text, wide) in enumerate(zip(box.texts, box.widths, strict=True)):
        if number:
            parts.append(f'<path d="M{x:.1f},{box.y - height / 2:.1f}v{height:.0f}" stroke="{LINE}" opacity="0.5"/>')
        parts.append(f'<text x="{x + wide / 2:.1f}" y="{box.y + 4.5:.1f}" text-anchor="middle">{escape(text)}</text>')
        x += wide
    return "".join(parts)


def _loop(result: Box, leaf: Box, number: int, bottom: float) -> str:
    """The dashed line from a new state around the drawing to the state that the next step reads."""
    right, low = result.x + result.size[0], bottom + 10 * number - 4
    out, back = right + 10 + 8 * number, leaf.x - 10 - 8 * number
    return (
        f'<path d="M{right:.1f},{result.y:.1f}H{out:.1f}V{low:.1f}H{back:.1f}V{leaf.y:.1f}H{leaf.x:.1f}" '
        'stroke-linejoin="round"/>'
    )
